"""Opening a dataset and reading its pairs.

Shapes: N pairs, C = 64 latent channels, T = 1024 frames.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor
from torch.utils.data import Dataset

from samuel.errors import DatasetError, InputError, NewerFormatError
from samuel.popdb.shards.commit import State, damaged, state_of
from samuel.popdb.shards.folder import Folder, LocalFolder
from samuel.popdb.shards.index import INDEX, INDEX_SCHEMA, TOMBSTONE_SCHEMA, TOMBSTONES, Row
from samuel.popdb.shards.manifest import SHARD, SONGS, STATS, Manifest, Stats
from samuel.popdb.shards.open_shards import OpenShards
from samuel.popdb.shards.remote import folder_of
from samuel.popdb.shards.tensors import as_tensors, empty_batch, pair_sha256
from samuel.popdb.songs import SONGS_SCHEMA
from samuel.popdb.tables import read_table

SPLITS = ("train", "validation")


@dataclass(frozen=True, eq=False)
class Popdb:
    """A dataset that was opened: its index in memory, its shards where they are.

    Attributes:
        state: Where it lies, and `dataset.json`.
        stats: `stats.json`: for each stream, mean and deviation of each channel over the training pairs.
        table: `index.parquet`, in the order of pair ids.
        made: True when this run wrote it.
    """

    state: State
    stats: dict[str, dict[str, list[float]]] = field(repr=False)
    table: pa.Table = field(repr=False)
    made: bool = False
    shards: OpenShards = field(default_factory=OpenShards, repr=False)

    @property
    def info(self) -> dict[str, Any]:
        """`dataset.json`."""
        return self.state.info

    @property
    def location(self) -> str:
        """Its path or URL, for people."""
        return self.state.folder.location

    @property
    def root(self) -> Path:
        """Its folder.

        Raises:
            DatasetError: It lies behind a URL.
        """
        folder = self.state.folder
        if not isinstance(folder, LocalFolder):
            raise DatasetError(f"{self.location}: not a folder of this machine")
        return folder.path

    @cached_property
    def index(self) -> list[Row]:
        """A dict per pair."""
        return self.table.to_pylist()

    @cached_property
    def tombstones(self) -> list[Row]:
        """The rows of shards that are in no pair any more."""
        return read_table(self.state.read(TOMBSTONES), TOMBSTONE_SCHEMA).to_pylist()

    def pairs(self, split: str) -> list[Row]:
        """The index rows of `train` or `validation`."""
        _require_split(split)
        return [row for row in self.index if row["split"] == split]

    def songs(self, columns: Sequence[str] | None = None) -> pa.Table:
        """`songs.parquet`: a row per song of the list; all columns, or some."""
        return read_table(self.state.read(SONGS), SONGS_SCHEMA, columns)

    def vocal_shares(self) -> list[float]:
        """Vocal share of every chunk that was measured, those that were left out included."""
        chunks = self.songs(["vocal_shares"])["vocal_shares"].to_pylist()
        return [share for shares in chunks for share in shares if share is not None]

    def read(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Vocal and accompaniment latents of index rows, each float16 (len(rows), C, T)."""
        return read_rows(self.state.folder, self.shards, rows, self.info["chunk_frames"])

    def read_checked(self, row: Row) -> tuple[Tensor, Tensor]:
        """The latents of one pair, each float16 (C, T), if they are those that were written.

        Raises:
            DatasetError: They are not, or cannot be read.
        """
        vocal, accompaniment = self.read([row])
        if pair_sha256(vocal[0], accompaniment[0]) != row["pair_sha256"]:
            remedy = "run samuel verify --repair"
            raise DatasetError(f"{self.location}: {row['pair_id']}: not the latents of the index; {remedy}")
        return vocal[0], accompaniment[0]

    def dataset(self, split: str) -> "PairDataset":
        """The pairs of `train` or `validation` as a dataset for `torch.utils.data`."""
        _require_split(split)
        return PairDataset(self, self.table.filter(pc.field("split") == split))


def _require_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"no split {split!r}; there are {' and '.join(SPLITS)}")


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """The pairs of a split, in the order of the index; each is vocal and accompaniment, float16 (C, T).

    It can be handed to `DataLoader` as it is. Each worker opens the shards that it reads.
    """

    def __init__(self, popdb: Popdb, table: pa.Table) -> None:
        self.frames = popdb.info["chunk_frames"]
        self.pair_ids: list[str] = table["pair_id"].to_pylist()
        self._folder, self._open = popdb.state.folder, OpenShards()
        # One Python object for each shard, not for each pair: workers copy pages they count references in.
        names = table["shard"].combine_chunks().dictionary_encode()
        digests = dict(zip(table["shard"].to_pylist(), table["shard_sha256"].to_pylist(), strict=True))
        self._shards = [(name, digests[name]) for name in names.dictionary.to_pylist()]
        self._paths: list[Path | None] = [None] * len(self._shards)
        self._shard_of = names.indices.to_numpy()
        self._rows = table["row"].to_numpy()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        vocal, accompaniment = self.batch([place])
        return vocal[0], accompaniment[0]

    def __getitems__(self, places: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self.batch(places), strict=True))

    def batch(self, places: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Vocal and accompaniment of several pairs, each float16 (B, C, T)."""
        batch = empty_batch(len(places), self.frames)
        where = [(self._path(self._shard_of[place]), int(self._rows[place])) for place in places]
        self._open.read(where, batch)
        return as_tensors(batch)

    def _path(self, shard: int) -> Path:
        path = self._paths[shard]
        if path is None:
            path = self._paths[shard] = self._folder.at_hand(*self._shards[shard])
        return path


def read_rows(folder: Folder, shards: OpenShards, rows: Sequence[Row], frames: int) -> tuple[Tensor, Tensor]:
    """The latents of rows that lie in shards of a folder, each float16 (len(rows), C, frames)."""
    batch = empty_batch(len(rows), frames)
    where = [(folder.at_hand(row["shard"], row["shard_sha256"]), row["row"]) for row in rows]
    shards.read(where, batch)
    return as_tensors(batch)


def open_popdb(location: Path | str, cache: Path | None = None) -> Popdb:
    """Open the dataset at a path or URL.

    Args:
        location: A folder, or a URL that fsspec knows: `s3://bucket/popdb`.
        cache: Where shards from a URL are kept on this machine; none: `samuel/shards` in the user's cache.

    Raises:
        DatasetError: There is none, it is damaged, or its format is not this version's.
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    return open_folder(folder_of(location, cache))


def open_folder(folder: Folder) -> Popdb:
    """Open the dataset in a folder; see `open_popdb`."""
    state = state_of(folder)
    while True:
        try:
            return _open(state)
        except DatasetError:
            now = state_of(folder)
            if now.info == state.info and now.pending == state.pending:
                raise
            state = now  # it was being replaced by a new one


def _open(state: State) -> Popdb:
    try:
        Manifest.model_validate(state.info)
        table = read_table(state.read(INDEX), INDEX_SCHEMA)
        _check_names(table)
        stats = json.loads(state.read(STATS))
        Stats.model_validate(stats)
        return Popdb(state, stats, table)
    except (ValueError, RecursionError) as error:
        raise damaged(state.folder, error) from error


def _check_names(table: pa.Table) -> None:
    """A dataset of somebody else's names no file outside its folder."""
    for name in table["shard"].unique().to_pylist():
        if not SHARD.fullmatch(str(name)):
            raise ValueError(f"{name!r} is no name of a shard")


def readable(folder: Folder) -> Popdb | None:
    """The dataset in a folder; None where there is none, or a damaged one, or one of an older format.

    Raises:
        DatasetError: Its format is newer than this version's.
    """
    try:
        popdb = open_folder(folder)
        _ = popdb.tombstones, popdb.songs()
    except NewerFormatError:
        raise
    except DatasetError:
        return None
    return popdb
