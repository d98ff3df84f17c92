"""POPDB: what its files are, opening it, reading its pairs.

shards/DIGEST.safetensors   the latents of at most 256 pairs, in the order of the index
index-DIGEST.parquet        a row per pair: what it is and where it lies
songs-DIGEST.parquet        a row per song of the list, whatever became of it
README.md                   the dataset card
dataset.json                what it was made of, counts, statistics; size and digest of every other file

A file with a digest in its name never changes. What `dataset.json` names is the dataset: it is replaced in
one step, when all that it names is there. The card keeps its plain name, under which the Hugging Face hub
looks for it.

Shapes: N pairs, C latent channels, T frames.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from samuel.codecs import CodecInfo
from samuel.errors import DatasetError, InputError, NewerFormatError, first_fault
from samuel.popdb.folder import Folder, UrlFolder, open_folder
from samuel.popdb.shards import ShardReader, as_tensors, empty_batch, pair_sha256
from samuel.popdb.tables import INDEX_SCHEMA, SONGS_SCHEMA, Row, read_table

FORMAT_VERSION = 4
MANIFEST, CARD = "dataset.json", "README.md"
SPLITS = ("train", "validation")
REBUILD = "run build-popdb again, or import it again"
MOST_MANIFEST_BYTES, MOST_TABLE_BYTES, MOST_SHARD_BYTES = 2**24, 2**28, 2**31
OWN_NAME = re.compile(r"shards/[0-9a-f]{16}[.]safetensors|(index|songs)-[0-9a-f]{16}[.]parquet|README[.]md")

Name = Annotated[str, Field(pattern=f"^({OWN_NAME.pattern})$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
Identity = Annotated[str, Field(max_length=1000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PerChannel = Field(min_length=1, max_length=4096)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ListedFile(_Strict):
    """A file that `dataset.json` names."""

    bytes: Annotated[int, Field(ge=0, le=MOST_SHARD_BYTES)]
    sha256: Sha256


class WrittenWith(_Strict):
    """Of the settings, what a dataset was written with; any other stands beside."""

    model_config = ConfigDict(extra="allow")

    pairs_per_shard: Annotated[int, Field(ge=1, le=256)]
    min_vocal_share: Annotated[float, Field(ge=0, le=1)]


class Counts(_Strict):
    """What there is of everything."""

    songs_listed: Natural
    songs_kept: Natural
    chunks: Natural
    chunks_left_out: Natural
    pairs: Natural
    train: Natural
    validation: Natural
    shards: Natural


class Statistics(_Strict):
    """Of a stream over the training pairs: a number for each channel."""

    mean: Annotated[list[Finite], PerChannel]
    std: Annotated[list[Annotated[Finite, Field(gt=0)]], PerChannel]


class Stats(_Strict):
    """Of both streams."""

    vocal: Statistics
    accompaniment: Statistics


class Manifest(_Strict):
    """`dataset.json`."""

    format_version: Literal[4]
    content_sha256: Sha256
    source: Identity
    separator: Identity | None
    codec: CodecInfo
    chunk_frames: Annotated[int, Field(ge=8, le=2**16)]
    settings: WrittenWith
    counts: Counts
    stats: Stats
    index: Name
    songs: Name
    files: Annotated[dict[Name, ListedFile], Field(max_length=2**16)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if missing := {self.index, self.songs, CARD} - self.files.keys():
            raise ValueError(f"files: without {', '.join(sorted(missing))}")
        for name, file in self.files.items():
            if name != CARD and file.sha256[:16] not in name:
                raise ValueError(f"files: {name} has the digest {file.sha256}")
        for stream in (self.stats.vocal, self.stats.accompaniment):
            if not len(stream.mean) == len(stream.std) == self.codec.channels:
                raise ValueError(f"stats: of other channels than the codec's {self.codec.channels}")
        return self


class _Format(BaseModel):
    format_version: int


@dataclass(frozen=True, eq=False)
class Popdb:
    """A dataset that was opened: its index in memory, its shards where they are."""

    folder: Folder
    info: dict[str, Any] = field(repr=False)  # `dataset.json`; `Manifest` is its schema
    table: pa.Table = field(repr=False)  # the index
    made: bool = False  # this run wrote it
    reader: ShardReader = field(default_factory=ShardReader, repr=False)

    @property
    def codec(self) -> CodecInfo:
        """The codec that its latents are of."""
        return CodecInfo.model_validate(self.info["codec"])

    @property
    def location(self) -> str:
        """Its path or URL, for people."""
        return self.folder.location

    @property
    def root(self) -> Path:
        """Its folder; a DatasetError where it lies behind a URL."""
        if isinstance(self.folder, UrlFolder):
            raise DatasetError(f"{self.location}: not a folder of this machine")
        return self.folder.path

    @property
    def stats(self) -> dict[str, dict[str, list[float]]]:
        """For each stream, mean and deviation of each channel over the training pairs."""
        return self.info["stats"]

    @property
    def shape(self) -> tuple[int, int]:
        """Of one stream of a pair: (C, T)."""
        return len(self.stats["vocal"]["mean"]), self.info["chunk_frames"]

    @cached_property
    def index(self) -> list[Row]:
        """A dict per pair."""
        return self.table.to_pylist()

    def pairs(self, split: str) -> list[Row]:
        """The index rows of `train` or `validation`."""
        _require_split(split)
        return [row for row in self.index if row["split"] == split]

    def songs(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row per song of the list; all columns, or some."""
        return read_listed(self.folder, self.info, "songs", columns)

    def vocal_shares(self) -> list[float]:
        """Vocal share of every chunk that was measured, those that were left out included."""
        chunks = self.songs(["vocal_shares"])["vocal_shares"].to_pylist()
        return [share for shares in chunks for share in shares if share is not None]

    def read(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Vocal and accompaniment latents of index rows, each float16 (len(rows), C, T)."""
        batch, files = empty_batch(len(rows), *self.shape), self.info["files"]
        paths = {name: self.folder.fetch(name, files[name]["sha256"]) for name in {r["shard"] for r in rows}}
        self.reader.read([(paths[row["shard"]], row["row"]) for row in rows], batch)
        return as_tensors(batch)

    def read_checked(self, row: Row) -> tuple[Tensor, Tensor]:
        """The latents of one pair, each float16 (C, T); a DatasetError where they are not as written."""
        vocal, accompaniment = self.read([row])
        if pair_sha256(vocal[0], accompaniment[0]) != row["pair_sha256"]:
            raise DatasetError(f"{self.location}: {row['pair_id']}: not the latents of the index; {REBUILD}")
        return vocal[0], accompaniment[0]

    def dataset(self, split: str) -> "PairDataset":
        """The pairs of `train` or `validation` as a dataset for `torch.utils.data`."""
        _require_split(split)
        return PairDataset(self, self.table.filter(pc.field("split") == split))


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """The pairs of a split, in the order of the index; each is vocal and accompaniment, float16 (C, T).

    It can be handed to `DataLoader` as it is. Each worker opens the shards that it reads.
    """

    def __init__(self, popdb: Popdb, table: pa.Table) -> None:
        self.shape = popdb.shape
        self.pair_ids: list[str] = table["pair_id"].to_pylist()
        self._folder, self._reader = popdb.folder, ShardReader()
        # One Python object for each shard, not for each pair: workers copy pages they count references in.
        names = table["shard"].combine_chunks().dictionary_encode()
        self._shards = [(name, popdb.info["files"][name]["sha256"]) for name in names.dictionary.to_pylist()]
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
        batch = empty_batch(len(places), *self.shape)
        where = [(self._path(self._shard_of[place]), int(self._rows[place])) for place in places]
        self._reader.read(where, batch)
        return as_tensors(batch)

    def _path(self, shard: int) -> Path:
        path = self._paths[shard]
        if path is None:
            path = self._paths[shard] = self._folder.fetch(*self._shards[shard])
        return path


def open_popdb(location: Path | str, cache: Path | None = None) -> Popdb:
    """Open the dataset at a path or URL; see `open_folder` for the arguments.

    Raises:
        DatasetError: There is none, it is damaged, or its format is not this version's.
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    return read_popdb(open_folder(location, cache))


def read_popdb(folder: Folder) -> Popdb:
    """Open the dataset in a folder; see `open_popdb`."""
    info = read_manifest(folder)
    while True:
        try:
            table = read_listed(folder, info, "index")
            break
        except DatasetError:
            now = read_manifest(folder)
            if now == info:
                raise
            info = now  # it was being replaced by a new one
    if unknown := set(table["shard"].unique().to_pylist()) - info["files"].keys():
        raise DatasetError(f"{folder.location}: {MANIFEST} does not name {min(unknown)!r}; {REBUILD}")
    return Popdb(folder, info, table)


def read_manifest(folder: Folder) -> dict[str, Any]:
    """The content of `dataset.json`, as it is now; a DatasetError where it cannot be one of this version."""
    content = folder.read(MANIFEST, MOST_MANIFEST_BYTES)
    if content is None:
        remedy = "run the flow build-popdb, or samuel import-popdb"
        raise DatasetError(f"{folder.location}: no dataset here ({MANIFEST} is missing); {remedy}")
    try:
        found = _Format.model_validate_json(content).format_version
        if found != FORMAT_VERSION:
            newer = found > FORMAT_VERSION
            kind, remedy = (NewerFormatError, "update samuel") if newer else (DatasetError, REBUILD)
            raise kind(f"{folder.location}: format {found}, this version reads {FORMAT_VERSION}; {remedy}")
        return Manifest.model_validate_json(content).model_dump(mode="json")
    except ValidationError as error:
        fault = first_fault(error).removeprefix(": ")
        raise DatasetError(f"{folder.location}: {MANIFEST}: {fault}; {REBUILD}") from error


def read_listed(
    folder: Folder,
    info: dict[str, Any],
    table: Literal["index", "songs"],
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """The index, or the songs; a DatasetError where its bytes are not those that `dataset.json` names."""
    name = info[table]
    content = folder.read(name, MOST_TABLE_BYTES)
    if content is None or hashlib.sha256(content).hexdigest() != info["files"][name]["sha256"]:
        fault = "missing" if content is None else f"its bytes are not those {MANIFEST} names"
        replaced = read_manifest(folder) != info
        remedy = "the dataset was replaced meanwhile, open it again" if replaced else REBUILD
        raise DatasetError(f"{folder.location}: {name}: {fault}; {remedy}")
    schema = INDEX_SCHEMA if table == "index" else SONGS_SCHEMA
    rows = info["counts"]["pairs" if table == "index" else "songs_listed"]
    try:
        return read_table(content, schema, columns, rows)
    except ValueError as error:
        raise DatasetError(f"{folder.location}: {name}: {error}; {REBUILD}") from error


def content_digest(rows: Iterable[Row]) -> str:
    """What stands for the pairs of a dataset and their split, whatever else is known of them.

    The sha256 of a line `pair_id pair_sha256 split` for each, in the order of the index.
    """
    lines = (f"{row['pair_id']} {row['pair_sha256']} {row['split']}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _require_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"no split {split!r}; there are {' and '.join(SPLITS)}")
