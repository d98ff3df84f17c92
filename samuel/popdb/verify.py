"""Is a dataset what it says it is?

dataset.json   its format, and that every file it names has the size and the digest it names; its counts
the tables     that they agree with each other, and that no name in them leads out of the folder
shards         digests, headers, and for each pair that both its tensors are those that were written together
               and hold numbers only
the split      that no song, recording, audio file or pair is on both sides
stats.json     recomputed over all training pairs, not over a sample: every shard is read anyway, and counting
               all of them needs no tolerance beyond rounding

A dataset may come from anywhere: whatever is in it gives a line, not an exception.
"""

import hashlib
import os
import re
import threading
from collections import Counter
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from samuel.errors import DatasetError
from samuel.popdb.dataset import (
    AGAIN,
    BESIDE,
    CHANNELS,
    INDEX,
    INDEX_SCHEMA,
    LONGEST_HEADER,
    MANIFEST,
    PENDING,
    SHARD,
    SONGS,
    STATS,
    STILL,
    STREAMS,
    TOMBSTONE_SCHEMA,
    TOMBSTONES,
    Folder,
    Halves,
    Layout,
    LocalFolder,
    Manifest,
    Row,
    State,
    Stats,
    content_digest,
    finite,
    folder_of,
    header_of,
    pair_sha256,
    state_of,
)
from samuel.popdb.tables import SONGS_SCHEMA, read_table, song_counts

# What is wrong with a dataset, and what it costs to mend it.


NAMED = 8  # pairs named in a line


@dataclass(frozen=True)
class Fault:
    """One line of what `verify` says.

    Attributes:
        text: The culprit, what is wrong with it, and the remedy where there is a better one than repair.
        pairs: Pairs that cannot stay in the dataset.
        shards: Shards that cannot stay as they are.
        final: True where a repair cannot mend it.
    """

    text: str
    pairs: frozenset[str] = frozenset()
    shards: frozenset[str] = frozenset()
    final: bool = False

    @property
    def line(self) -> str:
        """The text in one line that shows on any terminal as it is: much of it comes from the dataset."""
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in self.text)


def pair_fault(text: str, rows: Collection[Mapping[str, Any]]) -> list[Fault]:
    """The fault that pairs share, which cannot stay for it; none where `rows`, of the index, is empty."""
    ids = frozenset(row["pair_id"] for row in rows)
    return [Fault(f"{text}: {listed(ids)}", ids)] if ids else []


def listed(names: Iterable[str]) -> str:
    """Names in their order, all of them where they are few."""
    some = sorted(names)
    more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
    return ", ".join(some[:NAMED]) + more


# Is anything of the validation pairs among the training pairs?


def leakage_faults(index: Sequence[Row], songs: Sequence[Mapping[str, Any]]) -> list[Fault]:
    """What is on both sides of the split: a song, a recording, an audio file, the latents of a pair.

    The pairs at fault are those of the validation split; each is named once.
    """
    by_id = {song["song_id"]: song for song in songs}

    def of_song(column: str) -> Callable[[Row], Any]:
        return lambda row: by_id.get(row["song_id"], {}).get(column)

    kinds: dict[str, Callable[[Row], Any]] = {
        "song": lambda row: row["song_id"],
        "recording": of_song("recording"),
        "audio file": of_song("audio_sha256"),
        # Silence is the same in all songs, and gives nothing away.
        "the latents": lambda row: None if row["mix_peak"] == 0.0 else row["pair_sha256"],
    }
    faults: list[Fault] = []
    named: set[str] = set()
    for kind, value_of in kinds.items():
        for value, held in _on_both_sides(index, value_of):
            if ids := held - named:
                named |= ids
                faults.append(Fault(f"split: {kind} {value} in training and validation: {listed(ids)}", ids))
    return faults


def _on_both_sides(
    index: Sequence[Row], value_of: Callable[[Row], Any]
) -> Iterator[tuple[Any, frozenset[str]]]:
    """Each value that both sides have, with its validation pairs."""
    sides: dict[str, dict[Any, set[str]]] = {"train": {}, "validation": {}}
    for row in index:
        if (value := value_of(row)) and row["split"] in sides:
            sides[row["split"]].setdefault(value, set()).add(row["pair_id"])
    for value, held in sides["validation"].items():
        if value in sides["train"]:
            yield value, frozenset(held)


# `dataset.json`: is it one, and do the files that it names exist as it says?


NEEDED = (INDEX, SONGS)  # what is in them is nowhere else in the dataset


def manifest_faults(info: Any) -> list[Fault]:
    """What is wrong with the content of `dataset.json`."""
    try:
        Manifest.model_validate(info)
    except ValidationError as error:
        return [
            Fault(f"{MANIFEST}: {_where(fault['loc'])}{fault['msg']}; {AGAIN}", final=True)
            for fault in error.errors(include_url=False)
        ]
    return []


def pending_faults(state: State) -> list[Fault]:
    """What a writer left that was stopped while it made its files those of the dataset."""
    if state.pending:
        return [Fault("a write that was interrupted, or is going on: its files are whole, not yet in place")]
    if left := sorted(state.folder.sizes(PENDING)):
        return [Fault(f"{PENDING}: {len(left)} files left over by a write that was stopped, or is going on")]
    return []


def read_beside(state: State) -> tuple[dict[str, bytes], list[Fault]]:
    """The files beside the shards that have their digest, and what is wrong with the others."""
    contents: dict[str, bytes] = {}
    faults: list[Fault] = []
    for name in BESIDE:
        try:
            contents[name] = state.read(name)
            if len(contents[name]) != state.info["files"][name]["bytes"]:
                faults.append(Fault(f"{name}: {len(contents[name])} bytes, {MANIFEST} names another size"))
        except DatasetError as error:
            reason = str(error).removeprefix(f"{state.folder.location}: ").rpartition("; ")[0]
            final = name in NEEDED
            faults.append(Fault(f"{reason}; {AGAIN}" if final else reason, final=final))
        except OSError as error:
            faults.append(unreadable(name, error))
    return contents, faults


def unreadable(name: str, error: OSError) -> Fault:
    """What is said of a file that the system does not let us read; it may be whole."""
    reason = f"cannot be read ({type(error).__name__}: {error.strerror or error})"
    return Fault(f"{name}: {reason}; make it readable, or delete it where the disk is failing", final=True)


def _where(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:80] for part in place) + ": " if place else ""


# Do the tables of a dataset agree with each other and with `dataset.json`?


SPLITS = ("train", "validation")
PLACED = ("pair_id", "song_id", "shard", "row", "shard_sha256", "pair_sha256")
FILLED = {
    INDEX: (*PLACED, "chunk", "split", "codec"),
    SONGS: ("song_id", "status", "vocal_shares", "pairs"),
    TOMBSTONES: PLACED,
}
SCHEMAS = {INDEX: INDEX_SCHEMA, SONGS: SONGS_SCHEMA, TOMBSTONES: TOMBSTONE_SCHEMA}


@dataclass(frozen=True)
class Tables:
    """The rows of the three tables; None for one that cannot be used."""

    index: list[Row] | None
    songs: list[Row] | None
    tombstones: list[Row] | None


def read_tables(contents: Mapping[str, bytes]) -> tuple[Tables, list[Fault]]:
    """The tables, and what is wrong with each by itself."""
    rows: dict[str, list[Row] | None] = dict.fromkeys(SCHEMAS)
    faults: list[Fault] = []
    for name in [name for name in SCHEMAS if name in contents]:
        try:
            rows[name] = _filled(read_table(contents[name], SCHEMAS[name]), FILLED[name])
        except (pa.ArrowException, ValueError, OSError) as error:
            remedy = "" if name == TOMBSTONES else f"; {AGAIN}"
            faults.append(Fault(f"{name}: {error}{remedy}", final=name != TOMBSTONES))
    return Tables(rows[INDEX], rows[SONGS], rows[TOMBSTONES]), faults


def _filled(table: pa.Table, columns: Sequence[str]) -> list[Row]:
    if empty := [name for name in columns if table[name].null_count]:
        raise ValueError(f"{', '.join(empty)} is empty in some rows")
    return table.to_pylist()


def index_faults(info: Mapping[str, Any], index: Sequence[Row]) -> list[Fault]:
    """What is wrong with the rows of the index, the place of the latents aside."""
    wrong_split = [row for row in index if row["split"] not in SPLITS]
    wrong_codec = [row for row in index if row["codec"] != info["codec"]]
    wrong_number = [row for row in index if not _numbered(row)]
    order = [(row["song_id"], row["chunk"]) for row in index]
    unordered = [Fault(f"{INDEX}: not in the order of songs and chunks")] if order != sorted(order) else []
    return [
        *pair_fault(f"{INDEX}: more than one row", repeated(index, "pair_id")),
        *pair_fault(f"{INDEX}: a split that is neither {' nor '.join(SPLITS)}", wrong_split),
        *pair_fault(f"{INDEX}: a codec other than {info['codec']!r}", wrong_codec),
        *pair_fault(f"{INDEX}: a name that says another chunk than the row", wrong_number),
        *unordered,
    ]


def place_faults(info: Mapping[str, Any], index: Sequence[Row], tombstones: Sequence[Row]) -> list[Fault]:
    """What is wrong with where the index and the tombstones say that latents lie."""
    files, shards = info["files"], {row["shard"] for row in index}
    outside = [row for row in index if not is_shard(row["shard"])]
    unnamed = {name for name in shards if is_shard(name) and name not in files}
    named = [row for row in [*index, *tombstones] if row["shard"] in files]
    other = {row["shard"] for row in named if row["shard_sha256"] != files[row["shard"]]["sha256"]}
    unlisted = [name for name in files if is_shard(name) and name not in shards]
    taken = {(row["shard"], row["row"]) for row in index}
    graves = [row for row in tombstones if row["shard"] not in shards or (row["shard"], row["row"]) in taken]
    return [
        *pair_fault(f"{INDEX}: no name of a shard", outside),
        *pair_fault(f"{INDEX}: one place for several pairs", repeated(index, "shard", "row")),
        *_shard_faults(f"in {INDEX}, but not in {MANIFEST}", unnamed),
        *_shard_faults(f"the tables and {MANIFEST} name different digests", other),
        *_shard_faults(f"in {MANIFEST}, but no pair lies in it", unlisted),
        *([Fault(f"{TOMBSTONES}: not buried: {listed(row['pair_id'] for row in graves)}")] if graves else []),
    ]


def song_faults(index: Sequence[Row], songs: Sequence[Row]) -> list[Fault]:
    """Pairs and songs that do not know each other."""
    by_id = {song["song_id"]: song for song in songs}
    unknown = [row for row in index if row["song_id"] not in by_id]
    failed = [row for row in index if by_id.get(row["song_id"], {}).get("status", "ok") != "ok"]
    there = Counter(row["song_id"] for row in index)
    miscounted = [song["song_id"] for song in songs if song["pairs"] != there[song["song_id"]]]
    twice = {song["song_id"] for song in repeated(songs, "song_id")}
    return [
        *pair_fault(f"{SONGS}: no row for the song of pairs", unknown),
        *pair_fault(f"{SONGS}: a song that failed has pairs", failed),
        *([Fault(f"{SONGS}: pairs other than {INDEX} has: {listed(miscounted)}")] if miscounted else []),
        *([Fault(f"{SONGS}: more than one row: {listed(twice)}; {AGAIN}", final=True)] if twice else []),
    ]


def count_faults(
    info: Mapping[str, Any], index: Sequence[Row], songs: Sequence[Row], tombstones: Sequence[Row]
) -> list[Fault]:
    """Where `dataset.json` counts otherwise than the tables."""
    splits = Counter(row["split"] for row in index)
    counts = {
        **song_counts(songs),
        "pairs": len(index),
        **{split: splits[split] for split in SPLITS},
        "shards": len({row["shard"] for row in index}),
        "buried": len(tombstones),
    }
    said = info["counts"]
    faults = [
        Fault(f"{MANIFEST}: counts.{name} is {said.get(name, 'missing')}, the tables have {count}")
        for name, count in counts.items()
        if said.get(name) != count
    ]
    if info["content_sha256"] != content_digest(index):
        faults.append(Fault(f"{MANIFEST}: content_sha256 is not that of the pairs of {INDEX}"))
    return faults


def is_shard(name: str) -> bool:
    """True for the name of a shard, which lies in the folder of shards and nowhere else."""
    return SHARD.fullmatch(name) is not None


def repeated(rows: Iterable[Row], *columns: str) -> list[Row]:
    """The rows that share their values of `columns` with another one."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return [row for members in found.values() if len(members) > 1 for row in members]


def _shard_faults(text: str, names: Iterable[str]) -> list[Fault]:
    return [Fault(f"{name}: {text}", shards=frozenset({name})) for name in sorted(names)]


def _numbered(row: Row) -> bool:
    """False where the pair id is that of another chunk of the song."""
    song, _, number = row["pair_id"].rpartition("-")
    return song != row["song_id"] or not re.fullmatch("[0-9]{3,9}", number) or int(number) == row["chunk"]


# Are the figures of `stats.json` those of the training pairs?
#
# They are recomputed over all of them in float64, so they differ from the writer's by its rounding to eight
# digits and by the order of the additions. The tolerance, a hundred-thousandth, is a thousand times that; it
# is
# relative to |mean| + deviation, as the deviation is a difference of squares.
#
# Shapes: C = 64 latent channels, T frames.


TOLERANCE = 1e-5

Float64 = NDArray[np.float64]


@dataclass
class Sums:
    """Sums over pairs.

    Attributes:
        pairs: How many.
        frames: Frames of all of them.
        values: By stream, the sum of the values and that of their squares: (2, 2, C).
    """

    pairs: int = 0
    frames: int = 0
    values: Float64 = field(default_factory=lambda: np.zeros((len(STREAMS), 2, CHANNELS)))

    def add(self, *pair: Halves) -> None:
        """Count vocal and accompaniment of a pair, each (C, T)."""
        for stream, latents in enumerate(pair):
            # In NumPy: PyTorch's threads and those over the shards would stand in each other's way.
            values = latents.astype(np.float64)
            self.values[stream] += values.sum(axis=1), np.einsum("ct,ct->c", values, values)
        self.pairs += 1
        self.frames += pair[0].shape[1]

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.pairs + other.pairs, self.frames + other.frames, self.values + other.values)

    def figures(self) -> dict[str, dict[str, Float64]]:
        """Mean and deviation (C,) by stream, as `stats.json` has them."""
        mean, squares = self.values[:, 0] / self.frames, self.values[:, 1] / self.frames
        std = np.sqrt(np.maximum(squares - mean**2, 0.0))
        std[std < STILL] = 1.0
        return {stream: {"mean": mean[i], "std": std[i]} for i, stream in enumerate(STREAMS)}


def statistics_faults(content: bytes, sums: Sums, training: int) -> list[Fault]:
    """What is wrong with the content of `stats.json`.

    Args:
        content: It.
        sums: Over the sound training pairs.
        training: How many training pairs there are; where some are not sound, nothing can be compared, and
            a repair computes the figures anew in any case.
    """
    try:
        stats = Stats.model_validate_json(content).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:80] for part in first["loc"])
        return [Fault(f"{STATS}: {where}: {first['msg']}")]
    if sums.pairs != training or not training:
        return []
    return [
        fault
        for stream, figures in sums.figures().items()
        for fault in _statistics_faults(stream, stats[stream], figures)
    ]


def _statistics_faults(
    stream: str, said: Mapping[str, list[float]], figures: Mapping[str, Float64]
) -> list[Fault]:
    allowed = TOLERANCE * (np.abs(figures["mean"]) + figures["std"])
    faults = []
    for name, right in figures.items():
        wrong = np.flatnonzero(np.abs(np.array(said[name]) - right) > allowed)
        if wrong.size:
            channel = int(wrong[0])
            example = (
                f"channel {channel} has {said[name][channel]:.6g}, the training pairs {right[channel]:.6g}"
            )
            faults.append(Fault(f"{STATS}: {stream} {name} of {wrong.size} channels: {example}"))
    return faults


# Does each shard hold the pairs that the index says, as they were written?
#
# A shard is read into memory once: its digest, its header, then pair by pair.
#
# Shapes: N pairs, C = 64 latent channels, T = 1024 frames.


MOST_BYTES = 2**30  # a shard of 256 pairs of 1024 frames has a sixteenth of it
AT_ONCE = 4  # shards in memory
_INFINITE = (
    "values that are not finite (if build-popdb brings them back, delete the folder of latents whose "
    "entry.json names the latents_sha256 of the pair)"
)

Buffer = bytes | memoryview


@dataclass
class Shard:
    """What a dataset says of a shard.

    Attributes:
        name: Its name.
        listed: Its rows of the index.
        buried: Its rows of the tombstones.
        sha256: Its digest, and
        bytes: its size in `dataset.json`; of one that is not there, as the index says, and None.
        there: Its size where it lies; None: it is missing.
    """

    name: str
    listed: list[Row] = field(default_factory=list)
    buried: list[Row] = field(default_factory=list)
    sha256: str | None = None
    bytes: int | None = None
    there: int | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows of both tables, in the order of the file."""
        return sorted([*self.listed, *self.buried], key=lambda row: row["row"])

    def fault(self, text: str, broken: Iterable[Row] = ()) -> Fault:
        """A fault of this shard, for which the `broken` ones of its pairs cannot stay."""
        listed_ids = {row["pair_id"] for row in self.listed}
        ids = frozenset(row["pair_id"] for row in broken) & listed_ids
        return Fault(f"{self.name}: {text}", ids, frozenset({self.name}))


@dataclass(frozen=True)
class Checked:
    """What was found in a shard: its faults, and sums over its sound training pairs."""

    faults: list[Fault]
    sums: Sums


def check_shards(folder: Folder, shards: Sequence[Shard], frames: int) -> Checked:
    """Read and check every shard, several at a time; hashing leaves Python's lock to the others."""
    room = _Room()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, AT_ONCE)) as pool:
        found = list(pool.map(partial(_check, folder, frames, room), shards))
    sums = sum((checked.sums for checked in found), Sums())
    return Checked([fault for checked in found for fault in checked.faults], sums)


def shards_of(
    folder: Folder, files: Mapping[str, Any], index: Iterable[Row], tombstones: Iterable[Row]
) -> list[Shard]:
    """The shards of the index, each with what the dataset says of it."""
    shards: dict[str, Shard] = {}
    for row in index:
        if is_shard(row["shard"]):
            shards.setdefault(row["shard"], Shard(row["shard"])).listed.append(row)
    for row in tombstones:
        if row["shard"] in shards:
            shards[row["shard"]].buried.append(row)
    sizes = folder.sizes("shards")
    for name, shard in shards.items():
        named = files.get(name, {"sha256": shard.listed[0]["shard_sha256"], "bytes": None})
        shard.sha256, shard.bytes = named["sha256"], named["bytes"]
        shard.there = sizes.get(name)
    return [shards[name] for name in sorted(shards)]


def pair_at(content: Buffer, layout: Layout, row: int) -> tuple[Halves, Halves] | None:
    """Vocal and accompaniment, each (C, T), of a row of a shard; None where the shard ends before."""
    starts = [offset + row * layout.row_bytes for offset in layout.offsets]
    if not 0 <= row < layout.shape[0] or max(starts) + layout.row_bytes > len(content):
        return None
    count = layout.row_bytes // 2
    vocal, accompaniment = (np.frombuffer(content, np.float16, count, start) for start in starts)
    return vocal.reshape(layout.shape[1:]), accompaniment.reshape(layout.shape[1:])


class _Room(threading.local):
    """Memory of a thread for one shard after another: new pages cost more than the reading."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, folder: Folder, name: str, size: int) -> Buffer:
        """The content of a file of `size` bytes, until the next one is read."""
        if not isinstance(folder, LocalFolder):
            return folder.read(name) or b""
        if len(self._bytes) < size:
            self._bytes = bytearray(size)
        content = memoryview(self._bytes)[:size]
        with FileIO(folder.path / name) as file:
            return content[: file.readinto(content)]


def _check(folder: Folder, frames: int, room: _Room, shard: Shard) -> Checked:
    if shard.there is None:
        return Checked([shard.fault(f"missing, with {listed(_ids(shard.listed))}", shard.listed)], Sums())
    if shard.there > MOST_BYTES:
        return Checked([shard.fault(f"{shard.there} bytes are no shard", shard.listed)], Sums())
    try:
        content = room.read(folder, shard.name, shard.there)
    except OSError as error:
        return Checked([unreadable(shard.name, error)], Sums())
    right = hashlib.sha256(content).hexdigest() == shard.sha256
    changed = _file_faults(shard, len(content), right)
    try:
        layout = header_of(BytesIO(content[: 8 + LONGEST_HEADER]), shard.name)
        _demand_shape(layout, frames)
    except (DatasetError, ValueError) as error:
        reason = str(error).removeprefix(f"{shard.name}: ")
        return Checked([*changed, shard.fault(reason, shard.listed)], Sums())
    checked = _check_pairs(shard, content, layout)
    return Checked([*changed, *_header_faults(shard, layout, right), *checked.faults], checked.sums)


def _file_faults(shard: Shard, size: int, right: bool) -> list[Fault]:
    if shard.bytes not in (size, None):
        return [shard.fault(f"{size} bytes, {MANIFEST} names {shard.bytes}")]
    return [] if right else [shard.fault(f"its bytes are not those {MANIFEST} names")]


def _demand_shape(layout: Layout, frames: int) -> None:
    whole = all(type(length) is int for length in (*layout.shape, *layout.offsets))
    if not whole or layout.shape[1:] != (CHANNELS, frames):
        raise ValueError(f"pairs of shape {layout.shape[1:]}, the dataset has {(CHANNELS, frames)}")


def _header_faults(shard: Shard, layout: Layout, right: bool) -> list[Fault]:
    """What the header says otherwise than the tables; where its bytes are wrong, it proves nothing."""
    names, known = layout.pair_ids, {row["row"]: row for row in shard.rows}
    other = [
        row for row in shard.rows if row["row"] in range(len(names)) and names[row["row"]] != row["pair_id"]
    ]
    lost = [str(name) for row, name in enumerate(names) if row not in known]
    faults = []
    if len(names) != layout.shape[0]:
        faults.append(shard.fault(f"its header names {len(names)} pairs, and has {layout.shape[0]} rows"))
    if other:
        text = f"its header has other pairs in the places of {listed(_ids(other))}"
        faults.append(shard.fault(text, other if right else ()))
    if lost:
        faults.append(shard.fault(f"neither in {INDEX} nor in {TOMBSTONES}: {listed(lost)}"))
    return faults


def _check_pairs(shard: Shard, content: Buffer, layout: Layout) -> Checked:
    """Whether the latents of each row are those of the tables."""
    absent: list[Row] = []
    changed: list[Row] = []
    infinite: list[Row] = []
    sums, training = Sums(), {row["row"] for row in shard.listed if row["split"] == "train"}
    for row in shard.rows:
        pair = pair_at(content, layout, row["row"])
        if pair is None:
            absent.append(row)
        elif pair_sha256(*pair) != row["pair_sha256"]:
            changed.append(row)
        elif not all(finite(latents) for latents in pair):
            infinite.append(row)
        elif row["row"] in training:
            sums.add(*pair)
    found = {"beyond its end": absent, "not the latents that were written": changed, _INFINITE: infinite}
    faults = [shard.fault(f"{what}: {listed(_ids(rows))}", rows) for what, rows in found.items() if rows]
    return Checked(faults, sums)


def _ids(rows: Iterable[Row]) -> list[str]:
    return [row["pair_id"] for row in rows]


# All checks of a dataset, from the outside in: what a later one relies on, an earlier one has looked at.


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        state: The dataset; None where there is none that can be opened.
        faults: What is wrong with it.
        tables: Its rows.
    """

    state: State | None
    faults: list[Fault]
    tables: Tables = field(default_factory=lambda: Tables(None, None, None))

    @property
    def lines(self) -> list[str]:
        """A line for each fault."""
        return [fault.line for fault in self.faults]

    @property
    def mendable(self) -> bool:
        """True where a repair can do something about all of it."""
        return not any(fault.final for fault in self.faults)


def examine(folder: Folder) -> Examined:
    """Check the dataset in a folder; anew where it was replaced in the meantime."""
    while True:
        state = opened(folder)
        if isinstance(state, Fault):
            return Examined(None, [state])
        found = _examine(state)
        now = opened(folder)
        if (
            not found.faults
            or not isinstance(now, State)
            or (now.info, now.pending) == (state.info, state.pending)
        ):
            return found


def opened(folder: Folder) -> State | Fault:
    """The dataset in a folder, or why it cannot be opened."""
    try:
        return state_of(folder)
    except DatasetError as error:
        return Fault(str(error), final=True)
    except OSError as error:
        return unreadable(folder.location, error)


def _examine(state: State) -> Examined:
    if faults := manifest_faults(state.info):
        return Examined(state, faults)
    contents, faults = read_beside(state)
    tables, wrong = read_tables(contents)
    found = Examined(state, [*pending_faults(state), *faults, *wrong], tables)
    if tables.index is None or tables.songs is None:
        return found
    more = _faults(state, contents.get(STATS), tables.index, tables.songs, tables.tombstones or [])
    return replace(found, faults=[*found.faults, *more])


def _faults(
    state: State, stats: bytes | None, index: list[Row], songs: list[Row], tombstones: list[Row]
) -> list[Fault]:
    info, training = state.info, sum(row["split"] == "train" for row in index)
    shards = shards_of(state.folder, info["files"], index, tombstones)
    checked = check_shards(state.folder, shards, info["chunk_frames"])
    return [
        *index_faults(info, index),
        *place_faults(info, index, tombstones),
        *song_faults(index, songs),
        *count_faults(info, index, songs, tombstones),
        *checked.faults,
        *_left_over(state, index),
        *leakage_faults(index, songs),
        *(statistics_faults(stats, checked.sums, training) if stats is not None else []),
    ]


def _left_over(state: State, index: list[Row]) -> list[Fault]:
    known = {row["shard"] for row in index} | set(state.info["files"])
    left = sorted(
        name for name in state.folder.sizes("shards") if name not in known and SHARD.fullmatch(name)
    )
    text = "left over by a write that was stopped, or of one that is going on"
    return [Fault(f"{name}: {text}; --repair removes it") for name in left]


def verify(location: Path | str, cache: Path | None = None) -> list[str]:
    """Every fault of the dataset at a path or URL, one line each; an empty list for a sound one.

    Nothing is written, and no lock is taken: what another process is writing at the time may be named as
    left over. A dataset that cannot be opened at all gives one line.

    Args:
        location: A folder, or a URL that fsspec knows.
        cache: Not read: what is checked is what lies at the URL.

    Raises:
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    return examine(folder_of(location, cache)).lines
