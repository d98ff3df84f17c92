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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from samuel.artifacts import replacing
from samuel.popdb.duplicates import from_bytes, recordings
from samuel.popdb.status import Outcome

logger = logging.getLogger(__name__)

LATENTS = "latents.safetensors"
ROWS_AT_A_TIME = 1024
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
# Columns that are what the stages recorded under the same name.
RECORDED = (
    "video_id", "video_title", "channel", "match_score", "match_reason", "duration_s", "peak",
    "clipped_share", "audio_sha256",
)  # fmt: skip


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

    def __getitem__(self, place: Any) -> Any:
        """A row, or several for a slice."""
        return self.rows()[place]


def table_bytes(rows: Sequence[Row], schema: pa.Schema) -> bytes:
    """`rows` as the bytes of a Parquet file; what they hold packed is unpacked part by part."""
    tables = [schema.empty_table()]
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        part = [
            {name: value.rows() if isinstance(value, Packed) else value for name, value in row.items()}
            for row in rows[start : start + ROWS_AT_A_TIME]
        ]
        tables.append(pa.Table.from_pylist(part, schema=schema))
    table, buffer = pa.concat_tables(tables).combine_chunks(), pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="none", use_dictionary=False)
    content = buffer.getvalue().to_pybytes()
    del tables, table, buffer
    pa.default_memory_pool().release_unused()
    return content


def write_songs(path: Path, rows: Sequence[Row]) -> None:
    """Write `songs.parquet`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(table_bytes(rows, SONGS_SCHEMA))


def read_table(
    content: bytes,
    schema: pa.Schema | None = None,
    columns: Sequence[str] | None = None,
    rows: int | None = None,
) -> pa.Table:
    """The table in the bytes of a Parquet file that `table_bytes` made; it cannot be much larger than these.

    A ValueError where it is none, or not of this schema or number of rows; `columns` are those to read.
    """
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
        if schema is not None and not file.schema_arrow.equals(schema):
            raise ValueError(f"its columns are {file.schema_arrow.names}, not those of the table")
        if rows not in (None, found.num_rows):
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
    return recordings({r["audio_sha256"]: from_bytes(r.get("fingerprint", b"")) for r in records})


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


def why_no_pairs(rows: Sequence[Row], min_vocal_share: float) -> str:
    """Explain to people that none of these songs gave a pair."""
    if shares := [share for row in rows for share in row["vocal_shares"]]:
        return (
            f"popdb.min_vocal_share = {min_vocal_share:g} leaves none of {len(shares)} chunks, of which the "
            f"most sung has a vocal share of {max(shares):.2f}; lower it"
        )
    counts = dict(Counter(row["status"] for row in rows))
    first = next(row for row in rows if row["status"] != "ok")
    return f"no song could be used: {counts}, the first being {first['title']!r}: {first['message']}"


def pair_rows(
    kept: Sequence[Outcome], groups: Mapping[str, str], min_vocal_share: float, held_share: float, seed: int
) -> list[Row]:
    """The pairs of encoded songs, in the order of the songs, without their places in shards.

    Of the recordings, `held_share` is held out; titles that led to one (`groups`) stand on one side.
    """
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
    """The recordings of the validation split, by digest or another stable name.

    A recording is held out when a hash of its name falls below `share`, so that its side never depends on
    which others there are. Where no hash does, the lowest one is taken, as long as one remains to train on.
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
