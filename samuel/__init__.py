"""SAMUeL: an accompaniment for a vocal, and the dataset it learns from (arXiv 2507.19991)."""

__version__ = "0.1.0"
