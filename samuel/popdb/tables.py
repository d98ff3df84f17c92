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
MOST_TABLE_BYTES, MOST_FOOTER_BYTES = 2**28, 2**20
MOST_GROUPS, MOST_VALUES = 64, 2**23  # 600,000 pairs: forty times the paper's
# Fields of the header of a page, in Thrift's compact protocol, by number: their types, or those within.
TRUE, FALSE, I32, I64, BINARY, STRUCT = 1, 2, 5, 6, 8, 12
STATISTICS = {1: BINARY, 2: BINARY, 3: I64, 4: I64, 5: BINARY, 6: BINARY, 7: TRUE, 8: TRUE}
PAGE = {1: I32, 2: I32, 3: I32, 4: I32, 5: {1: I32, 2: I32, 3: I32, 4: I32, 5: STATISTICS}}
PLAIN, RLE = 0, 3  # encodings

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


def _thrift(content: bytes, place: int, fields: Mapping[int, Any]) -> tuple[dict[int, Any], int]:
    """The fields of a struct, all of them integers, and where it ends; a ValueError for other `fields`."""
    found, number = dict[int, Any](), 0
    while head := content[place]:
        number, kind, place = number + (head >> 4), head & 15, place + 1
        wanted, kind = fields.get(number), TRUE if kind == FALSE else kind
        if head < 16 or kind != (STRUCT if isinstance(wanted, Mapping) else wanted):
            raise ValueError("a header of a page with other fields")
        if isinstance(wanted, Mapping):
            found[number], place = _thrift(content, place, wanted)
            continue
        value, shift = 0, 64 if kind == TRUE else 0
        while shift < 64:
            value, more, place = value | (content[place] & 127) << shift, content[place] > 127, place + 1
            shift = shift + 7 if more else 64
        found[number] = (value >> 1) ^ -(value & 1)  # zigzag
        if kind == BINARY:
            place += value
    return found, place + 1


def _check_pages(content: bytes, chunk: Any) -> None:
    """Hold the pages of a column to what its footer says; a ValueError where few bytes become many values."""
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
        raise ValueError(f"{chunk.path_in_schema} is compressed; the tables of a dataset are not")
    place, values = chunk.data_page_offset, 0
    end = place + chunk.total_compressed_size
    while place < end:
        page, place = _thrift(content, place, PAGE)
        about = page.get(5, {})
        # A page of plain values, each of which takes its bytes, and of levels, of which there are as many.
        if (
            page.get(1) != 0
            or page.get(2) != page.get(3)
            or [about.get(i) for i in (2, 3, 4)] != [PLAIN, RLE, RLE]
        ):
            raise ValueError(f"{chunk.path_in_schema} is encoded otherwise than in the tables of a dataset")
        place, values = place + max(0, page[3]), values + max(0, about[1])
    if (place, values) != (end, chunk.num_values):
        raise ValueError(f"{chunk.path_in_schema} has other pages than its footer says")


def read_table(
    content: bytes, schema: pa.Schema, rows: int | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """The table, or some columns, of the bytes that `table_bytes` made; a ValueError for others."""
    try:
        if int.from_bytes(content[-8:-4], "little") > MOST_FOOTER_BYTES:
            raise ValueError("a footer that is too long")
        # Not `pq.read_table`, whose first call takes a second to import pandas. And without threads: one that
        # lets go of `content` while the interpreter ends, ends it with SIGABRT.
        file = pq.ParquetFile(pa.BufferReader(content))
        found = file.metadata
        groups = [found.row_group(i) for i in range(min(found.num_row_groups, MOST_GROUPS))]
        chunks = [(group.num_rows, group.column(i)) for group in groups for i in range(found.num_columns)]
        # What could make many bytes of few: rows upon rows of nothing, compression, other encodings.
        most = min(MOST_VALUES, len(content))
        if found.num_row_groups > MOST_GROUPS or sum(max(n, c.num_values) for n, c in chunks) > most:
            raise ValueError(f"{found.num_rows:,} rows in {found.num_row_groups:,} groups: too many values")
        for _, chunk in chunks:
            _check_pages(content, chunk)
        if not file.schema_arrow.equals(schema):
            raise ValueError(f"its columns are {file.schema_arrow.names}, not those of the table")
        table = file.read(columns, use_threads=False)
        table.validate(full=True)  # of its text, that it is UTF-8
        if len(table) != (found.num_rows if rows is None else rows):
            raise ValueError(f"{len(table)} rows, not {rows}")
    except (pa.ArrowException, OSError, IndexError) as error:
        raise ValueError(f"not Parquet ({' '.join(str(error).split()):.300})") from error
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
