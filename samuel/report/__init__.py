"""Pages that people look at: plots, contact sheets, comparisons and the report of a run."""
