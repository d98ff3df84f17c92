"""Do the tables of a dataset agree with each other and with `dataset.json`?"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from samuel.popdb.shards.commit import MANIFEST
from samuel.popdb.shards.index import (
    INDEX,
    INDEX_SCHEMA,
    TOMBSTONE_SCHEMA,
    TOMBSTONES,
    Row,
    content_digest,
)
from samuel.popdb.shards.manifest import SHARD, SONGS
from samuel.popdb.songs import SONGS_SCHEMA, song_counts
from samuel.popdb.tables import read_table
from samuel.popdb.verify.fault import Fault, listed, pair_fault
from samuel.popdb.verify.manifest import AGAIN

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
