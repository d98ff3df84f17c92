"""The tables: their rows, and that they are small while they are made."""

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
)
from tests.popdb.latents import encoded_song, failed_song


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


NAMES = [f"song{i}" for i in range(2000)]


def test_the_share_held_out_is_the_one_asked_for_and_depends_on_no_other_song() -> None:
    many = held_out(NAMES, 0.1, seed=0)
    assert len(many) == pytest.approx(200, abs=40)
    assert held_out(NAMES[:500], 0.1, seed=0) == many & set(NAMES[:500])
    assert many != held_out(NAMES, 0.1, seed=1)
