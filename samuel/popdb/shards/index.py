"""The rows of `index.parquet`: which pairs there are, and where each of them lies.

A pair keeps its place as long as its latents do. One that leaves the dataset is kept in mind in
`tombstones.parquet`, so that every row of a shard is accounted for, and that it can come back without being
written again. What is in the index follows from the songs alone and is in the order of their ids; where it
lies follows from how the dataset has grown, until it is compacted.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from samuel.popdb.outcome import Outcome
from samuel.popdb.songs import chunks_kept
from samuel.popdb.split import held_out

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
            "latents_sha256": outcome.entry.sha256[LATENTS],
            **chunk,
        }
        for outcome, recording in zip(kept, recordings, strict=True)
        if outcome.entry
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
