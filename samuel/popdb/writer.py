"""Mending a dataset: what is broken is dropped, and what is sound stays or is copied.

A pair that was dropped comes back with the next build-popdb, from the latents of its song.
"""

import hashlib
import io
import os
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
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load
from torch import Tensor

from samuel.artifacts import Artifact, sha256, write_json
from samuel.config import Settings
from samuel.errors import DatasetError, InputError
from samuel.popdb.card import dataset_card
from samuel.popdb.dataset import (
    BESIDE,
    CARD,
    FORMAT_VERSION,
    INDEX,
    INDEX_SCHEMA,
    LATENTS,
    PLACE,
    SHARD,
    SONGS,
    STATS,
    STREAMS,
    TOMBSTONE_SCHEMA,
    TOMBSTONES,
    ChannelStatistics,
    Folder,
    Halves,
    Layout,
    OpenShards,
    Popdb,
    Row,
    buried,
    commit,
    content_digest,
    disk_full_told,
    empty_batch,
    folder_of,
    header_of,
    open_folder,
    pair_rows,
    pair_sha256,
    place,
    placed,
    read_rows,
    readable,
    settle,
    shard_header,
    state_of,
    unchanged,
)
from samuel.popdb.status import Outcome
from samuel.popdb.tables import (
    chunks_kept,
    same_recordings,
    song_counts,
    song_rows,
    why_no_pairs,
    write_rows,
    write_songs,
)
from samuel.popdb.verify import Examined, Fault, examine, opened, pair_at
from samuel.store import Store, open_store

# Writing a dataset: what is new is appended, what has left is buried, and one step makes it the dataset.
#
# Shards never change: a shard's name holds the digest of its bytes, new pairs go into new shards, and a shard
# is deleted only when no pair of it is left.
#
# Shapes: N pairs, C = 64 latent channels, T = 1024 frames.


AT_A_TIME = 4  # pairs: their float64 copies stay in the processor's cache, which is five times faster

Pair = tuple[Tensor, Tensor]
Latents = tuple[Tensor, Tensor]
Read = Callable[[Sequence[Row]], Iterable[Pair]]


@dataclass(frozen=True)
class Content:
    """What a dataset is to hold.

    Attributes:
        rows: Its pairs in the order of the index; those that lie in a shard already have a place.
        read: The latents, each float16 (C, T), of rows that have none, in their order.
        songs: The rows of `songs.parquet`.
        made_of: Of `dataset.json`: source, separator, codec, chunk_frames and settings.
        pairs_per_shard: Most pairs of a new shard.
    """

    rows: Sequence[Row]
    read: Read
    songs: Sequence[dict[str, Any]]
    made_of: dict[str, Any]
    pairs_per_shard: int


def save(folder: Folder, content: Content, old: Popdb | None) -> Popdb:
    """Write what is not there yet, and make it the dataset in one step; the caller holds the lock."""
    before = set(folder.sizes("shards"))
    folder.workspace.mkdir(parents=True, exist_ok=True)
    try:
        with disk_full_told(folder):
            rows = _append(folder, content)
            info = _stage(folder, rows, content, old)
            appended = not all(placed(row) for row in content.rows)
            if changed := not unchanged(folder, info):
                commit(folder, info)
    finally:
        sweep(folder, before)
    return replace(open_folder(folder), made=appended or changed)


def sweep(folder: Folder, before: Collection[str] = ()) -> None:
    """Remove the shards that the dataset does not list; without one, all that were not there `before`."""
    popdb = readable(folder)
    listed = set(popdb.table["shard"].to_pylist()) if popdb else before
    # What is not named like a shard is somebody else's.
    folder.remove(name for name in folder.sizes("shards") if name not in listed and SHARD.fullmatch(name))


def _append(folder: Folder, content: Content) -> list[Row]:
    """Write the rows without a place into new shards; all rows, each with its place."""
    new = [i for i, row in enumerate(content.rows) if not placed(row)]
    rows = list(content.rows)
    numbers = [shard_number(row["shard"]) for row in rows if placed(row)]
    pairs = iter(content.read([rows[i] for i in new]))
    size = min(content.pairs_per_shard, len(new))
    room = empty_batch(size, content.made_of["chunk_frames"])  # for every shard: fresh memory takes longer
    for number, start in enumerate(range(0, len(new), max(1, size)), start=max(numbers, default=-1) + 1):
        members = new[start : start + size]
        latents = room[:, : len(members)]
        for into in latents.swapaxes(0, 1):
            for half, tensor in zip(into, next(pairs), strict=True):
                np.copyto(half, tensor.numpy(), casting="no")
        places = _write_shard(folder, number, [rows[i]["pair_id"] for i in members], latents)
        for i, where in zip(members, places, strict=True):
            rows[i] = rows[i] | where
    return rows


def shard_number(shard: str) -> int:
    """The number in the name of a shard."""
    return int(Path(shard).name.partition("-")[0])


def _write_shard(folder: Folder, number: int, pair_ids: Sequence[str], latents: Halves) -> list[Row]:
    """Write latents (2, N, C, T) as one shard; the places of its pairs."""
    path = folder.workspace / "shard.safetensors"
    parts = [shard_header(pair_ids, latents.shape[-1]), *(stream.data for stream in latents)]
    with ThreadPoolExecutor(1) as disk:
        written = disk.submit(_write, path, parts)  # while it is hashed
        digest = _sha256(parts)
        digests = [pair_sha256(vocal, accompaniment) for vocal, accompaniment in latents.swapaxes(0, 1)]
        written.result()
    name = f"shards/{number:05d}-{digest[:12]}.safetensors"
    folder.put(path, name, digest)
    return [
        {"shard": name, "row": row, "shard_sha256": digest, "pair_sha256": pair}
        for row, pair in enumerate(digests)
    ]


def _write(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    with path.open("wb", buffering=0) as file:
        for part in parts:
            file.write(part)
        os.fsync(file.fileno())


def _sha256(parts: Sequence[bytes | memoryview]) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def _stage(folder: Folder, rows: Sequence[Row], content: Content, old: Popdb | None) -> dict[str, Any]:
    """Write all files but the shards into the folder's workspace; the new `dataset.json`."""
    known = [*old.index, *old.tombstones] if old else []
    graves = buried(rows, known)
    work = folder.workspace
    shares = [share for song in content.songs for share in song["vocal_shares"] if share is not None]
    info = content.made_of | {
        "format_version": FORMAT_VERSION,
        "content_sha256": content_digest(rows),
        "counts": _counts(rows, graves, content.songs),
    }
    write_rows(work / INDEX, rows, INDEX_SCHEMA)
    write_rows(work / TOMBSTONES, graves, TOMBSTONE_SCHEMA)
    write_songs(work / SONGS, content.songs)
    write_json(work / STATS, _statistics(folder, rows, info["chunk_frames"], old))
    (work / CARD).write_text(dataset_card(info, shares), "utf-8")
    files = {name: {"bytes": (work / name).stat().st_size, "sha256": sha256(work / name)} for name in BESIDE}
    sizes = folder.sizes("shards")
    shards = {row["shard"]: {"bytes": sizes[row["shard"]], "sha256": row["shard_sha256"]} for row in rows}
    return info | {"index_sha256": files[INDEX]["sha256"], "files": files | shards}


def _counts(rows: Sequence[Row], graves: Sequence[Row], songs: Sequence[dict[str, Any]]) -> dict[str, int]:
    splits = [row["split"] for row in rows]
    return {
        **song_counts(songs),
        "pairs": len(rows),
        "train": splits.count("train"),
        "validation": splits.count("validation"),
        "shards": len({row["shard"] for row in rows}),
        "buried": len(graves),
    }


def _require_unchanged(rows: Sequence[Row | None], latents: Latents, location: str) -> None:
    """Compare pairs that were written by an earlier run with their digests."""
    for row, vocal, accompaniment in zip(rows, *latents, strict=True):
        if row and pair_sha256(vocal, accompaniment) != row["pair_sha256"]:
            remedy = "run samuel verify --repair, and this again"
            raise DatasetError(f"{location}: {row['pair_id']}: not the latents that were written; {remedy}")


def _statistics(folder: Folder, rows: Sequence[Row], frames: int, old: Popdb | None) -> dict[str, Any]:
    """Mean and deviation over the training pairs, in the order of the index, wherever they lie."""
    training = [row for row in rows if row["split"] == "train"]
    digests = [row["pair_sha256"] for row in training]
    if old and old.stats and [row["pair_sha256"] for row in old.pairs("train")] == digests:
        return old.stats
    statistics = {stream: ChannelStatistics() for stream in STREAMS}
    shards, known = OpenShards(), {row["shard"] for row in old.index} if old else set[str]()
    for start in range(0, len(training), AT_A_TIME):
        some = training[start : start + AT_A_TIME]
        latents = read_rows(folder, shards, some, frames)
        _require_unchanged([row if row["shard"] in known else None for row in some], latents, folder.location)
        for stream, tensor in zip(STREAMS, latents, strict=True):
            statistics[stream].add(tensor)
    return {stream: counted.summary() for stream, counted in statistics.items()}


# The dataset of a list of songs, and a dataset that has grown.
#
# The same songs in the same dataset give the same bytes, whatever the order in which they were finished;
# compacted, the same bytes as written at once.


MADE_OF = ("source", "separator", "codec", "chunk_frames", "settings")


def write_popdb(outcomes: list[Outcome], settings: Settings) -> Popdb:
    """Make the dataset hold every encoded song among `outcomes`, and nothing else.

    Pairs that it holds already stay where they are. Nothing is written where nothing has changed.

    Args:
        outcomes: One per song of the list, failures included.
        settings: Where and how.

    Raises:
        InputError: No song was encoded, or no chunk is sung enough; or a dataset of another source is there.
        OperatorError: The disk is full, or another machine is writing the dataset.
    """
    config, least = settings.popdb, settings.popdb.min_vocal_share
    outcomes = sorted(outcomes, key=lambda outcome: outcome.song.song_id)
    groups = same_recordings(outcomes)
    songs = song_rows(outcomes, groups, least)
    kept = [outcome for outcome in outcomes if chunks_kept(outcome, least)]
    if not kept:
        raise InputError(f"{why_no_pairs(songs, least)}; nothing was written to {settings.popdb_path}")
    made_of = {
        **{part: kept[0].record[part] for part in ("codec", "separator")},
        "source": settings.songs.source,
        "chunk_frames": config.chunk_frames,
        "settings": config.model_dump(mode="json", exclude={"path", "cache"}),
    }
    rows = pair_rows(kept, groups, least, config.validation_share, config.seed)
    entries = {outcome.song.song_id: outcome.artifact for outcome in kept if outcome.artifact}
    pieces = open_store(settings)
    content = Content(
        rows, lambda new: _encoded(new, entries, pieces), songs, made_of, config.pairs_per_shard
    )
    folder = folder_of(settings.popdb_path, config.cache)
    with folder.locked():
        settle(folder)
        old = readable(folder)
        _require_same_source(old, made_of["source"])
        return save(folder, replace(content, rows=_placed_in(rows, old, made_of)), old)


def require_place(settings: Settings) -> None:
    """Before the long work: may the dataset be written where the settings say?

    Raises:
        InputError: A dataset of another source is there.
        DatasetError: One of a newer format is.
        OperatorError: The place cannot be reached.
    """
    folder = folder_of(settings.popdb_path, settings.popdb.cache)
    _require_same_source(readable(folder), settings.songs.source)


def _require_same_source(old: Popdb | None, source: str) -> None:
    """Songs of another kind are another dataset: to remove it is for a person to do."""
    if old and old.info["source"] != source:
        raise InputError(
            f"{old.location}: a dataset from the source {old.info['source']!r} is there, and this one is "
            f"from {source!r}; set popdb.path, or delete it"
        )


def compact(location: Path | str, cache: Path | None = None) -> Popdb:
    """Rewrite a dataset that has grown: full shards in the order of the index, nothing that was buried.

    What comes out has the same bytes as the same songs written at once. Nothing is read or written where it
    is like that already.

    Raises:
        DatasetError: There is none, or a pair to copy is not what was written: repair it first.
        OperatorError: The disk is full, or another machine is writing the dataset.
    """
    folder = folder_of(location, cache)
    with folder.locked():
        settle(folder)
        old = open_folder(folder)
        if _is_compact(old):
            sweep(folder)
            return old
        return save(folder, content_of(old, [without_place(row) for row in old.index]), old)


def _is_compact(popdb: Popdb) -> bool:
    size = popdb.info["settings"]["pairs_per_shard"]
    places = [(shard_number(row["shard"]), row["row"]) for row in popdb.index]
    return not popdb.tombstones and places == [divmod(i, size) for i in range(len(places))]


def content_of(popdb: Popdb, rows: Sequence[Row]) -> Content:
    """The content of a dataset with these rows of it; those without a place are copied."""
    made_of = {name: popdb.info[name] for name in MADE_OF}
    lying = {row["pair_id"]: row for row in popdb.index}

    def read(new: Sequence[Row]) -> Iterator[Pair]:
        return (popdb.read_checked(lying[row["pair_id"]]) for row in new)

    songs, size = popdb.songs().to_pylist(), popdb.info["settings"]["pairs_per_shard"]
    return Content(rows, read, songs, made_of, size)


def without_place(row: Row) -> Row:
    """A row as it is before its latents are in a shard."""
    return {name: value for name, value in row.items() if name not in PLACE}


def _placed_in(rows: Sequence[Row], old: Popdb | None, made_of: dict[str, Any]) -> Sequence[Row]:
    """`rows`, with the place of each pair that the old dataset holds whole."""
    parts = ("codec", "separator", "chunk_frames")
    if old is None or any(old.info[part] != made_of[part] for part in parts):
        return rows
    sizes = old.state.folder.sizes("shards")
    whole = {name for name, size in sizes.items() if old.info["files"].get(name, {}).get("bytes") == size}
    return place(rows, [row for row in [*old.index, *old.tombstones] if row["shard"] in whole])


def _encoded(rows: Sequence[Row], entries: Mapping[str, Artifact], pieces: Store) -> Iterator[Pair]:
    """The latents of rows from what the stages left; every song is read once.

    Raises:
        DatasetError: They are not those that were encoded.
        OperatorError: They are gone.
    """
    for song_id, members in groupby(rows, lambda row: row["song_id"]):
        entry = pieces.fetch(entries[song_id])
        path, digest = entry.path(LATENTS), entry.sha256[LATENTS]
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise DatasetError(f"{path}: damaged since it was written; delete its folder and run build-popdb")
        latents = load(content)
        for chunk in (row["chunk"] for row in members):
            yield latents["vocal"][chunk], latents["accompaniment"][chunk]


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
