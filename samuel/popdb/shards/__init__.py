"""POPDB on disk, or behind a URL.

shards/NNNNN-DDDDDDDDDDDD.safetensors   the latents: number, and the first digits of the digest
index.parquet        a row per pair: what it is and where it lies
songs.parquet        a row per song of the list, whatever became of it
tombstones.parquet   rows of shards that are in no pair any more
stats.json           mean and deviation of each channel, over the training pairs
README.md            the dataset card
dataset.json         format, what it was made of, counts, size and digest of every other file
"""

from samuel.popdb.shards.index import INDEX_SCHEMA
from samuel.popdb.shards.manifest import FORMAT_VERSION
from samuel.popdb.shards.reader import PairDataset, Popdb, open_popdb
from samuel.popdb.shards.tensors import STREAMS
from samuel.popdb.shards.writer import compact, require_place, write_popdb

__all__ = [
    "FORMAT_VERSION",
    "INDEX_SCHEMA",
    "STREAMS",
    "PairDataset",
    "Popdb",
    "compact",
    "open_popdb",
    "require_place",
    "write_popdb",
]
