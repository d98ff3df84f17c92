"""POPDB, the dataset: from a list of songs to normalised batches."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "open_popdb":
        raise AttributeError(f"module 'samuel.popdb' has no attribute {name!r}")
    from samuel.popdb.dataset import open_popdb  # what only downloads needs no torch

    return open_popdb
