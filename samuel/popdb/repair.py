"""Mending a dataset: what is broken is dropped, and what is sound stays or is copied.

A pair that was dropped comes back with the next build-popdb, from the latents of its song.
"""

import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import torch

from samuel.errors import DatasetError
from samuel.popdb.shards.commit import settle, state_of
from samuel.popdb.shards.folder import Folder
from samuel.popdb.shards.index import INDEX_SCHEMA, Row
from samuel.popdb.shards.reader import Popdb, open_folder
from samuel.popdb.shards.remote import folder_of
from samuel.popdb.shards.save import Pair, Read, save
from samuel.popdb.shards.tensors import Layout, header_of, pair_sha256
from samuel.popdb.shards.writer import content_of, without_place
from samuel.popdb.verify.examination import Examined, examine, opened
from samuel.popdb.verify.fault import Fault
from samuel.popdb.verify.shards import pair_at

IN_MEMORY = 4  # damaged shards that are read from at a time
DISK = "check the disk, and run it again"


@dataclass(frozen=True)
class Repaired:
    """What was wrong with a dataset, and what became of it.

    Attributes:
        faults: What `verify` said before.
        dropped: Ids of the pairs that were dropped.
        songs: Id and title, which is hostile text, of the songs that lost pairs: to be run again.
        popdb: The dataset, which is sound now; None where nothing could be done, and nothing was changed.
    """

    faults: list[str]
    dropped: list[str]
    songs: list[tuple[str, str]]
    popdb: Popdb | None


def repair(location: Path | str, cache: Path | None = None) -> Repaired:
    """Make the dataset at a path or URL a sound one, with the pairs of it that are sound.

    An interrupted write is finished, what was left over is removed, a shard with a fault is written anew
    without its broken pairs. Of what is on both sides of the split, the validation pairs are dropped. The
    statistics are computed anew. A sound dataset is left as it is.

    Nothing is changed where the index, `songs.parquet` or `dataset.json` cannot be read, or where no
    training pair is sound: the faults then say what to do.

    Args:
        location: A folder, or a URL that fsspec knows.
        cache: Where shards from a URL are kept on this machine.

    Raises:
        DatasetError: A pair changed while it was copied; the dataset is as it was.
        OperatorError: The disk is full, or another machine is writing the dataset.
        MissingPartError: The package that the URL's protocol needs is not installed.
    """
    folder = folder_of(location, cache)
    state = opened(folder)
    if isinstance(state, Fault):  # a lock would make the folder
        return Repaired([state.line], [], [], None)
    with folder.locked():
        found = examine(folder)
        if not found.faults:
            return Repaired([], [], [], open_folder(folder))
        return _mend(folder, found)


def _mend(folder: Folder, found: Examined) -> Repaired:
    index, songs = found.tables.index, found.tables.songs
    if not found.mendable or index is None or songs is None:
        return Repaired(found.lines, [], [], None)
    dropped = frozenset[str]().union(*(fault.pairs for fault in found.faults))
    kept = [row for row in index if row["pair_id"] not in dropped]
    if not any(row["split"] == "train" for row in kept):
        nothing = "no training pair is sound: nothing was changed; run build-popdb again, or import it again"
        return Repaired([*found.lines, nothing], [], [], None)
    settle(folder)
    # Without statistics, so that they are computed anew.
    old = Popdb(state_of(folder), {}, pa.Table.from_pylist(index, INDEX_SCHEMA))
    read, songs = _reader(folder, kept), _recounted(songs, kept)
    content = replace(content_of(old, _placed_soundly(kept, index, found)), read=read, songs=songs)
    popdb = save(folder, content, old if found.tables.tombstones is not None else None)
    return Repaired(found.lines, sorted(dropped), _titles(songs, index, dropped), popdb)


def _placed_soundly(kept: Sequence[Row], index: Sequence[Row], found: Examined) -> list[Row]:
    """The rows in their order; without a place where the shard has a fault, or loses a pair."""
    faulty = set[str]().union(*(fault.shards for fault in found.faults))
    ids = {row["pair_id"] for row in kept}
    faulty |= {row["shard"] for row in index if row["pair_id"] not in ids}
    rows = sorted(kept, key=lambda row: (row["song_id"], row["chunk"]))
    return [without_place(row) if row["shard"] in faulty else row for row in rows]


def _reader(folder: Folder, kept: Sequence[Row]) -> Read:
    """Reads pairs from shards that have faults."""
    lying = {row["pair_id"]: row for row in kept}

    @lru_cache(IN_MEMORY)
    def opened_shard(name: str) -> tuple[bytes, Layout]:
        content = folder.read(name) or b""
        return content, header_of(io.BytesIO(content), name)

    def read(rows: Sequence[Row]) -> Iterator[Pair]:
        for row in (lying[row["pair_id"]] for row in rows):
            pair = pair_at(*opened_shard(row["shard"]), row["row"])
            if pair is None or pair_sha256(*pair) != row["pair_sha256"]:
                raise DatasetError(f"{folder.location}: {row['shard']}: changes while it is read; {DISK}")
            vocal, accompaniment = (torch.from_numpy(latents.copy()) for latents in pair)
            yield vocal, accompaniment

    return read


def _recounted(songs: Sequence[Row], kept: Sequence[Row]) -> list[Row]:
    """The rows of `songs.parquet` with the pairs that each song still has."""
    pairs = Counter(row["song_id"] for row in kept)
    return [song | {"pairs": pairs[song["song_id"]]} for song in songs]


def _titles(songs: Sequence[Row], index: Sequence[Row], dropped: Collection[str]) -> list[tuple[str, str]]:
    """Id and title of the songs that lost pairs."""
    titles = {row["song_id"]: row["title"] for row in [*index, *songs]}
    lost = {row["song_id"] for row in index if row["pair_id"] in dropped}
    return [(song_id, titles[song_id] or "") for song_id in sorted(lost)]
