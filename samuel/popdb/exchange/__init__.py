"""Datasets from elsewhere, and for elsewhere."""
