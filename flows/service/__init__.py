"""What `make serve` runs: a Prefect server, a worker, the watch over silent runs, a page of reports."""
