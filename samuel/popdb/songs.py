"""`songs.parquet`: a row per song of the list, whatever became of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from samuel.files import replacing
from samuel.popdb.fingerprint import from_text, recordings
from samuel.popdb.outcome import Outcome

CANDIDATE = pa.struct(
    [
        ("video_id", pa.string()), ("title", pa.string()), ("channel", pa.string()),
        ("duration_s", pa.float64()), ("title_likeness", pa.float64()), ("score", pa.float64()),
        ("verdict", pa.string()), ("reason", pa.string()),
    ]
)  # fmt: skip
SONGS_SCHEMA = pa.schema(
    [
        ("song_id", pa.string()), ("title", pa.string()), ("listed_duration_s", pa.float64()),
        ("popularity", pa.int32()), ("stage", pa.string()), ("status", pa.string()),
        ("retryable", pa.bool_()), ("attempts", pa.int32()), ("message", pa.string()),
        ("video_id", pa.string()), ("video_title", pa.string()), ("channel", pa.string()),
        ("match_score", pa.float64()), ("match_reason", pa.string()), ("duration_s", pa.float64()),
        ("peak", pa.float64()), ("clipped_share", pa.float64()), ("recording", pa.string()),
        ("pairs", pa.int32()), ("candidates", pa.list_(CANDIDATE)),
    ]
)  # fmt: skip
# Columns that are what the stages recorded under the same name.
RECORDED = (
    "video_id", "video_title", "channel", "match_score", "match_reason", "duration_s", "peak",
    "clipped_share",
)  # fmt: skip


def song_rows(outcomes: Sequence[Outcome], groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of `songs.parquet`; `groups` is what `same_recordings` found."""
    return [_row(outcome, groups) for outcome in outcomes]


def same_recordings(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Digest of a song's audio → name of its recording: the lowest digest of all that sound the same."""
    records = [outcome.record for outcome in outcomes if "audio_sha256" in outcome.record]
    return recordings(
        {record["audio_sha256"]: from_text(record.get("fingerprint", "")) for record in records}
    )


def write_songs(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `songs.parquet`, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SONGS_SCHEMA), temporary)


def _row(outcome: Outcome, groups: Mapping[str, str]) -> dict[str, Any]:
    song, record = outcome.song, outcome.record
    return {
        "song_id": song.song_id,
        "title": song.title,
        "listed_duration_s": song.duration_s,
        "popularity": song.popularity,
        "stage": outcome.stage,
        "status": outcome.status.value,
        "retryable": outcome.status.retryable,
        "attempts": outcome.attempts,
        "message": outcome.message,
        **{name: record.get(name) for name in RECORDED},
        "recording": groups.get(record.get("audio_sha256", "")),
        "pairs": len(record.get("chunks", [])),
        "candidates": record.get("candidates", []),
    }
