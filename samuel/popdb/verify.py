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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

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
from samuel.popdb.tables import Row, song_counts

NAMED = 8  # pairs named in a line
AT_ONCE = 4  # shards that are read side by side
TOLERANCE = 1e-5
"""Of the statistics, relative to |mean| + deviation, as the deviation is a difference of squares. They differ
from the writer's by its rounding to eight digits and by the order of the additions."""


def verify(location: Path | str, cache: Path | None = None) -> list[str]:
    """Every fault of the dataset at a path or URL, one line each; an empty list for a sound one.

    Nothing is written, and no lock is taken: what another process is writing at the time may be named as
    left over. A dataset that is replaced meanwhile is checked anew. One that cannot be opened gives one line.

    Args:
        location: A folder, or a URL that fsspec knows.
        cache: Where a shard from a URL lies while it is read; what is kept there is not looked at.

    Raises:
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    folder = open_folder(location, cache)
    while True:
        info, faults = _examine(folder)
        if not faults or info == _examine_manifest(folder)[0]:
            return [_printable(fault) for fault in faults]


def _examine(folder: Folder) -> tuple[dict[str, Any] | None, list[str]]:
    info, faults = _examine_manifest(folder)
    return info, [*faults, *(_faults(folder, info) if info else ())]


def _examine_manifest(folder: Folder) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        return read_manifest(folder), []
    except (DatasetError, OSError) as error:
        return None, [str(error) if isinstance(error, DatasetError) else _unreadable(MANIFEST, error)]


def _faults(folder: Folder, info: dict[str, Any]) -> Iterator[str]:
    sizes = folder.sizes()
    yield from _file_faults(folder, info, sizes)
    tables: dict[str, list[Row]] = {}
    for table in ("index", "songs"):
        try:
            tables[table] = read_listed(folder, info, table).to_pylist()
        except (DatasetError, pa.ArrowException) as error:
            yield str(error).removeprefix(f"{folder.location}: ")
        except OSError as error:
            yield _unreadable(info[table], error)
    if len(tables) < 2:
        return
    index, songs = tables["index"], tables["songs"]
    yield from _index_faults(info, index)
    yield from _song_faults(index, songs)
    yield from _count_faults(info, index, songs)
    yield from _leakage_faults(index, songs)
    sums = ChannelSums()
    yield from _shard_faults(folder, info, index, sums)
    if sums.pairs == sum(row["split"] == "train" for row in index):  # others are at fault themselves
        yield from _statistics_faults(info["stats"], sums)


def _file_faults(folder: Folder, info: dict[str, Any], sizes: Mapping[str, int]) -> Iterator[str]:
    """Files other than tables and shards, which are read anyway; and those that nobody names."""
    try:
        found = folder.sha256(CARD)
        if found != info["files"][CARD]["sha256"]:
            yield f"{CARD}: {'not the one' if found else 'missing, the one'} that {MANIFEST} names; {REBUILD}"
    except (OSError, DatasetError) as error:
        yield str(error) if isinstance(error, DatasetError) else _unreadable(CARD, error)
    for name in sorted(sizes.keys() - info["files"].keys()):
        if OWN_NAME.fullmatch(name):
            yield f"{name}: left over by a write that was stopped, or of one that is going on; {REBUILD}"


def _index_faults(info: Mapping[str, Any], index: Sequence[Row]) -> Iterator[str]:
    """What is wrong with the rows of the index by themselves."""
    shards = [name for name in info["files"] if name.startswith("shards/")]
    by_shard = _grouped(index, lambda row: row["shard"])
    placed = [pair for name in by_shard for pair in by_shard[name]]
    order = [(row["song_id"], row["chunk"]) for row in index]
    yield from _pairs_at_fault("more than one row", _repeated(index, "pair_id"))
    yield from _pairs_at_fault(
        f"a split that is neither {' nor '.join(SPLITS)}",
        [row for row in index if row["split"] not in SPLITS],
    )
    yield from _pairs_at_fault(
        "a name that says another chunk than the row",
        [row for row in index if row["pair_id"] != f"{row['song_id']}-{row['chunk']:03d}"],
    )
    yield from _pairs_at_fault(
        f"in a shard that {MANIFEST} does not name", [row for row in index if row["shard"] not in shards]
    )
    if order != sorted(order):
        yield "index: not in the order of songs and chunks"
    if placed != index or any(
        [row["row"] for row in rows] != list(range(len(rows))) for rows in by_shard.values()
    ):
        yield "index: the pairs are not in the shards in its order"
    for name in sorted(set(shards) - by_shard.keys()):
        yield f"{name}: in {MANIFEST}, but no pair lies in it"


def _song_faults(index: Sequence[Row], songs: Sequence[Row]) -> Iterator[str]:
    """Pairs and songs that do not know each other."""
    status = {song["song_id"]: song["status"] for song in songs}
    pairs = Counter(row["song_id"] for row in index)
    miscounted = [song["song_id"] for song in songs if song["pairs"] != pairs[song["song_id"]]]
    twice = {song["song_id"] for song in _repeated(songs, "song_id")}
    yield from _pairs_at_fault("no song for pairs", [row for row in index if row["song_id"] not in status])
    yield from _pairs_at_fault(
        "pairs of a song that failed", [row for row in index if status.get(row["song_id"], "ok") != "ok"]
    )
    if miscounted:
        yield f"songs: pairs other than the index has: {_listed(miscounted)}"
    if twice:
        yield f"songs: more than one row: {_listed(twice)}"


def _count_faults(info: Mapping[str, Any], index: Sequence[Row], songs: Sequence[Row]) -> Iterator[str]:
    """Where `dataset.json` counts otherwise than the tables."""
    splits = Counter(row["split"] for row in index)
    counts = {
        **song_counts(songs),
        "pairs": len(index),
        **{split: splits[split] for split in SPLITS},
        "shards": len({row["shard"] for row in index}),
    }
    for name, count in counts.items():
        if info["counts"][name] != count:
            yield f"{MANIFEST}: counts.{name} is {info['counts'][name]}, the tables have {count}"
    if info["content_sha256"] != content_digest(index):
        yield f"{MANIFEST}: content_sha256 is not that of the pairs of the index"


def _leakage_faults(index: Sequence[Row], songs: Sequence[Row]) -> Iterator[str]:
    """What is on both sides of the split: a song, a recording, an audio file, the latents of a pair.

    The pairs at fault are those of the validation split; each is named once.
    """
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
    shape = (len(info["stats"]["vocal"]["mean"]), info["chunk_frames"])

    def check(name: str) -> tuple[list[str], ChannelSums]:
        listed, own = info["files"][name], ChannelSums()
        try:
            with folder.as_it_lies(name) as path:
                return list(_check_shard(path, name, listed, by_shard[name], shape, own)), own
        except FileNotFoundError:
            return [f"{name}: missing, with {_listed(row['pair_id'] for row in by_shard[name])}"], own
        except DatasetError as error:
            return [f"{name}: {str(error).rpartition(f'{name}: ')[2]}"], own
        except OSError as error:
            return [_unreadable(name, error)], own

    with ThreadPoolExecutor(min(os.cpu_count() or 1, AT_ONCE)) as pool:
        for faults, own in pool.map(check, sorted(by_shard)):
            sums.merge(own)
            yield from faults


def _check_shard(
    path: Path,
    name: str,
    listed: Mapping[str, Any],
    rows: Sequence[Row],
    shape: tuple[int, int],
    sums: ChannelSums,
) -> Iterator[str]:
    """What is wrong with the shard at `path`; its sound training pairs are added to `sums`."""
    if (size := path.lstat().st_size) != listed["bytes"]:
        yield f"{name}: {size} bytes, {MANIFEST} names {listed['bytes']}"
        return
    shard = Shard(path)
    if sha256(path) != listed["sha256"]:
        yield f"{name}: its bytes are not those {MANIFEST} names; {REBUILD}"
    if shard.layout.shape != (len(rows), *shape):
        yield f"{name}: pairs of shape {shard.layout.shape}, the index has {(len(rows), *shape)}"
        return
    pair = empty_batch(1, *shape)[:, 0]
    changed, infinite = [], []
    for row in rows:
        shard.read(row["row"], pair)
        if pair_sha256(*pair) != row["pair_sha256"]:
            changed.append(row["pair_id"])
        elif not finite(pair):
            infinite.append(row["pair_id"])
        elif row["split"] == "train":
            sums.add(*pair)
    if changed:
        yield f"{name}: not the latents that were written: {_listed(changed)}"
    if infinite:
        yield f"{name}: values that are not finite: {_listed(infinite)}"


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


def _repeated(rows: Iterable[Row], column: str) -> list[Row]:
    groups = _grouped(rows, lambda row: row[column]).values()
    return [row for members in groups if len(members) > 1 for row in members]


def _pairs_at_fault(text: str, rows: Collection[Row]) -> Iterator[str]:
    if rows:
        yield f"index: {text}: {_listed({row['pair_id'] for row in rows})}"


def _listed(names: Iterable[str]) -> str:
    """Names in their order, all of them where they are few."""
    some = sorted(names)
    more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
    return ", ".join(some[:NAMED]) + more


def _unreadable(name: str, error: OSError) -> str:
    """What is said of a file that the system does not let us read; it may be whole."""
    reason = f"cannot be read ({type(error).__name__}: {error.strerror or error})"
    return f"{name}: {reason}; make it readable, or delete it where the disk is failing"


def _printable(text: str) -> str:
    """A line that shows on any terminal as it is: much of it comes from the dataset."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
