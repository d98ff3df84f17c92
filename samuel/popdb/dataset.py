"""POPDB: what its files are, opening it, reading its pairs.

shards/DIGEST.safetensors   `vocal` and `accompaniment` of at most 256 pairs, each float16 (N, C, T)
index-DIGEST.parquet        a row per pair: what it is and where it lies
songs-DIGEST.parquet        a row per song of the list, whatever became of it
README.md                   the dataset card
dataset.json                what it was made of, counts, statistics; size and digest of every other file

A file with a digest in its name never changes; `dataset.json` is replaced when all that it names is there.

Shapes: N pairs of a shard, B pairs of a batch, C latent channels, T frames.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, model_validator
from safetensors.numpy import save
from torch import Tensor
from torch.utils.data import Dataset

from samuel.artifacts import FileRecord
from samuel.codecs import CodecInfo
from samuel.config import MOST_FRAMES
from samuel.errors import DatasetError, InputError, NewerFormatError, first_fault
from samuel.popdb.folder import REMEDY, Folder, open_folder
from samuel.popdb.tables import INDEX_SCHEMA, MOST_TABLE_BYTES, SONGS_SCHEMA, Row, read_table
from samuel.reading import open_regular

STREAMS = ("vocal", "accompaniment")
LONGEST_HEADER, MOST_OPEN = 2**16, 128  # a process may have 256 files open on some systems
CONSTANT = 1e-4  # a channel with less of a deviation never changes
FORMAT_VERSION = 4
MANIFEST, CARD = "dataset.json", "README.md"
SPLITS = ("train", "validation")
REBUILD = "run build-popdb again, or import it again"
MOST_MANIFEST_BYTES, MOST_CARD_BYTES = 2**24, 2**24
OWN_NAME = re.compile(r"shards/[0-9a-f]{16}[.]safetensors|(index|songs)-[0-9a-f]{16}[.]parquet|README[.]md")

Halves = NDArray[np.float16]
ChannelFigures = dict[str, dict[str, list[float]]]
Name = Annotated[str, Field(pattern=f"^({OWN_NAME.pattern})$")]
Offset = Annotated[int, Field(ge=0, lt=2**40)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
Count = Literal[
    "songs_listed", "songs_kept", "chunks", "chunks_left_out", "pairs", "train", "validation", "shards"
]
Identity = Annotated[str, Field(max_length=1000)]
Mean = Annotated[float, Field(ge=-65504, le=65504)]  # of float16
Deviation = Annotated[float, Field(ge=1e-6, le=65504)]
PerChannel = Field(min_length=1, max_length=4096)
MOST_PAIR_VALUES, MOST_SHARD_FRAMES = 2**22, 2**18  # C · T of a stream; N · T, which is 256 pairs of 1024


def shard_bytes(latents: Halves) -> bytes:
    """Content of the shard that holds latents (2, N, C, T); the same latents give the same bytes."""
    return save(dict(zip(STREAMS, latents, strict=True)))


def pair_sha256(vocal: Tensor | Halves, accompaniment: Tensor | Halves) -> str:
    """Digest of a pair's bytes, wherever it lies: those of the vocal, then those of the accompaniment."""
    hashed = hashlib.sha256()
    for latents in (vocal, accompaniment):
        hashed.update(np.ascontiguousarray(latents).data)
    return hashed.hexdigest()


def finite(latents: Halves) -> bool:
    """True where every value is a number."""
    return not ((latents.view(np.uint16) & 0x7C00) == 0x7C00).any()  # six times faster than np.isfinite


class ChannelSums:
    """Sums over pairs, in float64, from which mean and deviation of each channel follow."""

    def __init__(self) -> None:
        self.pairs = self.frames = 0
        self.values = np.zeros((2, 2, 1))  # by stream and channel, of the values and of their squares

    def add(self, *pair: Halves) -> None:
        """Count vocal and accompaniment of a pair, each (C, T)."""
        both = [latents.astype(np.float64) for latents in pair]
        self.values = self.values + [[v.sum(axis=1), np.einsum("ct,ct->c", v, v)] for v in both]
        self.pairs += 1
        self.frames += pair[0].shape[1]

    def merge(self, other: "ChannelSums") -> None:
        """Count what another has counted."""
        self.pairs, self.frames = self.pairs + other.pairs, self.frames + other.frames
        self.values = self.values + other.values

    def statistics(self) -> ChannelFigures:
        """By stream, `mean` and `std` of each channel; rounded, or the order of additions would show."""
        mean, squares = self.values[:, 0] / self.frames, self.values[:, 1] / self.frames
        std = np.sqrt(np.maximum(squares - mean**2, 0.0))
        std[std < CONSTANT] = 1.0
        figures = {"mean": mean, "std": std}
        return {
            stream: {name: [float(f"{value:.8g}") for value in of[i]] for name, of in figures.items()}
            for i, stream in enumerate(STREAMS)
        }


class _Strict(BaseModel, strict=True, extra="forbid"):
    pass


class _Stream(_Strict):
    dtype: Literal["F16"]
    shape: tuple[Offset, Offset, Offset]
    data_offsets: tuple[Offset, Offset]


class _Header(BaseModel, strict=True):
    vocal: _Stream
    accompaniment: _Stream

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for stream in (self.vocal, self.accompaniment):
            start, end = stream.data_offsets
            if stream.shape != self.vocal.shape or end - start != 2 * prod(stream.shape):
                raise ValueError(f"shape {stream.shape} in {end - start} bytes, vocal {self.vocal.shape}")
        pairs, channels, frames = self.vocal.shape
        if pairs * frames > max(MOST_SHARD_FRAMES, frames) or channels * frames > MOST_PAIR_VALUES:
            raise ValueError(f"shape {self.vocal.shape}: larger than any")
        first, second = sorted((self.vocal.data_offsets, self.accompaniment.data_offsets))
        if second[0] < first[1]:
            raise ValueError("streams that overlap")
        return self


def _read_header(file: FileIO) -> tuple[tuple[int, int, int], list[int]]:
    """Shape (N, C, T), and where both streams begin; a ValueError where it is no shard, or cut short."""
    length = int.from_bytes(file.read(8) or b"", "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = _Header.model_validate_json(file.read(length) or b"")
    starts, ends = zip(header.vocal.data_offsets, header.accompaniment.data_offsets, strict=True)
    if (needed := 8 + length + max(ends)) > (size := os.fstat(file.fileno()).st_size):
        raise ValueError(f"cut short, {size} of {needed} bytes")
    return header.vocal.shape, [8 + length + start for start in starts]


class Shard:
    """An open file, closed with the last reference to it; a DatasetError where it is missing or no shard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open_regular(path)
            self.shape, self._offsets = _read_header(self._file)
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing; {REMEDY}") from None
        except (ValueError, InputError) as error:
            fault = first_fault(error) if isinstance(error, ValidationError) else error
            raise DatasetError(f"{path}: not a shard ({fault}); {REMEDY}") from error

    def read(self, row: int, into: Halves) -> None:
        """Read a pair into an array (2, C, T); a DatasetError where there is no such row, or not any more."""
        size = 2 * self.shape[1] * self.shape[2]
        if not 0 <= row < self.shape[0] or into.shape[1:] != self.shape[1:]:
            raise DatasetError(f"{self.path}: no row {row} of {into.shape[1:]} in its shape {self.shape}")
        for latents, offset in zip(into, self._offsets, strict=True):
            if self._fill(latents.view(np.uint8).data, offset + row * size) != size:
                raise DatasetError(f"{self.path}: ends before row {row}; {REMEDY}")

    def _fill(self, into: memoryview, offset: int) -> int | None:
        if hasattr(os, "preadv"):  # without a position, which threads and forked processes would share
            return os.preadv(self._file.fileno(), [into], offset)
        with open_regular(self.path) as file:  # macOS, Windows
            file.seek(offset)
            return file.readinto(into)

    def __del__(self) -> None:
        if file := getattr(self, "_file", None):
            file.close()


class ShardReader:
    """Reads pairs from the shards in a folder, of which it holds some open; a pickled copy opens its own."""

    def __init__(self, folder: Folder, digests: dict[str, str], shape: tuple[int, int]) -> None:
        self._folder, self._digests, self._shape = folder, digests, shape  # of a stream of a pair: (C, T)
        self._open: dict[str, Shard] = {}

    def read(self, shards: Sequence[str], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Vocal and accompaniment of pairs by shard and row, each float16 (B, C, T); or a DatasetError."""
        batch = np.empty((2, len(rows), *self._shape), np.float16)
        for i, (name, row) in enumerate(zip(shards, rows, strict=True)):
            shard = self._open.get(name)
            if shard is None:
                path = self._folder.fetch(name, self._digests[name])
                shard = self._open.setdefault(name, Shard(path))
            shard.read(row, batch[:, i])
            while len(self._open) > MOST_OPEN:  # another thread may still read it: its own reference keeps it
                self._open.pop(next(iter(list(self._open))), None)
        both = torch.from_numpy(batch)
        return both[0], both[1]

    def __reduce__(self) -> tuple[type["ShardReader"], tuple[Folder, dict[str, str], tuple[int, int]]]:
        return ShardReader, (self._folder, self._digests, self._shape)


class WrittenWith(_Strict, extra="allow"):
    """Of the settings, what a dataset was written with; any other stands beside."""

    pairs_per_shard: Annotated[int, Field(ge=1, le=256)]
    min_vocal_share: Annotated[float, Field(ge=0, le=1)]


class Statistics(_Strict):
    """Of a stream over the training pairs: a number for each channel."""

    mean: Annotated[list[Mean], PerChannel]
    std: Annotated[list[Deviation], PerChannel]


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
    chunk_frames: Annotated[int, Field(ge=8, le=MOST_FRAMES)]
    settings: WrittenWith
    counts: Annotated[dict[Count, Natural], Field(min_length=8)]  # all of them
    stats: Stats
    index: Name
    songs: Name
    files: Annotated[dict[Name, FileRecord], Field(max_length=2**16)]

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
        if self.codec.channels * self.chunk_frames > MOST_PAIR_VALUES:
            raise ValueError(f"chunk_frames: {self.chunk_frames} of {self.codec.channels} channels: too many")
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
        """Its folder on this machine."""
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

    def _of_split(self, split: str) -> pa.Table:
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; there are {' and '.join(SPLITS)}")
        return self.table.filter(pc.field("split") == split)

    def pairs(self, split: str) -> list[Row]:
        """The index rows of `train` or `validation`."""
        return self._of_split(split).to_pylist()

    def dataset(self, split: str) -> "PairDataset":
        """The pairs of `train` or `validation` as a dataset for `torch.utils.data`."""
        return PairDataset(self, self._of_split(split))

    def songs(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row per song of the list; all columns, or some."""
        return read_listed(self.folder, self.info, "songs", columns)

    def vocal_shares(self) -> list[float]:
        """Vocal share of every chunk that was measured, those that were left out included."""
        chunks = self.songs(["vocal_shares"])["vocal_shares"].to_pylist()
        return [share for shares in chunks for share in shares if share is not None]

    @cached_property
    def reader(self) -> ShardReader:
        """Reads its shards."""
        digests = {name: file["sha256"] for name, file in self.info["files"].items()}
        return ShardReader(self.folder, digests, self.shape)

    def read(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Vocal and accompaniment latents of index rows, each float16 (len(rows), C, T)."""
        return self.reader.read([row["shard"] for row in rows], [row["row"] for row in rows])

    def read_checked(self, row: Row) -> tuple[Tensor, Tensor]:
        """The latents of one pair, each float16 (C, T); a DatasetError where they are not as written."""
        vocal, accompaniment = self.read([row])
        if pair_sha256(vocal[0], accompaniment[0]) != row["pair_sha256"]:
            raise DatasetError(f"{self.location}: {row['pair_id']}: not the latents of the index; {REBUILD}")
        return vocal[0], accompaniment[0]


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """The pairs of a split in the order of the index, each float16 (C, T) twice; for any `DataLoader`."""

    def __init__(self, popdb: Popdb, table: pa.Table) -> None:
        self.shape, self._reader = popdb.shape, popdb.reader
        self.pair_ids: list[str] = table["pair_id"].to_pylist()
        # One Python object for each shard, not for each pair: workers copy pages they count references in.
        names = table["shard"].combine_chunks().dictionary_encode()
        self._names, self._shards = names.dictionary.to_pylist(), names.indices.to_numpy()
        self._rows = table["row"].to_numpy()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self.batch(places), strict=True))

    def batch(self, places: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Vocal and accompaniment of several pairs, each float16 (B, C, T)."""
        shards = [self._names[shard] for shard in self._shards[places]]
        return self._reader.read(shards, self._rows[places].tolist())


def open_popdb(location: Path | str, cache: Path | None = None) -> Popdb:
    """Open the dataset at a path or URL (see `open_folder`); a DatasetError where none is whole there."""
    return read_popdb(open_folder(location, cache))


def read_popdb(folder: Folder) -> Popdb:
    """Open the dataset in a folder; see `open_popdb`."""
    info = read_manifest(folder)
    while True:
        try:
            table = read_listed(folder, info, "index")
            break
        except DatasetError:
            if (now := read_manifest(folder)) == info:
                raise
            info = now  # it was being replaced by a new one
    if unknown := set(table["shard"].unique().to_pylist()) - info["files"].keys():
        raise DatasetError(f"{folder.location}: {MANIFEST} does not name {min(unknown)!r}; {REBUILD}")
    if not len(table) or not set(table["split"].unique().to_pylist()) <= set(SPLITS):
        raise DatasetError(f"{folder.location}: {info['index']}: no pairs, or of no split; {REBUILD}")
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
    schema, rows = {"index": (INDEX_SCHEMA, "pairs"), "songs": (SONGS_SCHEMA, "songs_listed")}[table]
    try:
        return read_table(content, schema, info["counts"][rows], columns)
    except ValueError as error:
        raise DatasetError(f"{folder.location}: {name}: {error}; {REBUILD}") from error


def content_digest(rows: Iterable[Row]) -> str:
    """The sha256 of a line `pair_id pair_sha256 split` for each pair, in the order of the index."""
    lines = (f"{row['pair_id']} {row['pair_sha256']} {row['split']}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
