"""Datasets that were made to hurt: one line within seconds and little memory, whatever is in them."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samuel.errors import DatasetError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.tables import INDEX_SCHEMA, SONGS_SCHEMA, read_table, table_bytes
from samuel.popdb.verify import verify
from tests.popdb.damage import relist, restate, shard_names, written

MIB = 2**20


@contextmanager
def within_bounds() -> Iterator[None]:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * MIB / 1024


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def repeated(text: str, rows: int) -> pa.Table:
    """A title of a megabyte in every row, which a dictionary holds once."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    return pa.table({"title": column.cast(pa.dictionary(pa.int32(), pa.string()))})


def nested(values: int) -> pa.Table:
    """One row with a list of very many values that are nothing."""
    return pa.table({"vocal_shares": pa.ListArray.from_arrays([0, values], pa.nulls(values, pa.float64()))})


PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False}
BOMBS: dict[str, Callable[[], bytes]] = {
    "compressed": lambda: parquet(pa.table({"title": ["a" * 8 * MIB]}), **PLAIN | {"compression": "zstd"}),
    "a dictionary": lambda: parquet(repeated("a" * MIB, 10_000), compression="none"),
    "rows of nothing": lambda: parquet(pa.table({"title": pa.nulls(2**26)}), **PLAIN),
    "a list of nothing": lambda: parquet(nested(2**25 + 1), **PLAIN),
    "groups of rows": lambda: parquet(pa.table({"row": range(100)}), compression="none", row_group_size=1),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_few_bytes_that_would_become_many_are_not_read(bomb: str) -> None:
    content = BOMBS[bomb]()
    assert len(content) < 2 * MIB
    with within_bounds(), pytest.raises(ValueError, match=r"compressed|too many"):
        read_table(content)


def test_text_that_is_none_is_refused() -> None:
    latin = pa.array(["Bj\xf6rk".encode("latin-1")]).view(pa.string())
    with pytest.raises(ValueError, match=r"not Parquet .*UTF8"):
        read_table(parquet(pa.table({"title": latin}), **PLAIN))


def test_a_table_of_other_columns_or_rows_is_refused() -> None:
    content = table_bytes([], INDEX_SCHEMA)
    assert read_table(content, INDEX_SCHEMA, rows=0).num_rows == 0
    with pytest.raises(ValueError, match="its columns are"):
        read_table(content, SONGS_SCHEMA)
    with pytest.raises(ValueError, match="0 rows, not 3"):
        read_table(content, INDEX_SCHEMA, rows=3)


@pytest.mark.parametrize("table", ["index", "songs"])
@pytest.mark.parametrize("bomb", ["a dictionary", "rows of nothing"])
def test_a_dataset_with_such_a_table_is_one_line(tmp_path: Path, table: str, bomb: str) -> None:
    popdb = written(tmp_path)
    relist(popdb, table, BOMBS[bomb]())
    with within_bounds():
        (line,) = verify(popdb.root)
    assert line.startswith(f"{table}-")
    with pytest.raises(DatasetError, match=f"{table}-"):
        open_popdb(popdb.root).songs()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b'{"format_version":' * 100_000,
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b'{"format_version": 4}',
        b'{"format_version": "4"}',
        b'{"format_version": NaN}',
        b"\xff\xfe",
        b"null",
        bytes(2**24 + 1),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_what_is_no_manifest_is_one_line(tmp_path: Path, content: bytes) -> None:
    popdb = written(tmp_path)
    (popdb.root / "dataset.json").write_bytes(content)
    with within_bounds():
        (line,) = verify(popdb.root)
    assert "dataset.json" in line
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        open_popdb(popdb.root)


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": 1},
        {"chunk_frames": 2**40},
        {"chunk_frames": True},
        {"counts": {"pairs": 10**30}},
        {"settings": {"pairs_per_shard": 0}},
        {"settings": None},
        {"stats": {"vocal": {"mean": [1e400] * 64, "std": [1.0] * 64}}},
        {"stats": {"vocal": {"mean": [0.0] * 5000, "std": [1.0] * 5000}}},
        {"source": "x" * 2000},
        {"index": "README.md"},
        {"songs": "../songs-0123456789abcdef.parquet"},
        {"files": {"dataset.json": {"bytes": 1, "sha256": "0" * 64}}},
        {"files": {f"shards/{'0' * 16}.safetensors": {"bytes": 2**50, "sha256": "0" * 64}}},
    ],
    ids=repr,
)
def test_a_manifest_out_of_bounds_is_one_line(tmp_path: Path, fields: dict[str, Any]) -> None:
    popdb = written(tmp_path)
    restate(**fields)(popdb)
    (line,) = verify(popdb.root)
    assert "; run build-popdb again" in line
    with pytest.raises(DatasetError):
        open_popdb(popdb.root)


def test_a_shard_of_a_terabyte_of_nothing_is_not_read(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    os.truncate(popdb.root / shard_names(popdb)[1], 2**40)
    with within_bounds():
        (line,) = verify(popdb.root)
    assert line.startswith(f"{shard_names(popdb)[1]}: {2**40} bytes, dataset.json names ")
