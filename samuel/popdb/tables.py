"""Tables of the dataset: the index, a row per pair, and the songs, a row per song of the list.

The same rows give the same bytes. Of a song, `vocal_shares` has a value for each chunk, and `pairs` counts
those that the dataset holds. A song whose chunks were all left out has status `ok`, vocal shares and no
pairs; one that failed has neither.
"""

import hashlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from samuel.artifacts import replacing
from samuel.popdb.duplicates import from_bytes, recordings
from samuel.popdb.status import Outcome

logger = logging.getLogger(__name__)

LATENTS = "latents.safetensors"

Row = dict[str, Any]

ROWS_AT_A_TIME = 1024
MOST_GROUPS, MOST_VALUES = 64, 2**25

# Arrow's own allocator keeps several times what a table of a long list took, and gives nobody else of it.
pa.set_memory_pool(pa.system_memory_pool())


def table_bytes(rows: Sequence[Row], schema: pa.Schema) -> bytes:
    """`rows` as the bytes of a Parquet file; what they hold packed is unpacked part by part."""
    parts = [rows[start : start + ROWS_AT_A_TIME] for start in range(0, len(rows), ROWS_AT_A_TIME)]
    tables = [pa.Table.from_pylist([_unpacked(row) for row in part], schema=schema) for part in parts]
    table = pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="none", use_dictionary=False)
    content = buffer.getvalue().to_pybytes()
    del tables, table, buffer
    pa.default_memory_pool().release_unused()
    return content


def write_rows(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write `rows` as a Parquet file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(table_bytes(rows, schema))


def _unpacked(row: Row) -> Row:
    return {name: value.rows() if isinstance(value, Packed) else value for name, value in row.items()}


def read_table(
    content: bytes,
    schema: pa.Schema | None = None,
    columns: Sequence[str] | None = None,
    rows: int | None = None,
) -> pa.Table:
    """The table in the bytes of a Parquet file that `table_bytes` made; it cannot be much larger than these.

    Args:
        content: Of the file.
        schema: What it must have; none: anything.
        columns: Which of it are read; none: all.
        rows: How many it must have; none: any number.

    Raises:
        ValueError: It is not one, or another.
    """
    try:
        # Not `pq.read_table`, whose first call takes a second to import pandas. And without threads: one that
        # lets go of `content` while the interpreter ends, ends it with SIGABRT.
        file = pq.ParquetFile(pa.BufferReader(content))
        _require_plain(file.metadata)
        if schema is not None and not file.schema_arrow.equals(schema):
            raise ValueError(f"its columns are {file.schema_arrow.names}, not those of the table")
        if rows not in (None, file.metadata.num_rows):
            raise ValueError(f"{file.metadata.num_rows} rows, not {rows}")
        table = file.read(columns, use_threads=False)
        table.validate(full=True)  # of its text, that it is UTF-8
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not Parquet ({error})") from error
    return table


def _require_plain(metadata: pq.FileMetaData) -> None:
    """Refuse what could make many bytes of few: compression, dictionaries, rows upon rows of nothing."""
    groups = [metadata.row_group(i) for i in range(min(metadata.num_row_groups, MOST_GROUPS))]
    chunks = [group.column(i) for group in groups for i in range(metadata.num_columns)]
    values = sum(chunk.num_values for chunk in chunks)
    if metadata.num_row_groups > MOST_GROUPS or values > MOST_VALUES:
        raise ValueError(f"{values:,} values in {metadata.num_row_groups:,} groups of rows are too many")
    for chunk in chunks:
        if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
            raise ValueError(f"{chunk.path_in_schema} is compressed, which the tables of a dataset are not")


class Packed(Sequence[Row]):
    """Rows that JSON can hold, unpacked whenever they are looked at: a tenth of the memory of the objects.

    A run over a long list holds the candidates of all its songs.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._content = zlib.compress(json.dumps(list(rows)).encode(), 1)

    def rows(self) -> list[Row]:
        """All of them; cheaper than one after the other."""
        return json.loads(zlib.decompress(self._content))

    def __len__(self) -> int:
        return len(self.rows())

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        """A row, or several."""
        return self.rows()[place]


INDEX_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False), pa.field("song_id", pa.string(), nullable=False),
        ("title", pa.string()), ("video_id", pa.string()),
        pa.field("chunk", pa.int32(), nullable=False), ("start_s", pa.float64()),
        pa.field("shard", pa.string(), nullable=False), pa.field("row", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False), ("vocal_share", pa.float64()),
        ("vocal_rms_db", pa.float64()), ("mix_peak", pa.float64()),
        pa.field("latents_sha256", pa.string(), nullable=False),
        pa.field("pair_sha256", pa.string(), nullable=False),
    ]
)  # fmt: skip
CANDIDATE = pa.struct(
    [
        ("video_id", pa.string()), ("title", pa.string()), ("channel", pa.string()),
        ("duration_s", pa.float64()), ("title_likeness", pa.float64()), ("score", pa.float64()),
        ("verdict", pa.string()), ("reason", pa.string()),
    ]
)  # fmt: skip
SONGS_SCHEMA = pa.schema(
    [
        pa.field("song_id", pa.string(), nullable=False), ("title", pa.string()),
        ("listed_duration_s", pa.float64()),
        ("popularity", pa.int32()), ("stage", pa.string()), pa.field("status", pa.string(), nullable=False),
        ("retryable", pa.bool_()), ("attempts", pa.int32()), ("message", pa.string()),
        ("video_id", pa.string()), ("video_title", pa.string()), ("channel", pa.string()),
        ("match_score", pa.float64()), ("match_reason", pa.string()), ("duration_s", pa.float64()),
        ("peak", pa.float64()), ("clipped_share", pa.float64()), ("audio_sha256", pa.string()),
        ("recording", pa.string()),
        pa.field("vocal_shares", pa.list_(pa.float64()), nullable=False),
        pa.field("pairs", pa.int32(), nullable=False),
        ("candidates", pa.list_(CANDIDATE)),
    ]
)  # fmt: skip
# Columns that are what the stages recorded under the same name.
RECORDED = (
    "video_id", "video_title", "channel", "match_score", "match_reason", "duration_s", "peak",
    "clipped_share", "audio_sha256",
)  # fmt: skip


def song_rows(
    outcomes: Sequence[Outcome], groups: Mapping[str, str], min_vocal_share: float = 0.0
) -> list[dict[str, Any]]:
    """The rows of `songs.parquet`.

    Args:
        outcomes: One per song of the list, failures included.
        groups: What `same_recordings` found.
        min_vocal_share: Least vocal share of a chunk that becomes a pair.
    """
    return [_row(outcome, groups, min_vocal_share) for outcome in outcomes]


def chunks_kept(outcome: Outcome, min_vocal_share: float) -> list[tuple[int, dict[str, Any]]]:
    """Number and description of each chunk of a song that becomes a pair, in order."""
    chunks = enumerate(outcome.record.get("chunks", []))
    return [(number, chunk) for number, chunk in chunks if chunk["vocal_share"] >= min_vocal_share]


def song_counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Counts for `dataset.json` of these rows; a chunk left out is one that became no pair."""
    chunks = sum(len(row["vocal_shares"]) for row in rows)
    return {
        "songs_listed": len(rows),
        "songs_kept": sum(row["pairs"] > 0 for row in rows),
        "chunks": chunks,
        "chunks_left_out": chunks - sum(row["pairs"] for row in rows),
    }


def why_no_pairs(rows: Sequence[dict[str, Any]], min_vocal_share: float) -> str:
    """Explain to people that none of these songs gave a pair."""
    if shares := [share for row in rows for share in row["vocal_shares"]]:
        return (
            f"popdb.min_vocal_share = {min_vocal_share:g} leaves none of {len(shares)} chunks, of which the "
            f"most sung has a vocal share of {max(shares):.2f}; lower it"
        )
    counts = dict(Counter(row["status"] for row in rows))
    first = next(row for row in rows if row["status"] != "ok")
    return f"no song could be used: {counts}, the first being {first['title']!r}: {first['message']}"


def same_recordings(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Digest of a song's audio → name of its recording: the lowest digest of all that sound the same."""
    records = [outcome.record for outcome in outcomes if "audio_sha256" in outcome.record]
    return recordings(
        {record["audio_sha256"]: from_bytes(record.get("fingerprint", b"")) for record in records}
    )


def write_songs(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `songs.parquet`, whole or not at all."""
    write_rows(path, rows, SONGS_SCHEMA)


def pair_rows(
    kept: Sequence[Outcome], groups: Mapping[str, str], min_vocal_share: float, held_share: float, seed: int
) -> list[Row]:
    """The pairs of encoded songs, in the order of the songs, without their places in shards.

    Args:
        kept: Songs with at least one chunk that is kept.
        groups: What `same_recordings` found: titles that led to one recording are on one side of the split.
        min_vocal_share: Least vocal share of a chunk that becomes a pair.
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
            "latents_sha256": outcome.artifact.sha256[LATENTS],
            **chunk,
        }
        for outcome, recording in zip(kept, recordings, strict=True)
        if outcome.artifact
        for number, chunk in chunks_kept(outcome, min_vocal_share)
    ]


def held_out(recordings: Sequence[str], share: float, seed: int) -> set[str]:
    """The recordings of the validation split, by digest or another stable name.

    A recording is held out when a hash of its name falls below `share`, so that its side never depends on
    which others there are. Where no hash does, the lowest one is taken, as long as one remains to train on.
    """
    if share == 0.0 or not recordings:
        return set()
    if len(set(recordings)) == 1:
        logger.warning("one recording only: nothing is held out, the validation loss is over training pairs")
        return set()
    rank = {recording: _uniform(seed, recording) for recording in recordings}
    below = {recording for recording, place in rank.items() if place < share}
    return below if below and len(below) < len(rank) else {min(rank, key=lambda recording: rank[recording])}


def _uniform(seed: int, recording: str) -> float:
    hashed = hashlib.sha256(f"{seed}:{recording}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64


def _row(outcome: Outcome, groups: Mapping[str, str], min_vocal_share: float) -> dict[str, Any]:
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
        "vocal_shares": [chunk["vocal_share"] for chunk in record.get("chunks", [])],
        "pairs": len(chunks_kept(outcome, min_vocal_share)),
        "candidates": record.get("candidates", []),
    }
