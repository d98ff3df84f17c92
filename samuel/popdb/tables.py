"""The tables of a dataset, pairs and songs: their rows, and Parquet files of them.

The same rows give the same bytes. A song whose chunks were all left out has status `ok`, vocal shares and no
pairs; one that failed has neither.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from samuel.artifacts import replacing
from samuel.popdb.duplicates import from_text, recordings
from samuel.popdb.status import Outcome

logger = logging.getLogger(__name__)

LATENTS = "latents.safetensors"
MOST_GROUPS, MOST_VALUES = 64, 2**25

Row = dict[str, Any]

# Arrow's own allocator keeps several times what a table of a long list took, and gives nobody else of it.
pa.set_memory_pool(pa.system_memory_pool())


def _schema(required: str, **types: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, name not in required.split()) for name, kind in types.items()])


TEXT, NUMBER, COUNT = pa.string(), pa.float64(), pa.int32()
INDEX_SCHEMA = _schema(
    "pair_id song_id chunk shard row split latents_sha256 pair_sha256",
    pair_id=TEXT, song_id=TEXT, title=TEXT, video_id=TEXT, chunk=COUNT, start_s=NUMBER, shard=TEXT, row=COUNT,
    split=TEXT, vocal_share=NUMBER, vocal_rms_db=NUMBER, mix_peak=NUMBER, latents_sha256=TEXT,
    pair_sha256=TEXT,
)  # fmt: skip
CANDIDATE = pa.struct(
    _schema(
        "", video_id=TEXT, title=TEXT, channel=TEXT, duration_s=NUMBER, title_likeness=NUMBER, score=NUMBER,
        verdict=TEXT, reason=TEXT,
    )
)  # fmt: skip
SONGS_SCHEMA = _schema(
    "song_id status vocal_shares pairs",
    song_id=TEXT, title=TEXT, listed_duration_s=NUMBER, popularity=COUNT, stage=TEXT, status=TEXT,
    retryable=pa.bool_(), attempts=COUNT, message=TEXT, video_id=TEXT, video_title=TEXT, channel=TEXT,
    match_score=NUMBER, match_reason=TEXT, duration_s=NUMBER, peak=NUMBER, clipped_share=NUMBER,
    audio_sha256=TEXT, recording=TEXT, vocal_shares=pa.list_(NUMBER), pairs=COUNT,
    candidates=pa.list_(CANDIDATE),
)  # fmt: skip
RECORDED = SONGS_SCHEMA.names[9:18]  # video_id to audio_sha256, which the stages recorded under the same name


def table_bytes(rows: Sequence[Row], schema: pa.Schema) -> bytes:
    """`rows` as the bytes of a Parquet file."""
    buffer = pa.BufferOutputStream()
    table = pa.Table.from_pylist(list(rows), schema=schema)
    pq.write_table(table, buffer, compression="none", use_dictionary=False)
    return buffer.getvalue().to_pybytes()


def write_songs(path: Path, rows: Sequence[Row]) -> None:
    """Write `songs.parquet`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(table_bytes(rows, SONGS_SCHEMA))


def read_table(
    content: bytes, schema: pa.Schema, rows: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """The table, or some columns, of the bytes that `table_bytes` made; a ValueError for others."""
    try:
        # Not `pq.read_table`, whose first call takes a second to import pandas. And without threads: one that
        # lets go of `content` while the interpreter ends, ends it with SIGABRT.
        file = pq.ParquetFile(pa.BufferReader(content))
        found = file.metadata
        groups = [found.row_group(i) for i in range(min(found.num_row_groups, MOST_GROUPS))]
        chunks = [group.column(i) for group in groups for i in range(found.num_columns)]
        # What could make many bytes of few: rows upon rows of nothing, compression, dictionaries.
        if found.num_row_groups > MOST_GROUPS or sum(c.num_values for c in chunks) > MOST_VALUES:
            raise ValueError(f"{found.num_rows:,} rows in {found.num_row_groups:,} groups: too many values")
        for chunk in chunks:
            if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
                raise ValueError(f"{chunk.path_in_schema} is compressed; the tables of a dataset are not")
        if not file.schema_arrow.equals(schema):
            raise ValueError(f"its columns are {file.schema_arrow.names}, not those of the table")
        if rows != found.num_rows:
            raise ValueError(f"{found.num_rows} rows, not {rows}")
        table = file.read(columns, use_threads=False)
        table.validate(full=True)  # of its text, that it is UTF-8
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not Parquet ({error})") from error
    return table


def chunks_kept(outcome: Outcome, min_vocal_share: float) -> list[tuple[int, Row]]:
    """Number and description of each chunk of a song that becomes a pair, in order."""
    chunks = enumerate(outcome.record.get("chunks", []))
    return [(number, chunk) for number, chunk in chunks if chunk["vocal_share"] >= min_vocal_share]


def same_recordings(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Digest of a song's audio → name of its recording: the lowest digest of all that sound the same."""
    records = [outcome.record for outcome in outcomes if "audio_sha256" in outcome.record]
    return recordings({r["audio_sha256"]: from_text(r.get("fingerprint", "")) for r in records})


def song_rows(
    outcomes: Sequence[Outcome], groups: Mapping[str, str], min_vocal_share: float = 0.0
) -> list[Row]:
    """The rows of the songs of a list, failures included; `groups` is what `same_recordings` found."""
    return [
        {
            "song_id": outcome.song.song_id,
            "title": outcome.song.title,
            "listed_duration_s": outcome.song.duration_s,
            "popularity": outcome.song.popularity,
            "stage": outcome.stage,
            "status": outcome.status.value,
            "retryable": outcome.status.retryable,
            "attempts": outcome.attempts,
            "message": outcome.message,
            **{name: outcome.record.get(name) for name in RECORDED},
            "recording": groups.get(outcome.record.get("audio_sha256", "")),
            "vocal_shares": [chunk["vocal_share"] for chunk in outcome.record.get("chunks", [])],
            "pairs": len(chunks_kept(outcome, min_vocal_share)),
            "candidates": outcome.record.get("candidates", []),
        }
        for outcome in outcomes
    ]


def counts_of(index: Sequence[Row], songs: Sequence[Row]) -> dict[str, int]:
    """Counts for `dataset.json` of the rows of both tables; a chunk left out is one that became no pair."""
    splits, chunks = Counter(row["split"] for row in index), sum(len(row["vocal_shares"]) for row in songs)
    return {
        "songs_listed": len(songs),
        "songs_kept": sum(row["pairs"] > 0 for row in songs),
        "chunks": chunks,
        "chunks_left_out": chunks - sum(row["pairs"] for row in songs),
        "pairs": len(index),
        "train": splits["train"],
        "validation": splits["validation"],
        "shards": len({row["shard"] for row in index}),
    }


def pair_rows(
    kept: Sequence[Outcome], groups: Mapping[str, str], min_vocal_share: float, held_share: float, seed: int
) -> list[Row]:
    """The pairs of encoded songs, without their places in shards; songs of one group stand on one side."""
    recording = {outcome.song.song_id: groups[outcome.record["audio_sha256"]] for outcome in kept}
    validation = held_out(list(recording.values()), held_share, seed)
    return [
        {
            "pair_id": f"{outcome.song.song_id}-{number:03d}",
            "song_id": outcome.song.song_id,
            "title": outcome.song.title,
            "video_id": outcome.record.get("video_id"),
            "chunk": number,
            "split": "validation" if recording[outcome.song.song_id] in validation else "train",
            "latents_sha256": outcome.artifact.sha256[LATENTS],
            **chunk,
        }
        for outcome in kept
        if outcome.artifact
        for number, chunk in chunks_kept(outcome, min_vocal_share)
    ]


def held_out(recordings: Sequence[str], share: float, seed: int) -> set[str]:
    """The recordings of the validation split: those of which a hash of the name falls below `share`.

    So the side of one never depends on the others. Where no hash does, the lowest one is taken.
    """
    if share == 0.0 or not recordings:
        return set()
    if len(set(recordings)) == 1:
        logger.warning("one recording only: nothing is held out, the validation loss is over training pairs")
        return set()
    hashes = {name: hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in recordings}
    rank = {name: int.from_bytes(hashed, "big") / 2**64 for name, hashed in hashes.items()}
    below = {name for name, place in rank.items() if place < share}
    return below if below and len(below) < len(rank) else {min(rank, key=lambda name: rank[name])}
