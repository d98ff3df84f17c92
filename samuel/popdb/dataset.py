"""Mean and standard deviation per latent channel, gathered shard by shard.

Shapes: N pairs, C channels, T frames.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from io import FileIO
from pathlib import Path
from typing import IO, Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from fsspec.core import url_to_fs
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)
from torch import Tensor
from torch.utils.data import Dataset

from samuel.artifacts import (
    explain_full_disk,
    fsync,
    holding,
    json_bytes,
    locked,
    remove,
    replacing,
    sha256,
)
from samuel.config import wrong_url
from samuel.errors import (
    DatasetError,
    InputError,
    MissingPartError,
    NewerFormatError,
    OperatorError,
    SamuelError,
    SettingsError,
)
from samuel.popdb.status import Outcome
from samuel.popdb.tables import SONGS_SCHEMA, chunks_kept, read_table

logger = logging.getLogger(__name__)


# POPDB on disk, or behind a URL.
#
# shards/NNNNN-DDDDDDDDDDDD.safetensors   the latents: number, and the first digits of the digest
# index.parquet        a row per pair: what it is and where it lies
# songs.parquet        a row per song of the list, whatever became of it
# tombstones.parquet   rows of shards that are in no pair any more
# stats.json           mean and deviation of each channel, over the training pairs
# README.md            the dataset card
# dataset.json         format, what it was made of, counts, size and digest of every other file


# Where the files of a dataset lie: what it needs of a folder, and a folder of this machine.
#
# A file appears under its name only when it is whole. Names are relative, with `/`.


PENDING = ".pending"
LOCK = ".lock"


class Folder(Protocol):
    """What a dataset needs of the place where it lies."""

    @property
    def location(self) -> str:
        """The path or URL, for people."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        ...

    def sizes(self, under: str) -> dict[str, int]:
        """Name → bytes of the files in a folder below."""
        ...

    def put(self, source: Path, name: str, digest: str) -> None:
        """Make a finished file of `workspace` appear as `name`; the source is gone afterwards."""
        ...

    def move(self, name: str, to: str) -> None:
        """Give a file another name, in the place of the file that had it."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        ...

    def at_hand(self, name: str, digest: str) -> Path:
        """A path of this machine where a file that never changes can be read."""
        ...

    @property
    def workspace(self) -> Path:
        """A folder of this machine in which files are made that are then put."""
        ...

    def locked(self) -> Any:
        """A context that one writer at a time is in."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine."""

    path: Path

    @property
    def location(self) -> str:
        """Its path."""
        return str(self.path)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, under: str) -> dict[str, int]:
        """Name → bytes of the files in a folder below."""
        try:
            entries = list(os.scandir(self.path / under))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        sizes: dict[str, int] = {}
        for entry in entries:
            with suppress(FileNotFoundError):  # moved by a writer since it was listed
                if entry.is_file():
                    sizes[f"{under}/{entry.name}"] = entry.stat().st_size
        return sizes

    def put(self, source: Path, name: str, digest: str) -> None:
        """Make a finished file of `workspace` appear as `name`."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync(source)
        source.replace(target)
        fsync(target.parent)

    def move(self, name: str, to: str) -> None:
        """Rename a file, over the one that had the name."""
        (self.path / name).replace(self.path / to)
        fsync(self.path)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that may already be gone."""
        remove(self.path / name for name in names)

    def at_hand(self, name: str, digest: str) -> Path:
        """The file's path."""
        return self.path / name

    @property
    def workspace(self) -> Path:
        """`.work` in the folder itself, from where a file can be renamed into place."""
        return self.path / ".work"

    def _say_so(self) -> None:
        logger.warning("%s: another process is writing this dataset; waiting for it", self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; another waits, and says so.

        Raises:
            DatasetError: A link is where the writer's own folders are: what it leads to is not the dataset's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # In the folder itself, whatever path leads to it, and whoever owns the one above it.
        with holding(self.path / LOCK, self._say_so):
            for own in (self.workspace, self.path / PENDING):
                if own.is_symlink():
                    raise DatasetError(f"{own}: a link; remove it, a dataset has none there")
            shutil.rmtree(self.workspace, ignore_errors=True)  # of a writer that was killed
            try:
                yield
            finally:
                shutil.rmtree(self.workspace, ignore_errors=True)
                with suppress(OSError):  # not there, or not empty
                    (self.path / PENDING).rmdir()


def disk_full_told(folder: Folder) -> AbstractContextManager[None]:
    """Turn a full disk into what a person can act on.

    Raises:
        OperatorError: No space is left where the dataset is written.
    """
    return explain_full_disk(
        folder.location, "the dataset there is as it was. Free some space, and run it again"
    )


# A shard: the latents of at most 256 pairs in a safetensors file.
#
# The file holds `vocal` and `accompaniment`, float16 (N, C, T), and in its header the ids of the pairs, so
# that
# a shard says by itself what it is.
#
# Shapes: N pairs, C = 64 latent channels, T = 1024 frames.


STREAMS = ("vocal", "accompaniment")
CHANNELS = 64
LONGEST_HEADER = 2**20

Halves = NDArray[np.float16]


def shard_header(pair_ids: Sequence[str], frames: int) -> bytes:
    """What a shard begins with; its vocals follow, (N, C, T), and then its accompaniments."""
    shape = (len(pair_ids), CHANNELS, frames)
    size = 2 * len(pair_ids) * CHANNELS * frames
    header: dict[str, Any] = {"__metadata__": {"popdb": json.dumps({"pairs": list(pair_ids)})}}
    for number, stream in enumerate(STREAMS):
        offsets = [number * size, (number + 1) * size]
        header[stream] = {"dtype": "F16", "shape": shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows
    return len(text).to_bytes(8, "little") + text


def pair_sha256(vocal: Tensor | Halves, accompaniment: Tensor | Halves) -> str:
    """Digest of a pair's bytes, wherever it lies: those of the vocal, then those of the accompaniment."""
    hashed = hashlib.sha256()
    for latents in (vocal, accompaniment):
        hashed.update(np.ascontiguousarray(latents).data)
    return hashed.hexdigest()


def finite(latents: Halves) -> bool:
    """True where every value is a number."""
    return not ((latents.view(np.uint16) & 0x7C00) == 0x7C00).any()  # six times faster than np.isfinite


@dataclass(frozen=True)
class Layout:
    """What the header of a shard says.

    Attributes:
        shape: (N, C, T) of both streams.
        offsets: Where each stream begins in the file, in bytes.
        pair_ids: The pairs, in the order of the rows; empty where the header has none.
    """

    shape: tuple[int, int, int]
    offsets: tuple[int, int]
    pair_ids: tuple[str, ...]

    @property
    def row_bytes(self) -> int:
        """Size of one stream of a pair."""
        return 2 * self.shape[1] * self.shape[2]


def layout_of(file: FileIO, name: str) -> Layout:
    """Read the header of a shard.

    Raises:
        DatasetError: It is not one, or shorter than it says.
    """
    layout = header_of(file, name)
    needed = max(layout.offsets) + layout.shape[0] * layout.row_bytes
    if needed > (there := os.fstat(file.fileno()).st_size):
        raise DatasetError(f"{name}: cut short, {there} of {needed} bytes")
    return layout


def header_of(file: IO[bytes] | FileIO, name: str) -> Layout:
    """Read the header of a shard that may be shorter than it says.

    Raises:
        DatasetError: It is not one.
    """
    try:
        return _parse(file)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{name}: not a shard ({type(error).__name__}: {error})") from error


def _parse(file: IO[bytes] | FileIO) -> Layout:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(file.read(length))
    (shape, vocal), (other, accompaniment) = (_stream(header[stream]) for stream in STREAMS)
    if shape != other:
        raise ValueError(f"vocal {shape} and accompaniment {other} differ in shape")
    pairs = json.loads(header.get("__metadata__", {}).get("popdb", "{}")).get("pairs", [])
    return Layout(shape, (8 + length + vocal, 8 + length + accompaniment), tuple(pairs))


def _stream(described: dict[str, Any]) -> tuple[tuple[int, int, int], int]:
    (rows, channels, frames), dtype = described["shape"], described["dtype"]
    numbers = [rows, channels, frames, *(start_end := described["data_offsets"])]
    if not all(type(number) is int and number >= 0 for number in numbers) or dtype != "F16":
        raise ValueError(f"{dtype} of shape {described['shape']} at {start_end}")
    start, end = start_end
    if end - start != 2 * rows * channels * frames:
        raise ValueError(f"shape {described['shape']} in {end - start} bytes")
    return (rows, channels, frames), start


def empty_batch(count: int, frames: int) -> Halves:
    """Room for `count` pairs: (2, count, C, frames)."""
    return np.empty((2, count, CHANNELS, frames), np.float16)


def as_tensors(batch: Halves) -> tuple[Tensor, Tensor]:
    """Vocal and accompaniment (B, C, T) of a batch (2, B, C, T), over the same memory."""
    both = torch.from_numpy(batch)
    return both[0], both[1]


# The rows of `index.parquet`: which pairs there are, and where each of them lies.
#
# A pair keeps its place as long as its latents do. One that leaves the dataset is kept in mind in
# `tombstones.parquet`, so that every row of a shard is accounted for, and that it can come back without being
# written again. What is in the index follows from the songs alone and is in the order of their ids; where it
# lies follows from how the dataset has grown, until it is compacted.


INDEX = "index.parquet"
TOMBSTONES = "tombstones.parquet"
LATENTS = "latents.safetensors"

INDEX_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()), ("song_id", pa.string()), ("title", pa.string()), ("video_id", pa.string()),
        ("chunk", pa.int32()), ("start_s", pa.float64()), ("shard", pa.string()), ("row", pa.int32()),
        ("shard_sha256", pa.string()), ("split", pa.string()), ("vocal_share", pa.float64()),
        ("vocal_rms_db", pa.float64()), ("mix_peak", pa.float64()), ("codec", pa.string()),
        ("latents_sha256", pa.string()), ("pair_sha256", pa.string()),
    ]
)  # fmt: skip
PLACE = ("shard", "row", "shard_sha256", "pair_sha256")
TOMBSTONE_SCHEMA = pa.schema(
    [INDEX_SCHEMA.field(name) for name in ("pair_id", "song_id", "chunk", "latents_sha256", *PLACE)]
)

Row = dict[str, Any]


def pair_rows(
    kept: Sequence[Outcome], groups: Mapping[str, str], least: float, held_share: float, seed: int
) -> list[Row]:
    """The pairs of encoded songs, in the order of the songs, without their places.

    Args:
        kept: Songs with at least one chunk that is kept.
        groups: What `same_recordings` found: titles that led to one recording are on one side of the split.
        least: Least vocal share of a chunk that becomes a pair.
        held_share: Share of the recordings that is held out.
        seed: Which these are.
    """
    recordings = [groups[outcome.record["audio_sha256"]] for outcome in kept]
    validation = held_out(recordings, held_share, seed)
    return [
        {
            "pair_id": f"{outcome.song.song_id}-{number:03d}",
            "song_id": outcome.song.song_id,
            "title": outcome.song.title,
            "video_id": outcome.record.get("video_id"),
            "chunk": number,
            "split": "validation" if recording in validation else "train",
            "codec": outcome.record["codec"],
            "latents_sha256": outcome.artifact.sha256[LATENTS],
            **chunk,
        }
        for outcome, recording in zip(kept, recordings, strict=True)
        if outcome.artifact
        for number, chunk in chunks_kept(outcome, least)
    ]


def place(rows: Sequence[Row], known: Iterable[Row]) -> list[Row]:
    """`rows`, each with its place where the same pair of the same file is among the `known` ones."""
    places = {_origin(row): {name: row[name] for name in PLACE} for row in known if row["latents_sha256"]}
    return [row | places.get(_origin(row), {}) for row in rows]


def placed(row: Row) -> bool:
    """True where the latents of a row are in a shard."""
    return row.get("shard") is not None


def buried(rows: Sequence[Row], known: Iterable[Row]) -> list[Row]:
    """The `known` rows that are not among `rows` but lie in the same shards, in the order of their places."""
    shards = {row["shard"] for row in rows}
    taken = {(row["shard"], row["row"]) for row in rows}
    left = {(row["shard"], row["row"]): row for row in known if row["shard"] in shards}
    return [
        {name: left[where][name] for name in TOMBSTONE_SCHEMA.names} for where in sorted(left.keys() - taken)
    ]


def content_digest(rows: Iterable[Row]) -> str:
    """What stands for the pairs of a dataset and their split, wherever they lie.

    The sha256 of a line `pair_id pair_sha256 split` for each, in the order of the index.
    """
    lines = (f"{row['pair_id']} {row['pair_sha256']} {row['split']}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _origin(row: Row) -> tuple[str, str]:
    return row["pair_id"], row["latents_sha256"]


# What `dataset.json` says, and which files a dataset has.


FORMAT_VERSION = 3
MANIFEST = "dataset.json"
SONGS, STATS, CARD = "songs.parquet", "stats.json", "README.md"
BESIDE = (INDEX, SONGS, TOMBSTONES, STATS, CARD)
AGAIN = "run build-popdb again, or import it again"
SHARD = re.compile(r"shards/\d{5,}-[0-9a-f]{12}\.safetensors")

_NAMES = "|".join([SHARD.pattern, *(name.replace(".", "[.]") for name in BESIDE)])

Name = Annotated[str, Field(pattern=f"^({_NAMES})$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Natural = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class ListedFile(_Strict):
    """A file that `dataset.json` names."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class MadeWith(_Strict):
    """Of the settings, what a dataset is read with."""

    pairs_per_shard: Annotated[int, Field(ge=1, le=256)]


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
    buried: Natural


class Statistics(_Strict):
    """Of a stream: a number for each channel."""

    mean: Annotated[list[Finite], Field(min_length=CHANNELS, max_length=CHANNELS)]
    std: Annotated[list[Annotated[Finite, Field(gt=0)]], Field(min_length=CHANNELS, max_length=CHANNELS)]


class Stats(_Strict):
    """`stats.json`."""

    vocal: Statistics
    accompaniment: Statistics


class Manifest(_Strict):
    """`dataset.json`."""

    format_version: Literal[3]
    content_sha256: Sha256
    index_sha256: Sha256
    source: str
    separator: str | None
    codec: str
    chunk_frames: Annotated[int, Field(ge=8, le=2**16)]  # up to 50 min
    settings: MadeWith
    counts: Counts
    files: dict[Name, ListedFile]

    @model_validator(mode="after")
    def _complete(self) -> "Manifest":
        if missing := [name for name in BESIDE if name not in self.files]:
            raise ValueError(f"files: without {', '.join(missing)}")
        if self.index_sha256 != self.files[INDEX].sha256:
            raise ValueError(f"index_sha256 and the digest of {INDEX} differ")
        return self


# A dataset behind an fsspec URL, and what tells it from one on this machine.


URL_LOCK = ".lock.json"
OWN = (OSError, ImportError, ValueError, SamuelError)  # what is said of these is said elsewhere


def folder_of(location: Path | str, cache: Path | None = None) -> Folder:
    """The folder that a path or URL names.

    Args:
        location: A path, or a URL that fsspec knows: `memory://`, `s3://`, …
        cache: Where shards from a URL are kept on this machine; none: `samuel/shards` in the user's cache.

    Raises:
        SettingsError: The URL holds a password, or is a chain of several.
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    text = str(location)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    if "://" not in text:
        return LocalFolder(Path(text).expanduser())
    if wrong := wrong_url(text):
        raise SettingsError(f"the place of a dataset is {wrong}")
    try:
        with _told(text):
            filesystem, root = url_to_fs(text)
    except (ImportError, ValueError) as error:  # no package; no such protocol
        raise MissingPartError(f"{text}: {error}; give a local folder, or install what it needs") from error
    return UrlFolder(text, filesystem, root.rstrip("/"), cache or _user_cache())


@dataclass(frozen=True)
class UrlFolder:
    """A folder behind a URL; its shards are kept on this machine, under their digest."""

    url: str
    filesystem: Any
    root: str
    cache: Path

    @property
    def location(self) -> str:
        """Its URL."""
        return self.url

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            with _told(self.url):
                return self.filesystem.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None

    def sizes(self, under: str) -> dict[str, int]:
        """Name → bytes of the files in a folder below."""
        self.filesystem.invalidate_cache()
        try:
            with _told(self.url):
                found = self.filesystem.ls(f"{self.root}/{under}", detail=True)
        except FileNotFoundError:
            return {}
        return {f"{under}/{Path(entry['name']).name}": entry["size"] for entry in found}

    def put(self, source: Path, name: str, digest: str) -> None:
        """Upload a finished file; a shard stays at hand."""
        with _told(self.url):
            self.filesystem.put_file(str(source), f"{self.root}/{name}")
        if not name.startswith("shards/"):
            source.unlink()
            return
        kept = self._kept(name, digest)
        kept.parent.mkdir(parents=True, exist_ok=True)
        source.replace(kept)

    def move(self, name: str, to: str) -> None:
        """Copy an object and delete the first."""
        with _told(self.url):
            self.filesystem.mv(f"{self.root}/{name}", f"{self.root}/{to}")

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects that may already be gone."""
        for name in names:
            with suppress(FileNotFoundError), _told(self.url):
                self.filesystem.rm_file(f"{self.root}/{name}")

    def at_hand(self, name: str, digest: str) -> Path:
        """Fetch the file once, and check it; what is kept of it, once in a process.

        Raises:
            DatasetError: It is gone, or its bytes are not those of `digest`.
        """
        kept = self._kept(name, digest)
        with locked(kept):
            if not kept.is_file() or not _intact(kept, digest):
                self._fetch(name, digest, kept)
        return kept

    @property
    def workspace(self) -> Path:
        """A folder in the cache, of this writer alone."""
        return self.cache / f".work-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; another is refused.

        Raises:
            OperatorError: There is a writer, or one that was killed; the message names it.
        """
        lock = f"{self.root}/{URL_LOCK}"
        mine = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
        try:
            with _told(self.url):
                self.filesystem.pipe_file(lock, mine, mode="create")
        except FileExistsError:
            holder = (self.read(URL_LOCK) or b"?").decode(errors="replace")
            raise OperatorError(
                f"{self.url}: being written by {holder}; wait, or delete {URL_LOCK} there if that "
                "process is gone"
            ) from None
        try:
            yield
        finally:
            shutil.rmtree(self.workspace, ignore_errors=True)
            self.remove([URL_LOCK])

    def _kept(self, name: str, digest: str) -> Path:
        return self.cache / f"{digest}{Path(name).suffix}"

    def _fetch(self, name: str, digest: str, target: Path) -> None:
        with replacing(target) as temporary:
            try:
                with _told(self.url):
                    self.filesystem.get_file(f"{self.root}/{name}", str(temporary))
            except FileNotFoundError:
                raise DatasetError(
                    f"{self.url}/{name}: missing; the dataset may have been rewritten"
                ) from None
            _intact.cache_clear()
            if sha256(temporary) != digest:
                raise DatasetError(f"{self.url}/{name}: its bytes are not those of the index")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what a file system's own library raises, which has no name here, into one error.

    Raises:
        OperatorError: The file system cannot be used.
    """
    try:
        yield
    except OWN:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise OperatorError(f"{url}: {reason}; check the address and the credentials") from error


@cache
def _intact(path: Path, digest: str) -> bool:
    return sha256(path) == digest


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "samuel" / "shards"


# The one step from an old dataset to a new one.
#
# `dataset.json` names the size and digest of every other file. New files are first put into `.pending`, its
# `dataset.json` last: from then on the new dataset is the dataset, and its files are moved to their names. A
# writer that is killed before that moment leaves the old dataset, one that is killed after it the new one:
# readers look for each file in `.pending` and under its name, and take the one whose digest is right.


@dataclass(frozen=True)
class State:
    """What a folder holds.

    Attributes:
        folder: Where it is.
        info: The content of `dataset.json`.
        pending: True where a commit was interrupted before every file had its name.
    """

    folder: Folder
    info: dict[str, Any] = field(repr=False)
    pending: bool

    def read(self, name: str) -> bytes:
        """The content of a file beside the shards.

        Raises:
            DatasetError: It is missing, or not the one that `dataset.json` names.
        """
        digest = self.info["files"][name]["sha256"]
        found = False
        for place in (f"{PENDING}/{name}", name):
            content = self.folder.read(place)
            found = found or content is not None
            if content is not None and hashlib.sha256(content).hexdigest() == digest:
                return content
        fault = "its bytes are not those dataset.json names" if found else "missing"
        replaced = state_of(self.folder).info != self.info
        remedy = "the dataset was replaced meanwhile, open it again" if replaced else AGAIN
        raise DatasetError(f"{self.folder.location}: {name}: {fault}; {remedy}")


def state_of(folder: Folder) -> State:
    """What the folder holds now.

    Raises:
        DatasetError: No dataset, a damaged one, or one of another format.
    """
    for place in (f"{PENDING}/{MANIFEST}", MANIFEST):
        content = folder.read(place)
        if content is not None:
            return State(folder, _parse_manifest(folder, content), pending=place != MANIFEST)
    remedy = "run the flow build-popdb, or samuel import-popdb"
    raise DatasetError(f"{folder.location}: no dataset here (dataset.json is missing); {remedy}")


def commit(folder: Folder, info: dict[str, Any]) -> None:
    """Make the files in `folder.workspace`, with `info` as `dataset.json`, those of the dataset."""
    for name in BESIDE:
        if (path := folder.workspace / name).is_file():
            folder.put(path, f"{PENDING}/{name}", info["files"][name]["sha256"])
    manifest = folder.workspace / MANIFEST
    manifest.write_bytes(json_bytes(info))
    folder.put(manifest, f"{PENDING}/{MANIFEST}", sha256(manifest))
    settle(folder)


def unchanged(folder: Folder, info: dict[str, Any]) -> bool:
    """Forget the files in `folder.workspace` that are in place; True where all are, and `info` with them."""
    changed = False
    for name in BESIDE:
        content = folder.read(name)
        if content is not None and hashlib.sha256(content).hexdigest() == info["files"][name]["sha256"]:
            (folder.workspace / name).unlink()
        else:
            changed = True
    return folder.read(MANIFEST) == json_bytes(info) and not changed


def settle(folder: Folder) -> None:
    """Finish a commit that was interrupted, or remove what one left that never was."""
    manifest = f"{PENDING}/{MANIFEST}"
    own = [*(f"{PENDING}/{name}" for name in BESIDE), manifest]
    left = sorted(folder.sizes(PENDING).keys() & own)
    if manifest not in left:
        folder.remove(left)
        return
    for name in [*(name for name in left if name != manifest), manifest]:
        folder.move(name, name.removeprefix(f"{PENDING}/"))


def _parse_manifest(folder: Folder, content: bytes) -> dict[str, Any]:
    try:
        info = json.loads(content)
        found = info["format_version"]
        older = found < FORMAT_VERSION
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder, error) from error
    if found != FORMAT_VERSION:
        kind, remedy = (DatasetError, AGAIN) if older else (NewerFormatError, "update samuel")
        raise kind(f"{folder.location}: format {found}, this version reads {FORMAT_VERSION}; {remedy}")
    return info


def damaged(folder: Folder, error: Exception) -> DatasetError:
    """What is said of a dataset that cannot be read."""
    reason = f"{type(error).__name__}: {error}"
    return DatasetError(f"{folder.location}: the dataset is damaged ({reason}); {AGAIN}")


# Reading pairs out of shards, fast and from any process.
#
# Rows are read with plain reads, not by a memory map: a file that is cut short is then an error with a name
# instead of the end of the process, pages that were read are not counted as its memory, and batches come as
# fast (`samuel bench loader`).
#
# Shapes: B pairs, C = 64 latent channels, T = 1024 frames.


MOST_OPEN = 128  # a process may have 256 files open on some systems


class OpenShards:
    """The shards that a process has open. A copy in another process, forked or pickled, opens its own."""

    def __init__(self) -> None:
        self._begin()

    def read(self, places: Sequence[tuple[Path, int]], batch: Halves) -> None:
        """Read pairs by shard and row into a batch (2, B, C, T).

        Raises:
            DatasetError: A shard is missing, damaged or without that row.
        """
        for i, (path, row) in enumerate(places):
            self._open(path).read(row, batch[:, i])

    def layout(self, path: Path) -> Layout:
        """What the header of a shard says."""
        return self._open(path).layout

    def _open(self, path: Path) -> "_Shard":
        if self._process != os.getpid():  # forked: the lock may be held by a thread that is not here
            self._begin()
        with self._lock:
            if path not in self._shards:
                self._shards[path] = _Shard(path)
            self._shards.move_to_end(path)
            if len(self._shards) > MOST_OPEN:
                self._shards.popitem(last=False)
            return self._shards[path]

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._shards: OrderedDict[Path, _Shard] = OrderedDict()


class _Shard:
    """An open file, which is closed when nobody reads it any more."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = FileIO(path)
        except FileNotFoundError:
            remedy = "open the dataset again where it was rewritten, or run samuel verify"
            raise DatasetError(f"{path}: missing; {remedy}") from None
        self._lock = threading.Lock()
        self.layout = layout_of(self._file, str(path))

    def read(self, row: int, into: Halves) -> None:
        """Read a pair into an array (2, C, T)."""
        if not 0 <= row < self.layout.shape[0] or into.shape[1:] != self.layout.shape[1:]:
            raise DatasetError(
                f"{self._file.name}: no row {row} of {into.shape[1:]} in its shape {self.layout.shape}"
            )
        size = self.layout.row_bytes
        for latents, offset in zip(into, self.layout.offsets, strict=True):
            if self._fill(latents.view(np.uint8).data, offset + row * size) != size:
                raise DatasetError(f"{self._file.name}: ends before row {row}; run samuel verify")

    def _fill(self, into: memoryview, offset: int) -> int | None:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [into], offset)
        with self._lock:  # Windows: a file has one position
            self._file.seek(offset)
            return self._file.readinto(into)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


# Opening a dataset and reading its pairs.
#
# Shapes: N pairs, C = 64 latent channels, T = 1024 frames.


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


# Which recordings are held out.


def held_out(recordings: list[str], share: float, seed: int) -> set[str]:
    """The recordings of the validation split, by digest or another stable name.

    A recording is held out when a hash of its name falls below `share`, so that its side never depends on
    which others there are. Where no hash does, the lowest one is taken, as long as one remains to train on.
    """
    if share == 0.0 or not recordings:
        return set()
    if len(set(recordings)) == 1:
        logger.warning("one recording only: nothing is held out, the validation loss is over training pairs")
        return set()
    rank = {recording: _uniform(seed, recording) for recording in recordings}
    below = {recording for recording, place in rank.items() if place < share}
    return below if below and len(below) < len(rank) else {min(rank, key=lambda recording: rank[recording])}


def _uniform(seed: int, recording: str) -> float:
    hashed = hashlib.sha256(f"{seed}:{recording}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64


STILL = 1e-4
"""A channel with less of a deviation never changes."""


class ChannelStatistics:
    """Running sums in float64 over (N, C, T) tensors."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, latents: Tensor) -> None:
        """Count every frame of `latents` (N, C, T)."""
        values = latents.to(torch.float64)
        self._count += values.shape[0] * values.shape[2]
        self._sum = self._sum + values.sum(dim=2).sum(dim=0)
        self._squares = self._squares + values.square().sum(dim=2).sum(dim=0)

    def summary(self) -> dict[str, list[float]]:
        """`{"mean": C numbers, "std": C numbers}`; a channel that never changes gets a deviation of 1.

        Rounded to eight digits, so that the order in which a processor adds does not show.
        """
        mean = self._sum / self._count
        std = (self._squares / self._count - mean.square()).clamp(min=0.0).sqrt()
        std = torch.where(std < STILL, torch.ones_like(std), std)
        return {"mean": _rounded(mean), "std": _rounded(std)}


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.8g}") for value in values.tolist()]
