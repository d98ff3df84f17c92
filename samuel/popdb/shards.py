"""POPDB on disk: safetensors shards, `index.parquet`, `songs.parquet`, `stats.json`, `dataset.json`.

A pair is what the index lists: a chunk that is sung for at least `popdb.min_vocal_share` of its length, under
its number among all chunks of its song. The index is written after the shards and `dataset.json`, which names
its digest, after the index; a dataset without it is not one. Everything is written in the order of song ids,
so the same songs give the same bytes, whatever the order in which they were finished.

Shapes: N pairs, C = 64 latent channels, T = 1024 frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from samuel.config import Settings
from samuel.errors import DatasetError, InputError
from samuel.files import digest, locked, read_json, remove, replacing, sha256, write_json
from samuel.popdb.outcome import Outcome
from samuel.popdb.songs import (
    chunks_kept,
    same_recordings,
    song_counts,
    song_rows,
    why_no_pairs,
    write_songs,
)
from samuel.popdb.split import held_out
from samuel.popdb.statistics import ChannelStatistics

FORMAT_VERSION = 2
STREAMS = ("vocal", "accompaniment")

INDEX_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()), ("song_id", pa.string()), ("title", pa.string()), ("video_id", pa.string()),
        ("chunk", pa.int32()), ("start_s", pa.float64()), ("shard", pa.string()), ("row", pa.int32()),
        ("shard_sha256", pa.string()), ("split", pa.string()), ("vocal_share", pa.float64()),
        ("vocal_rms_db", pa.float64()), ("mix_peak", pa.float64()), ("codec", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Popdb:
    """A dataset that was opened: its index in memory, its shards on disk.

    Attributes:
        root: Its folder.
        info: `dataset.json`.
        stats: `stats.json`.
        index: A dict per pair, in the order of the index.
        made: True when this run wrote it.
    """

    root: Path
    info: dict[str, Any]
    stats: dict[str, dict[str, list[float]]]
    index: list[dict[str, Any]]
    made: bool = False

    def pairs(self, split: str) -> list[dict[str, Any]]:
        """The index rows of `train` or `validation`."""
        return [row for row in self.index if row["split"] == split]

    def vocal_shares(self) -> list[float]:
        """Vocal share of every chunk that was measured, those that were left out included."""
        songs = pq.read_table(self.root / "songs.parquet", columns=["vocal_shares"]).to_pylist()
        return [share for song in songs for share in song["vocal_shares"]]

    def read(self, rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """Vocal and accompaniment latents of index rows, each float16 (len(rows), C, T)."""
        pairs = [self._read_one(row) for row in rows]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    def _read_one(self, row: dict[str, Any]) -> tuple[Tensor, Tensor]:
        with safe_open(self.root / row["shard"], framework="pt") as shard:
            vocal, accompaniment = (shard.get_slice(stream)[row["row"]] for stream in STREAMS)
        return vocal, accompaniment


def open_popdb(path: Path) -> Popdb:
    """Open the dataset at `path`.

    Raises:
        DatasetError: There is none, it was left half-written, or its format is not this version's.
    """
    if not (path / "dataset.json").is_file():
        raise DatasetError(f"{path}: no dataset here (dataset.json is missing); run the flow build-popdb")
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: the dataset is damaged ({reason}); run build-popdb again") from error


def _read(path: Path) -> Popdb:
    info = read_json(path / "dataset.json")
    if info["format_version"] != FORMAT_VERSION:
        found = info["format_version"]
        remedy = "run build-popdb again" if found < FORMAT_VERSION else "update samuel"
        raise DatasetError(f"{path}: format {found}, this version reads {FORMAT_VERSION}; {remedy}")
    if sha256(path / "index.parquet") != info["index_sha256"]:
        raise DatasetError(f"{path}: index.parquet is not the one dataset.json names; run build-popdb again")
    index = pq.read_table(path / "index.parquet", schema=INDEX_SCHEMA).to_pylist()
    return Popdb(path, info, read_json(path / "stats.json"), index)


def write_popdb(outcomes: list[Outcome], settings: Settings) -> Popdb:
    """Write the dataset of every encoded song among `outcomes`; nothing when it is already there.

    Args:
        outcomes: One per song of the list, failures included.
        settings: Where and how.

    Raises:
        InputError: No song was encoded, or no chunk is sung enough; the message says why.
    """
    root, least = settings.popdb_path, settings.popdb.min_vocal_share
    outcomes = sorted(outcomes, key=lambda outcome: outcome.song.song_id)
    groups = same_recordings(outcomes)
    songs = song_rows(outcomes, groups, least)
    kept = [outcome for outcome in outcomes if chunks_kept(outcome, least)]
    if not kept:
        raise InputError(f"{why_no_pairs(songs, least)}; nothing was written to {root}")
    parts = {part: kept[0].record[part] for part in ("codec", "separator")}
    latents = [(outcome.entry.sha256, chunks_kept(outcome, least)) for outcome in kept if outcome.entry]
    inputs = digest(
        FORMAT_VERSION, _essentials(songs), latents, parts, settings.popdb.model_dump(exclude={"path"})
    )
    with locked(root):
        if found := _unchanged(root, inputs):
            return _with_songs(found, songs)
        _write(root, kept, songs, groups, settings, {**parts, "inputs": inputs})
    return replace(open_popdb(root), made=True)


def _essentials(songs: list[dict[str, Any]]) -> list[list[Any]]:
    """What the pairs depend on: not what became of a song without any."""
    names = ("song_id", "title", "video_id", "recording")
    return [[song[name] for name in names] for song in songs if song["pairs"]]


def _with_songs(popdb: Popdb, songs: list[dict[str, Any]]) -> Popdb:
    """The dataset with a new `songs.parquet`, where what became of the other songs has changed."""
    if popdb.info["songs"] == digest(songs):
        return popdb
    write_songs(popdb.root / "songs.parquet", songs)
    info = popdb.info | {
        "songs": digest(songs),
        "files": {**popdb.info["files"], **_files(popdb.root, ["songs.parquet"])},
    }
    info["counts"] = popdb.info["counts"] | song_counts(songs)
    write_json(popdb.root / "dataset.json", info)
    return replace(popdb, info=info, made=True)


def _unchanged(root: Path, inputs: str) -> Popdb | None:
    try:
        popdb = open_popdb(root)
    except DatasetError:
        return None
    whole = all(
        (root / name).is_file() and (root / name).stat().st_size == file["bytes"]
        for name, file in popdb.info["files"].items()
    )
    return popdb if whole and popdb.info["inputs"] == inputs else None


def _write(
    root: Path,
    kept: list[Outcome],
    songs: list[dict[str, Any]],
    groups: dict[str, str],
    settings: Settings,
    info: dict[str, Any],
) -> None:
    # Without dataset.json the folder is no dataset: nobody reads an old index over new shards.
    remove([root / "dataset.json", root / "index.parquet", *root.glob(".*.tmp")])
    (root / "shards").mkdir(parents=True, exist_ok=True)
    rows = _pair_rows(kept, groups, settings, info["codec"])
    statistics = {stream: ChannelStatistics() for stream in STREAMS}
    shards: list[str] = []
    for name, members, tensors in _shards(kept, rows, settings.popdb.pairs_per_shard):
        with replacing(root / name) as temporary:
            save_file(tensors, temporary)
        shards.append(name)
        _enter(members, name, sha256(root / name))
        _count(statistics, members, tensors)
    remove(path for path in (root / "shards").iterdir() if f"shards/{path.name}" not in shards)
    write_json(root / "stats.json", {stream: s.summary() for stream, s in statistics.items()})
    write_songs(root / "songs.parquet", songs)
    _write_parquet(root / "index.parquet", rows, INDEX_SCHEMA)
    write_json(root / "dataset.json", info | _contents(root, rows, songs, shards, settings))


def _pair_rows(
    kept: list[Outcome], groups: dict[str, str], settings: Settings, codec: str
) -> list[dict[str, Any]]:
    config = settings.popdb
    # By recording, not by song: two titles may have led to the same one.
    recordings = [groups[outcome.record["audio_sha256"]] for outcome in kept]
    validation = held_out(recordings, config.validation_share, config.seed)
    return [
        {
            "pair_id": f"{outcome.song.song_id}-{number:03d}",
            "song_id": outcome.song.song_id,
            "title": outcome.song.title,
            "video_id": outcome.record.get("video_id"),
            "chunk": number,
            "split": "validation" if recording in validation else "train",
            "codec": codec,
            **chunk,
        }
        for outcome, recording in zip(kept, recordings, strict=True)
        for number, chunk in chunks_kept(outcome, config.min_vocal_share)
    ]


def _shards(
    kept: list[Outcome], rows: list[dict[str, Any]], size: int
) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Tensor]]]:
    """Yield (name, its index rows, its tensors), at most `size` pairs and one song in memory at a time."""
    pairs = _pairs(kept, rows)
    for number, start in enumerate(range(0, len(rows), size)):
        members = rows[start : start + size]
        latents = [next(pairs) for _ in members]
        tensors = {s: torch.stack([pair[i] for pair in latents]) for i, s in enumerate(STREAMS)}
        yield f"shards/{number:05d}.safetensors", members, tensors


def _pairs(kept: list[Outcome], rows: list[dict[str, Any]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the latents of each index row; every song is read once."""
    entries = {outcome.song.song_id: outcome.entry for outcome in kept if outcome.entry}
    for song_id, members in groupby(rows, lambda row: row["song_id"]):
        latents = load_file(entries[song_id].path("latents.safetensors"))
        for chunk in (row["chunk"] for row in members):
            yield latents["vocal"][chunk], latents["accompaniment"][chunk]


def _enter(members: list[dict[str, Any]], shard: str, shard_sha256: str) -> None:
    for row, member in enumerate(members):
        member.update(shard=shard, row=row, shard_sha256=shard_sha256)


def _count(
    statistics: dict[str, ChannelStatistics], members: list[dict[str, Any]], tensors: dict[str, Tensor]
) -> None:
    training = [i for i, member in enumerate(members) if member["split"] == "train"]
    for stream, counted in statistics.items():
        counted.add(tensors[stream][training])


def _contents(
    root: Path,
    rows: list[dict[str, Any]],
    songs: list[dict[str, Any]],
    shards: list[str],
    settings: Settings,
) -> dict[str, Any]:
    splits = [row["split"] for row in rows]
    return {
        "format_version": FORMAT_VERSION,
        "index_sha256": sha256(root / "index.parquet"),
        "files": _files(root, [*shards, "stats.json", "songs.parquet"]),
        "songs": digest(songs),
        "settings": settings.popdb.model_dump(mode="json", exclude={"path"}),
        "chunk_frames": settings.popdb.chunk_frames,
        "source": settings.songs.source,
        "counts": {
            **song_counts(songs),
            "pairs": len(rows),
            "train": splits.count("train"),
            "validation": splits.count("validation"),
        },
    }


def _files(root: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    paths = {name: root / name for name in names}
    return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in paths.items()}


def _write_parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
