"""Tracks and their scores."""
