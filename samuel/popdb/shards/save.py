"""Writing a dataset: what is new is appended, what has left is buried, and one step makes it the dataset.

Shards never change: a shard's name holds the digest of its bytes, new pairs go into new shards, and a shard
is deleted only when no pair of it is left.

Shapes: N pairs, C = 64 latent channels, T = 1024 frames.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from samuel.errors import DatasetError
from samuel.files import sha256, write_json
from samuel.popdb.card import dataset_card
from samuel.popdb.shards.commit import commit, unchanged
from samuel.popdb.shards.folder import Folder, disk_full_told
from samuel.popdb.shards.index import (
    INDEX,
    INDEX_SCHEMA,
    TOMBSTONE_SCHEMA,
    TOMBSTONES,
    Row,
    buried,
    content_digest,
    placed,
)
from samuel.popdb.shards.manifest import BESIDE, CARD, FORMAT_VERSION, SHARD, SONGS, STATS
from samuel.popdb.shards.open_shards import OpenShards
from samuel.popdb.shards.reader import Popdb, open_folder, read_rows, readable
from samuel.popdb.shards.tensors import (
    STREAMS,
    Halves,
    empty_batch,
    pair_sha256,
    shard_header,
)
from samuel.popdb.songs import song_counts, write_songs
from samuel.popdb.statistics import ChannelStatistics
from samuel.popdb.tables import write_rows

AT_A_TIME = 4  # pairs: their float64 copies stay in the processor's cache, which is five times faster

Pair = Latents = tuple[Tensor, Tensor]
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
