"""The tables: their rows, and that they are small while they are made."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samuel.popdb.status import Outcome, Status
from samuel.popdb.tables import (
    ROWS_AT_A_TIME,
    SONGS_SCHEMA,
    Packed,
    held_out,
    same_recordings,
    song_rows,
    table_bytes,
    write_songs,
)
from tests.popdb.latents import encoded_song, failed_song

ROWS: list[dict[str, Any]] = [
    {"video_id": f"v{number}", "title": "T \N{GUITAR} \udcff", "duration_s": 1 / (number + 1), "score": None}
    for number in range(10)
]


def test_what_is_packed_comes_back_and_is_small() -> None:
    packed = Packed(row for row in ROWS)
    assert packed.rows() == list(packed) == ROWS
    assert (len(packed), packed[3], packed[-1], packed[2:4]) == (10, ROWS[3], ROWS[-1], ROWS[2:4])
    objects = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row.values())) for row in ROWS)
    assert len(pickle.dumps(packed)) < objects / 5


def test_a_table_has_the_bytes_that_all_rows_at_once_have(tmp_path: Path) -> None:
    def row(number: int, candidates: Any) -> dict[str, Any]:
        shares = {"vocal_shares": [0.5] * (number % 3), "pairs": number % 3}
        return {"song_id": f"{number:06d}", "status": "ok", "candidates": candidates, **shares}

    some = [{"video_id": "v", "title": "Ünï", "duration_s": 1.5}]
    plain = [row(number, some * (number % 4)) for number in range(2 * ROWS_AT_A_TIME + 7)]
    packed = [row(number, Packed(some * (number % 4))) for number in range(len(plain))]
    table = pa.Table.from_pylist(plain, schema=SONGS_SCHEMA)
    pq.write_table(table, tmp_path / "at once", compression="none", use_dictionary=False)
    for rows in (plain, packed):
        assert table_bytes(rows, SONGS_SCHEMA) == (tmp_path / "at once").read_bytes()
    assert pq.read_table(pa.BufferReader(table_bytes([], SONGS_SCHEMA))).schema.equals(SONGS_SCHEMA)
    assert pa.default_memory_pool().backend_name == "system"  # Arrow's own keeps what it took


def sounding(root: Path, name: str, codes: Any) -> Outcome:
    """A song whose fingerprint is `codes`."""
    song = encoded_song(root, name)
    return replace(song, record=song.record | {"fingerprint": np.asarray(codes, "<u4").tobytes()})


def test_titles_that_led_to_one_recording_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes, other = rng.integers(2**32, size=(2, 600), dtype=np.uint32)
    flips = np.uint32(1) << rng.integers(32, size=600, dtype=np.uint32)
    again = np.where(rng.random(600) < 0.3, codes ^ flips, codes)  # 1 % of the bits, as another encoding has
    songs = [sounding(tmp_path, name, c) for name, c in (("b", codes), ("a", again[20:]), ("c", other))]
    songs += [encoded_song(tmp_path, name) for name in "ef"]  # which have no fingerprint
    songs.append(failed_song("d", Status.NO_MATCH, "match"))
    groups = same_recordings(songs)
    assert groups == {"a": "a", "b": "a", "c": "c", "e": "e", "f": "f"}
    assert [row["recording"] for row in song_rows(songs, groups)] == ["a", "a", "c", "e", "f", None]


def test_every_candidate_is_written(tmp_path: Path) -> None:
    candidate = {
        "video_id": "v", "title": "T \N{GUITAR}", "channel": "C", "duration_s": None, "title_likeness": 43.0,
        "score": 12.5, "verdict": "no_match", "reason": "title 43 is under 60",
    }  # fmt: skip
    failed = replace(failed_song("x", Status.NO_MATCH, "match"), record={"candidates": [candidate]})
    found = encoded_song(tmp_path, "y")
    found = replace(found, record=found.record | {"match_score": 93.5, "match_reason": "why", "peak": 0.5})
    rows = song_rows([failed, found], {})
    write_songs(tmp_path / "songs.parquet", rows)
    assert pq.read_table(tmp_path / "songs.parquet").to_pylist() == rows
    assert rows[0]["candidates"] == [candidate]
    assert (rows[0]["status"], rows[0]["stage"], rows[0]["retryable"]) == ("no_match", "match", False)
    assert (rows[1]["match_score"], rows[1]["match_reason"], rows[1]["pairs"]) == (93.5, "why", 2)


NAMES = [f"song{i}" for i in range(2000)]


def test_the_share_held_out_is_the_one_asked_for_and_depends_on_no_other_song() -> None:
    many = held_out(NAMES, 0.1, seed=0)
    assert len(many) == pytest.approx(200, abs=40)
    assert held_out(NAMES[:500], 0.1, seed=0) == many & set(NAMES[:500])
    assert many != held_out(NAMES, 0.1, seed=1)


def test_both_sides_get_a_song_of_a_small_dataset() -> None:
    for seed in range(20):
        for count, share in ((2, 0.1), (3, 0.5), (5, 0.1)):
            assert 0 < len(held_out(NAMES[:count], share, seed)) < count
    assert held_out(["a"], 0.5, seed=0) == held_out(NAMES, 0.0, seed=0) == set()
