"""Tracks, scores, plots and the report of a run."""
