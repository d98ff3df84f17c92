"""SAMUeL: an accompaniment for a vocal, and the dataset it learns from (arXiv 2507.19991)."""

import os

__version__ = "0.1.0"

# Read by libgomp when torch is first imported. Its threads spin at every barrier, which on a machine with
# other work costs ten times the time; some thousand turns give up little on a quiet one.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
