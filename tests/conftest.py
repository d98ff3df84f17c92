import os

# Tests are many small operations: threads would only wait for one another, and sums would depend on them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
