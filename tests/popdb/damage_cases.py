"""What `verify` says of each damage, line for line, and what a repair costs."""

import math

from tests.popdb.damage import (
    AGAIN,
    ALL,
    BYTES,
    CHANGED,
    INFINITE,
    Case,
    another,
    change,
    cut,
    disown,
    fill,
    flip,
    flip_name,
    halve,
    leave,
    lose,
    one_more,
    reindex,
    rename_pairs,
    reshard,
    resong,
    restate,
    restatistic,
    same_latents,
    seal,
    set_row,
    spoil,
    stop_midway,
    swap_vocals,
)
from tests.popdb.latents import FRAMES

ROW = 2 * 64 * FRAMES
OUTSIDE = "../../outside.safetensors"


SHARDS = {
    "a bit of a vocal": Case(
        lambda popdb: flip(popdb, 0, lambda layout: layout.offsets[0] + ROW),
        [BYTES, CHANGED + "a-001"],
        ["a-001"],
    ),
    "the last bit of an accompaniment": Case(
        lambda popdb: flip(popdb, 0, lambda layout: layout.offsets[1] + 3 * ROW - 1),
        [BYTES, CHANGED + "a-002"],
        ["a-002"],
    ),
    "a bit of a buried pair": Case(
        lambda popdb: flip(popdb, 1, lambda layout: layout.offsets[0] + 2 * ROW),
        [BYTES.replace("0", "1"), CHANGED.replace("0", "1") + "x-000"],
    ),
    "a bit of a name": Case(flip_name, [BYTES, "{0}: its header has other pairs in the places of b-000"]),
    "a bit of the header's braces": Case(
        lambda popdb: flip(popdb, 0, lambda _: 8),
        [BYTES, "{0}: not a shard (JSONDecodeError: Expecting value: line 1 column 1 (char 0))"],
        ALL,
    ),
    "a bit of the header's length": Case(
        lambda popdb: flip(popdb, 0, lambda _: 5),
        [BYTES, "{0}: not a shard (ValueError: a header of HEADER bytes)"],
        ALL,
    ),
    "a shard cut short": Case(
        cut, ["{0}: SHORT bytes, dataset.json names WHOLE", "{0}: beyond its end: b-000"], ["b-000"]
    ),
    "a shard lost": Case(lose(""), ["{0}: missing, with a-000, a-001, a-002, b-000"], ALL),
    "not a number": Case(
        lambda popdb: reshard(popdb, fill("vocal", math.nan), pairs=True), [INFINITE, "CONTENT"], ["a-001"]
    ),
    "infinite": Case(
        lambda popdb: reshard(popdb, fill("accompaniment", -math.inf), pairs=True),
        [INFINITE, "CONTENT"],
        ["a-001"],
    ),
    "vocals swapped": Case(
        lambda popdb: reshard(popdb, swap_vocals), [CHANGED + "a-000, a-001"], ["a-000", "a-001"]
    ),
    "a stream of another shape": Case(
        lambda popdb: reshard(popdb, halve("vocal")),
        ["{0}: not a shard (ValueError: vocal (4, 64, 32) and accompaniment (4, 64, 64) differ in shape)"],
        ALL,
    ),
    "pairs of another shape": Case(
        lambda popdb: reshard(popdb, halve("vocal", "accompaniment")),
        ["{0}: pairs of shape (64, 32), the dataset has (64, 64)"],
        ALL,
    ),
    "a row that nobody knows": Case(
        lambda popdb: reshard(popdb, one_more),
        ["{0}: neither in index.parquet nor in tombstones.parquet: z-000"],
    ),
    "a header without names": Case(
        lambda popdb: reshard(popdb, lambda _, ids: ids.clear()),
        ["{0}: its header names 0 pairs, and has 4 rows"],
    ),
    "a shard that nobody knows": Case(
        leave("shards/00007-0123456789ab.safetensors"),
        [
            "shards/00007-0123456789ab.safetensors: left over by a write that was stopped, or of one that is "
            "going on; --repair removes it"
        ],
    ),
}

FILES = {
    "an interrupted write": Case(
        stop_midway, ["a write that was interrupted, or is going on: its files are whole, not yet in place"]
    ),
    "a write that never was": Case(
        leave(".pending/songs.parquet"),
        [".pending: 1 files left over by a write that was stopped, or is going on"],
    ),
    "the card lost": Case(lose("README.md"), ["README.md: missing"]),
    "another card": Case(spoil("README.md", b"#"), ["README.md: its bytes are not those dataset.json names"]),
    "the statistics lost": Case(lose("stats.json"), ["stats.json: missing"]),
    "the tombstones lost": Case(
        lose("tombstones.parquet"),
        [
            "tombstones.parquet: missing",
            "dataset.json: counts.buried is 2, the tables have 0",
            "{1}: neither in index.parquet nor in tombstones.parquet: x-000, x-001",
        ],
    ),
    "the index lost": Case(lose("index.parquet"), [f"index.parquet: missing; {AGAIN}"], mendable=False),
    "the songs lost": Case(lose("songs.parquet"), [f"songs.parquet: missing; {AGAIN}"], mendable=False),
    "a folder for the card": Case(
        lose("README.md", folder=True),
        [
            "README.md: cannot be read (IsADirectoryError: Is a directory); make it readable, or delete it "
            "where the disk is failing"
        ],
        mendable=False,
    ),
    "the index of another dataset": Case(
        another("index.parquet"),
        [f"index.parquet: its bytes are not those dataset.json names; {AGAIN}"],
        mendable=False,
    ),
    "an index that is no table": Case(
        spoil("index.parquet", b"PAR1", sealed=True),
        [f"index.parquet: LIBRARY; {AGAIN}"],
        mendable=False,
    ),
}

INDEX = {
    "a name twice": Case(
        reindex(lambda rows: [rows[0], rows[1], rows[2] | {"pair_id": "a-001", "chunk": 1}, *rows[3:]]),
        ["index.parquet: more than one row: a-001", "{0}: its header has other pairs in the places of a-001"],
        ["a-001"],
    ),
    "another order": Case(
        reindex(lambda rows: [rows[1], rows[0], *rows[2:]]),
        ["index.parquet: not in the order of songs and chunks"],
    ),
    "a third split": Case(
        reindex(set_row(0, split="test")),
        [
            "index.parquet: a split that is neither train nor validation: a-000",
            "dataset.json: counts.train is 5, the tables have 4",
            "STATS",
        ],
        ["a-000"],
    ),
    "another codec": Case(
        reindex(set_row(1, codec="mel/2")), ["index.parquet: a codec other than 'mel/1': a-001"], ["a-001"]
    ),
    "another chunk": Case(
        reindex(set_row(2, chunk=7)),
        ["index.parquet: a name that says another chunk than the row: a-002"],
        ["a-002"],
    ),
    "two pairs in one place": Case(
        reindex(
            lambda rows: [
                rows[0],
                rows[1] | {name: rows[0][name] for name in ("row", "pair_sha256")},
                *rows[2:],
            ]
        ),
        [
            "index.parquet: one place for several pairs: a-000, a-001",
            "{0}: its header has other pairs in the places of a-001",
            "{0}: neither in index.parquet nor in tombstones.parquet: a-001",
            "STATS",
        ],
        ["a-000", "a-001"],
    ),
    "pairs renamed": Case(
        reindex(rename_pairs),
        ["{0}: its header has other pairs in the places of a-000, a-001"],
        ["a-000", "a-001"],
    ),
    "a shard outside": Case(
        reindex(set_row(4, shard=OUTSIDE)),
        [
            "index.parquet: no name of a shard: c-000",
            "dataset.json: counts.shards is 2, the tables have 3",
            "{1}: neither in index.parquet nor in tombstones.parquet: c-000",
        ],
        ["c-000"],
    ),
    "a shard anywhere": Case(
        reindex(set_row(4, shard="/etc/passwd")),
        [
            "index.parquet: no name of a shard: c-000",
            "dataset.json: counts.shards is 2, the tables have 3",
            "{1}: neither in index.parquet nor in tombstones.parquet: c-000",
        ],
        ["c-000"],
    ),
    "a row beyond the shard": Case(
        reindex(set_row(4, row=99)),
        ["{1}: neither in index.parquet nor in tombstones.parquet: c-000", "{1}: beyond its end: c-000"],
        ["c-000"],
    ),
    "a row before the shard": Case(
        reindex(set_row(4, row=-1)),
        ["{1}: neither in index.parquet nor in tombstones.parquet: c-000", "{1}: beyond its end: c-000"],
        ["c-000"],
    ),
    "another digest of a shard": Case(
        reindex(set_row(4, shard_sha256="0" * 64)),
        ["{1}: the tables and dataset.json name different digests"],
    ),
    "a row without a split": Case(
        lambda popdb: change(popdb, "index", "a-000", split=None),
        [f"index.parquet: split is empty in some rows; {AGAIN}"],
        mendable=False,
    ),
    "tombstones of pairs": Case(
        lambda popdb: seal(popdb.root, tombstones=[*popdb.tombstones, popdb.tombstones[0] | {"row": 0}]),
        [
            "tombstones.parquet: not buried: x-000",
            "dataset.json: counts.buried is 2, the tables have 3",
            "{1}: not the latents that were written: x-000",
            "{1}: its header has other pairs in the places of x-000",
        ],
    ),
    "a tombstone that names another": Case(
        lambda popdb: change(popdb, "tombstones", "x-000", pair_id="y-000"),
        ["{1}: its header has other pairs in the places of y-000"],
    ),
    "a pair that lost its row": Case(
        reindex(lambda rows: [row for row in rows if row["pair_id"] != "a-001"]),
        [
            "songs.parquet: pairs other than index.parquet has: a",
            "dataset.json: counts.pairs is 6, the tables have 5",
            "dataset.json: counts.train is 5, the tables have 4",
            "{0}: neither in index.parquet nor in tombstones.parquet: a-001",
            "STATS",
        ],
    ),
}

SONGS = {
    "a song missing": Case(
        resong(lambda rows: rows[1:]),
        [
            "songs.parquet: no row for the song of pairs: a-000, a-001, a-002",
            "dataset.json: counts.songs_listed is 4, the tables have 3",
            "dataset.json: counts.songs_kept is 3, the tables have 2",
            "dataset.json: counts.chunks is 6, the tables have 3",
        ],
        ALL[:3],
    ),
    "a song that failed": Case(
        resong(set_row(0, status="too_short")),
        ["songs.parquet: a song that failed has pairs: a-000, a-001, a-002"],
        ALL[:3],
    ),
    "a song that counts otherwise": Case(
        resong(set_row(0, pairs=2)),
        [
            "songs.parquet: pairs other than index.parquet has: a",
            "dataset.json: counts.chunks_left_out is 0, the tables have 1",
        ],
    ),
    "a song twice": Case(
        resong(lambda rows: [*rows, rows[3]]),
        [
            f"songs.parquet: more than one row: d; {AGAIN}",
            "dataset.json: counts.songs_listed is 4, the tables have 5",
        ],
        mendable=False,
    ),
    "a recording on both sides": Case(
        resong(lambda rows: [rows[0], rows[1] | {"recording": rows[0]["recording"]}, *rows[2:]]),
        ["split: recording a in training and validation: b-000"],
        ["b-000"],
    ),
    "an audio file on both sides": Case(
        resong(lambda rows: [rows[0], rows[1] | {"audio_sha256": rows[0]["audio_sha256"]}, *rows[2:]]),
        ["split: audio file a in training and validation: b-000"],
        ["b-000"],
    ),
    "a song on both sides": Case(
        reindex(set_row(2, split="validation")),
        [
            "dataset.json: counts.train is 5, the tables have 4",
            "dataset.json: counts.validation is 1, the tables have 2",
            "split: song a in training and validation: a-002",
            "STATS",
        ],
        ["a-002"],
    ),
    "a pair on both sides": Case(
        same_latents, ["split: the latents DIGEST in training and validation: b-000"], ["b-000"]
    ),
}

MANIFEST = {
    "another format": Case(
        restate(format_version=99), ["ROOT: format 99, this version reads 3; update samuel"], mendable=False
    ),
    "no JSON": Case(
        spoil("dataset.json", b"{"),
        [
            "ROOT: the dataset is damaged (JSONDecodeError: LIBRARY); run build-popdb again, or import it "
            "again"
        ],
        mendable=False,
    ),
    "JSON too deep": Case(
        spoil("dataset.json", b"[" * 100_000),
        ["ROOT: the dataset is damaged (RecursionError: LIBRARY); run build-popdb again, or import it again"],
        mendable=False,
    ),
    "no frames": Case(
        restate(chunk_frames=0),
        [f"dataset.json: chunk_frames: Input should be greater than or equal to 8; {AGAIN}"],
        mendable=False,
    ),
    "a file outside": Case(
        restate(files={OUTSIDE: {"bytes": 1, "sha256": "0" * 64}}), ["NAME"], mendable=False
    ),
    "another digest of the index": Case(
        restate(index_sha256="0" * 64),
        [f"dataset.json: Value error, index_sha256 and the digest of index.parquet differ; {AGAIN}"],
        mendable=False,
    ),
    "a size": Case(
        lambda popdb: restate(files={"README.md": popdb.info["files"]["README.md"] | {"bytes": 5}})(popdb),
        ["README.md: CARD bytes, dataset.json names another size"],
    ),
    "a count": Case(
        restate(counts={"validation": 3}), ["dataset.json: counts.validation is 3, the tables have 1"]
    ),
    "another content": Case(
        restate(content_sha256="0" * 64),
        ["dataset.json: content_sha256 is not that of the pairs of index.parquet"],
    ),
    "a file unnamed": Case(
        disown("stats.json"),
        [f"dataset.json: Value error, files: without stats.json; {AGAIN}"],
        mendable=False,
    ),
    "a shard unnamed": Case(disown(), ["{1}: in index.parquet, but not in dataset.json"]),
    "a shard without pairs": Case(
        restate(files={"shards/00009-0123456789ab.safetensors": {"bytes": 1, "sha256": "0" * 64}}),
        ["shards/00009-0123456789ab.safetensors: in dataset.json, but no pair lies in it"],
    ),
}

STATISTICS = {
    "of another dataset": Case(another("stats.json"), ["STATS"]),
    **{
        f"{name} of {stream}": Case(
            restatistic(stream, name), [f"stats.json: {stream} {name} of 1 channels: FIGURES"]
        )
        for stream in ("vocal", "accompaniment")
        for name in ("mean", "std")
    },
    "figures missing": Case(
        spoil("stats.json", b'{"vocal": {"mean": [], "std": []}}', sealed=True),
        ["stats.json: vocal.mean: List should have at least 64 items after validation, not 0"],
    ),
}

CASES: dict[str, Case] = SHARDS | FILES | INDEX | SONGS | MANIFEST | STATISTICS
