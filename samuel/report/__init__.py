"""What people look at: plots, contact sheets, and the report of a run."""
