"""Rows that are kept small."""

import pickle
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from samuel.popdb.tables import ROWS_AT_A_TIME, SONGS_SCHEMA, Packed, write_rows

ROWS: list[dict[str, Any]] = [
    {"video_id": f"v{number}", "title": "T \N{GUITAR} \udcff", "duration_s": 1 / (number + 1), "score": None}
    for number in range(10)
]


def test_what_is_packed_comes_back() -> None:
    packed = Packed(row for row in ROWS)
    assert packed.rows() == list(packed) == ROWS
    assert (len(packed), packed[3], packed[-1], packed[2:4]) == (10, ROWS[3], ROWS[-1], ROWS[2:4])
    assert pickle.loads(pickle.dumps(packed)).rows() == ROWS  # noqa: S301  (ours: as Dask does it)
    assert list(Packed([])) == []


def test_it_is_small() -> None:
    objects = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row.values())) for row in ROWS)
    assert len(pickle.dumps(Packed(ROWS))) < objects / 5


def test_a_table_has_the_bytes_that_all_rows_at_once_have(tmp_path: Any) -> None:
    def row(number: int, candidates: Any) -> dict[str, Any]:
        return {"song_id": f"{number:06d}", "vocal_shares": [0.5] * (number % 3), "candidates": candidates}

    some = [{"video_id": "v", "title": "Ünï", "duration_s": 1.5}]
    plain = [row(number, some * (number % 4)) for number in range(2 * ROWS_AT_A_TIME + 7)]
    packed = [row(number, Packed(some * (number % 4))) for number in range(len(plain))]
    pq.write_table(pa.Table.from_pylist(plain, schema=SONGS_SCHEMA), tmp_path / "at once")
    for name, rows in (("plain", plain), ("packed", packed)):
        write_rows(tmp_path / name, rows, SONGS_SCHEMA)
        assert (tmp_path / name).read_bytes() == (tmp_path / "at once").read_bytes()


def test_the_memory_of_tables_is_everybodys() -> None:
    assert pa.default_memory_pool().backend_name == "system"


def test_a_table_without_rows_has_its_columns(tmp_path: Any) -> None:
    write_rows(tmp_path / "empty", [], SONGS_SCHEMA)
    assert pq.read_table(tmp_path / "empty").schema.equals(SONGS_SCHEMA)
