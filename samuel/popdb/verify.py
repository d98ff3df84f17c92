"""Is a dataset what it says it is? Every byte is read.

The manifest and its counts; that the tables agree, and no name in them leads out of the folder; that both
tensors of a pair are those that were written together and hold numbers only; that no song, recording, audio
file or pair is on both sides of the split; the statistics. Whatever is in a dataset gives a line, not an
exception.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from samuel.artifacts import sha256
from samuel.errors import DatasetError
from samuel.popdb import dataset
from samuel.popdb.dataset import CARD, MANIFEST, OWN_NAME, REBUILD, SPLITS, ChannelSums
from samuel.popdb.folder import Folder, open_folder
from samuel.popdb.tables import INDEX_SCHEMA, SONGS_SCHEMA, Row, counts_of

NAMED = 8  # pairs named in a line
AT_ONCE = 4  # shards that are read side by side: hashing leaves Python's lock to the others
TOLERANCE = 1e-5  # of the statistics, relative to |mean| + deviation, for rounding and the order of additions


def verify(location: Path | str, cache: Path | None = None) -> list[str]:
    """Every fault of the dataset at a path or URL (see `open_folder`), one line each; none for a sound one.

    No lock is taken and no cache looked at. A dataset that is replaced meanwhile is checked anew.
    """
    folder, checked, faults = open_folder(location, cache), None, list[str]()
    while True:
        try:
            info = dataset.read_manifest(folder)
        except (DatasetError, OSError) as error:
            return [_printable(_reason(MANIFEST, error))]
        if info == checked:
            return faults
        faults, checked = [_printable(fault) for fault in _faults(folder, info)], info
        if not faults:
            return []


def _faults(folder: Folder, info: dict[str, Any]) -> Iterator[str]:
    try:
        card = folder.read(CARD, dataset.MOST_CARD_BYTES)
        found = hashlib.sha256(card).hexdigest() if card is not None else None
        if found != info["files"][CARD]["sha256"]:
            yield f"{CARD}: {'not the one' if found else 'missing, the one'} that {MANIFEST} names; {REBUILD}"
    except (DatasetError, OSError) as error:
        yield _reason(CARD, error)
    for name in sorted(folder.sizes().keys() - info["files"].keys()):
        if OWN_NAME.fullmatch(name):
            yield f"{name}: left over by a write that was stopped, or of one that is going on; {REBUILD}"
    tables: list[list[Row]] = []
    for table in ("index", "songs"):
        try:
            tables.append(dataset.read_listed(folder, info, table).to_pylist())
        except (DatasetError, OSError) as error:
            yield _reason(info[table], error).removeprefix(f"{folder.location}: ")
    if len(tables) < 2:
        return
    index, songs = tables
    yield from _table_faults(info, index, songs)
    for name, count in counts_of(index, songs).items():
        if info["counts"][name] != count:
            yield f"{MANIFEST}: counts.{name} is {info['counts'][name]}, the tables have {count}"
    if info["content_sha256"] != dataset.content_digest(index):
        yield f"{MANIFEST}: content_sha256 is not that of the pairs of the index"
    yield from _shard_faults(folder, info, index)


def _table_faults(info: Mapping[str, Any], pairs: Sequence[Row], listed: Sequence[Row]) -> Iterator[str]:
    """Rows of both tables that are wrong by themselves, do not know each other, or stand on both sides."""
    index: Any = pd.DataFrame(pairs, columns=INDEX_SCHEMA.names)
    songs: Any = pd.DataFrame(listed, columns=SONGS_SCHEMA.names)
    song = songs.drop_duplicates("song_id").set_index("song_id")
    status, shards = index["song_id"].map(song["status"]), index["shard"]
    names = index["song_id"] + "-" + index["chunk"].map("{:03d}".format)
    for text, wrong in {
        "more than one row": index["pair_id"].duplicated(keep=False),
        f"a split that is neither {' nor '.join(SPLITS)}": ~index["split"].isin(SPLITS),
        "a name that says another chunk than the row": index["pair_id"] != names,
        f"in a shard that {MANIFEST} does not name": ~shards.isin(info["files"]),
        "no song for pairs": status.isna(),
        "pairs of a song that failed": status.notna() & (status != "ok"),
    }.items():
        if wrong.any():
            yield f"index: {text}: {_listed(index['pair_id'][wrong].unique())}"
    order = list(zip(index["song_id"], index["chunk"], strict=True))
    if order != sorted(order):
        yield "index: not in the order of songs and chunks"
    first = shards.drop_duplicates()
    in_order = shards.equals(first.repeat(shards.value_counts()[first]).reset_index(drop=True))
    if not in_order or (index["row"] != index.groupby("shard").cumcount()).any():
        yield "index: the pairs are not in the shards in its order"
    for name in sorted(name for name in info["files"] if name.startswith("shards/")):
        if name not in set(first):
            yield f"{name}: in {MANIFEST}, but no pair lies in it"
    counted = songs["song_id"].map(index["song_id"].value_counts()).fillna(0)
    if (miscounted := songs["song_id"][songs["pairs"] != counted]).size:
        yield f"songs: pairs other than the index has: {_listed(miscounted.unique())}"
    if (twice := songs["song_id"][songs["song_id"].duplicated()]).size:
        yield f"songs: more than one row: {_listed(twice.unique())}"
    kinds = {
        "song": index["song_id"],
        "recording": index["song_id"].map(song["recording"]),
        "audio file": index["song_id"].map(song["audio_sha256"]),
        # Silence is the same in all songs, and gives nothing away.
        "the latents": index["pair_sha256"].where(index["mix_peak"] != 0.0),
    }
    named: set[str] = set()
    for kind, values in kinds.items():
        trained = values[index["split"] == "train"].dropna()
        held_out = values[(index["split"] == "validation") & values.isin(trained)].dropna()
        for value, rows in held_out.groupby(held_out, sort=False):
            if ids := set(index["pair_id"][rows.index]) - named:
                named |= ids
                yield f"split: {kind} {value} in training and validation: {_listed(ids)}"


def _check_shard(
    folder: Folder, info: Mapping[str, Any], name: str, rows: Sequence[Row]
) -> tuple[list[str], ChannelSums]:
    """What is wrong with a shard, and the sums over its sound training pairs."""
    faults, sums, listed = list[str](), ChannelSums(), info["files"][name]
    shape = (len(rows), len(info["stats"]["vocal"]["mean"]), info["chunk_frames"])
    changed: list[str] = []
    infinite: list[str] = []
    try:
        with folder.as_it_lies(name) as path:
            if (size := path.lstat().st_size) != listed["bytes"]:
                return [f"{name}: {size} bytes, {MANIFEST} names {listed['bytes']}"], sums
            shard = dataset.Shard(path)
            if shard.shape != shape:
                return [f"{name}: pairs of shape {shard.shape}, the index has {shape}"], sums
            if sha256(path) != listed["sha256"]:
                faults.append(f"{name}: its bytes are not those {MANIFEST} names; {REBUILD}")
            pair = np.empty((2, *shape[1:]), np.float16)
            for row in rows:
                shard.read(row["row"], pair)
                if dataset.pair_sha256(*pair) != row["pair_sha256"]:
                    changed.append(row["pair_id"])
                elif not dataset.finite(pair):
                    infinite.append(row["pair_id"])
                elif row["split"] == "train":
                    sums.add(*pair)
    except FileNotFoundError:
        faults.append(f"{name}: missing, with {_listed(row['pair_id'] for row in rows)}")
    except (DatasetError, OSError) as error:
        faults.append(f"{name}: {_reason(name, error).rpartition(f'{name}: ')[2]}")
    if changed:
        faults.append(f"{name}: not the latents that were written: {_listed(changed)}")
    if infinite:
        faults.append(f"{name}: values that are not finite: {_listed(infinite)}")
    return faults, sums


def _shard_faults(folder: Folder, info: Mapping[str, Any], index: Sequence[Row]) -> Iterator[str]:
    """Faults of all shards, and of the statistics where no pair is at fault itself."""
    by_shard: dict[str, list[Row]] = {}
    for row in index:
        if row["shard"] in info["files"]:
            by_shard.setdefault(row["shard"], []).append(row)
    sums, shards = ChannelSums(), sorted(by_shard)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, AT_ONCE)) as pool:
        for faults, own in pool.map(lambda name: _check_shard(folder, info, name, by_shard[name]), shards):
            sums.merge(own)
            yield from faults
    if not sums.pairs or sums.pairs != sum(row["split"] == "train" for row in index):
        return
    for stream, right in sums.statistics().items():
        figures = {name: np.array(values) for name, values in right.items()}
        allowed = TOLERANCE * (np.abs(figures["mean"]) + figures["std"])
        for name, values in figures.items():
            said = np.array(info["stats"][stream][name])
            wrong = np.flatnonzero(np.abs(said - values) > allowed)
            if wrong.size:
                first = int(wrong[0])
                example = f"channel {first} has {said[first]:.6g}, the training pairs {values[first]:.6g}"
                yield f"{MANIFEST}: stats: {stream} {name} of {wrong.size} channels: {example}"


def _listed(names: Iterable[str]) -> str:
    """Names in their order, all of them where they are few."""
    some = sorted(names)
    more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
    return ", ".join(some[:NAMED]) + more


def _reason(name: str, error: Exception) -> str:
    """Why a file cannot be read; where the system does not let us, it may be whole."""
    if not isinstance(error, OSError):
        return str(error)
    reason = f"cannot be read ({type(error).__name__}: {error.strerror or error})"
    return f"{name}: {reason}; make it readable, or delete it where the disk is failing"


def _printable(text: str) -> str:
    """A line that shows on any terminal as it is: much of it comes from the dataset."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
