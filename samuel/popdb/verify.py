"""Is a dataset what it says it is?

dataset.json   its format, and that every file it names has the size and the digest it names; its counts
the tables     that they agree with each other, and that no name in them leads out of the folder
shards         for each pair, that both its tensors are those that were written together and hold numbers only
the split      that no song, recording, audio file or pair is on both sides
statistics     recomputed over all training pairs, not over a sample: every shard is read anyway, and counting
               all of them needs no tolerance beyond rounding

A dataset may come from anywhere: whatever is in it gives a line, not an exception.

Shapes: N pairs, C latent channels, T frames.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from samuel.artifacts import sha256
from samuel.errors import DatasetError
from samuel.popdb.dataset import (
    CARD,
    MANIFEST,
    OWN_NAME,
    REBUILD,
    SPLITS,
    content_digest,
    read_listed,
    read_manifest,
)
from samuel.popdb.folder import Folder, open_folder
from samuel.popdb.shards import ChannelSums, Shard, empty_batch, finite, pair_sha256
from samuel.popdb.tables import Row, counts_of

NAMED = 8  # pairs named in a line
AT_ONCE = 4  # shards that are read side by side
TOLERANCE = 1e-5
"""Of the statistics, relative to |mean| + deviation, as the deviation is a difference of squares. They differ
from the writer's by its rounding to eight digits and by the order of the additions."""


def verify(location: Path | str, cache: Path | None = None) -> list[str]:
    """Every fault of the dataset at a path or URL, one line each; an empty list for a sound one.

    Nothing is written, and no lock is taken: what another process is writing at the time may be named as
    left over. A dataset that is replaced meanwhile is checked anew. One that cannot be opened gives one line.
    See `open_folder` for the arguments; what is kept in the cache is not looked at.
    """
    folder, checked, faults = open_folder(location, cache), None, list[str]()
    while True:
        try:
            info = read_manifest(folder)
        except (DatasetError, OSError) as error:
            return [_printable(_reason(MANIFEST, error))]
        if info == checked:
            return faults
        faults, checked = [_printable(fault) for fault in _faults(folder, info)], info
        if not faults:
            return []


def _faults(folder: Folder, info: dict[str, Any]) -> Iterator[str]:
    try:
        if (found := folder.sha256(CARD)) != info["files"][CARD]["sha256"]:
            yield f"{CARD}: {'not the one' if found else 'missing, the one'} that {MANIFEST} names; {REBUILD}"
    except (DatasetError, OSError) as error:
        yield _reason(CARD, error)
    for name in sorted(folder.sizes().keys() - info["files"].keys()):
        if OWN_NAME.fullmatch(name):
            yield f"{name}: left over by a write that was stopped, or of one that is going on; {REBUILD}"
    tables: list[list[Row]] = []
    for table in ("index", "songs"):
        try:
            tables.append(read_listed(folder, info, table).to_pylist())
        except (DatasetError, OSError) as error:
            yield _reason(info[table], error).removeprefix(f"{folder.location}: ")
    if len(tables) < 2:
        return
    index, songs = tables
    yield from _row_faults(info, index, songs)
    for name, count in counts_of(index, songs).items():
        if info["counts"][name] != count:
            yield f"{MANIFEST}: counts.{name} is {info['counts'][name]}, the tables have {count}"
    if info["content_sha256"] != content_digest(index):
        yield f"{MANIFEST}: content_sha256 is not that of the pairs of the index"
    yield from _leakage_faults(index, songs)
    sums = ChannelSums()
    yield from _shard_faults(folder, info, index, sums)
    if sums.pairs == sum(row["split"] == "train" for row in index):  # others are at fault themselves
        yield from _statistics_faults(info["stats"], sums)


def _row_faults(info: Mapping[str, Any], index: Sequence[Row], songs: Sequence[Row]) -> Iterator[str]:
    """Rows of the index and of the songs that are wrong by themselves, or do not know each other."""
    ids, pairs = Counter(row["pair_id"] for row in index), Counter(row["song_id"] for row in index)
    status = {song["song_id"]: song["status"] for song in songs}
    wrong: dict[str, Callable[[Row], bool]] = {
        "more than one row": lambda row: ids[row["pair_id"]] > 1,
        f"a split that is neither {' nor '.join(SPLITS)}": lambda row: row["split"] not in SPLITS,
        "a name that says another chunk than the row": lambda row: (
            row["pair_id"] != f"{row['song_id']}-{row['chunk']:03d}"
        ),
        f"in a shard that {MANIFEST} does not name": lambda row: row["shard"] not in info["files"],
        "no song for pairs": lambda row: row["song_id"] not in status,
        "pairs of a song that failed": lambda row: status.get(row["song_id"], "ok") != "ok",
    }
    for text, is_wrong in wrong.items():
        if found := {row["pair_id"] for row in index if is_wrong(row)}:
            yield f"index: {text}: {_listed(found)}"
    order = [(row["song_id"], row["chunk"]) for row in index]
    if order != sorted(order):
        yield "index: not in the order of songs and chunks"
    by_shard = Counter(row["shard"] for row in index)
    right = [(shard, row) for shard, rows in by_shard.items() for row in range(rows)]
    if right != [(row["shard"], row["row"]) for row in index]:
        yield "index: the pairs are not in the shards in its order"
    for name in sorted(info["files"]):
        if name.startswith("shards/") and name not in by_shard:
            yield f"{name}: in {MANIFEST}, but no pair lies in it"
    if miscounted := {song["song_id"] for song in songs if song["pairs"] != pairs[song["song_id"]]}:
        yield f"songs: pairs other than the index has: {_listed(miscounted)}"
    if twice := [song for song, rows in Counter(song["song_id"] for song in songs).items() if rows > 1]:
        yield f"songs: more than one row: {_listed(twice)}"


def _leakage_faults(index: Sequence[Row], songs: Sequence[Row]) -> Iterator[str]:
    """Pairs to validate on that share a song, a recording, an audio file or latents with one to train on."""
    by_id = {song["song_id"]: song for song in songs}
    kinds: dict[str, Callable[[Row], Any]] = {
        "song": lambda row: row["song_id"],
        "recording": lambda row: by_id.get(row["song_id"], {}).get("recording"),
        "audio file": lambda row: by_id.get(row["song_id"], {}).get("audio_sha256"),
        # Silence is the same in all songs, and gives nothing away.
        "the latents": lambda row: None if row["mix_peak"] == 0.0 else row["pair_sha256"],
    }
    named: set[str] = set()
    for kind, value_of in kinds.items():
        trained = {value_of(row) for row in index if row["split"] == "train"} - {None}
        held_out = [row for row in index if row["split"] == "validation" and value_of(row) in trained]
        for value, rows in _grouped(held_out, value_of).items():
            if ids := {row["pair_id"] for row in rows} - named:
                named |= ids
                yield f"split: {kind} {value} in training and validation: {_listed(ids)}"


def _shard_faults(
    folder: Folder, info: Mapping[str, Any], index: Sequence[Row], sums: ChannelSums
) -> Iterator[str]:
    """Read every shard, several at a time: hashing leaves Python's lock to the others."""
    by_shard = _grouped((row for row in index if row["shard"] in info["files"]), lambda row: row["shard"])

    def check(name: str) -> tuple[list[str], ChannelSums]:
        own, rows = ChannelSums(), by_shard[name]
        try:
            with folder.as_it_lies(name) as path:
                return [f"{name}: {fault}" for fault in _check_shard(path, info, name, rows, own)], own
        except FileNotFoundError:
            return [f"{name}: missing, with {_listed(row['pair_id'] for row in rows)}"], own
        except (DatasetError, OSError) as error:
            return [f"{name}: {_reason(name, error).rpartition(f'{name}: ')[2]}"], own

    with ThreadPoolExecutor(min(os.cpu_count() or 1, AT_ONCE)) as pool:
        for faults, own in pool.map(check, sorted(by_shard)):
            sums.merge(own)
            yield from faults


def _check_shard(
    path: Path, info: Mapping[str, Any], name: str, rows: Sequence[Row], sums: ChannelSums
) -> Iterator[str]:
    """What is wrong with the shard at `path`; its sound training pairs are added to `sums`."""
    listed, shape = info["files"][name], (len(info["stats"]["vocal"]["mean"]), info["chunk_frames"])
    if (size := path.lstat().st_size) != listed["bytes"]:
        yield f"{size} bytes, {MANIFEST} names {listed['bytes']}"
        return
    shard = Shard(path)
    if sha256(path) != listed["sha256"]:
        yield f"its bytes are not those {MANIFEST} names; {REBUILD}"
    if shard.shape != (len(rows), *shape):
        yield f"pairs of shape {shard.shape}, the index has {(len(rows), *shape)}"
        return
    pair = empty_batch(1, *shape)[:, 0]
    changed: list[str] = []
    infinite: list[str] = []
    for row in rows:
        shard.read(row["row"], pair)
        if pair_sha256(*pair) != row["pair_sha256"]:
            changed.append(row["pair_id"])
        elif not finite(pair):
            infinite.append(row["pair_id"])
        elif row["split"] == "train":
            sums.add(*pair)
    if changed:
        yield f"not the latents that were written: {_listed(changed)}"
    if infinite:
        yield f"values that are not finite: {_listed(infinite)}"


def _statistics_faults(stats: Mapping[str, Mapping[str, list[float]]], sums: ChannelSums) -> Iterator[str]:
    for stream, right in (sums.statistics() if sums.pairs else {}).items():
        figures = {name: np.array(values) for name, values in right.items()}
        allowed = TOLERANCE * (np.abs(figures["mean"]) + figures["std"])
        for name, values in figures.items():
            said = np.array(stats[stream][name])
            wrong = np.flatnonzero(np.abs(said - values) > allowed)
            if wrong.size:
                first = int(wrong[0])
                example = f"channel {first} has {said[first]:.6g}, the training pairs {values[first]:.6g}"
                yield f"{MANIFEST}: stats: {stream} {name} of {wrong.size} channels: {example}"


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _listed(names: Iterable[str]) -> str:
    """Names in their order, all of them where they are few."""
    some = sorted(names)
    more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
    return ", ".join(some[:NAMED]) + more


def _reason(name: str, error: Exception) -> str:
    """What is said of a file that cannot be read; where the system does not let us, it may be whole."""
    if not isinstance(error, OSError):
        return str(error)
    reason = f"cannot be read ({type(error).__name__}: {error.strerror or error})"
    return f"{name}: {reason}; make it readable, or delete it where the disk is failing"


def _printable(text: str) -> str:
    """A line that shows on any terminal as it is: much of it comes from the dataset."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
