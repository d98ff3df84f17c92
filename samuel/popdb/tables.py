"""Rows in Parquet: the same rows give the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from samuel.files import replacing
from samuel.popdb.packed import Packed

ROWS_AT_A_TIME = 1024

# Arrow's own allocator keeps several times what a table of a long list took, and gives nobody else of it.
pa.set_memory_pool(pa.system_memory_pool())


def write_rows(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    """Write `rows` as a Parquet file, whole or not at all; what they hold packed is unpacked part by part."""
    parts = [rows[start : start + ROWS_AT_A_TIME] for start in range(0, len(rows), ROWS_AT_A_TIME)]
    tables = [pa.Table.from_pylist([_unpacked(row) for row in part], schema=schema) for part in parts]
    with replacing(path) as temporary:
        pq.write_table(pa.concat_tables([schema.empty_table(), *tables]).combine_chunks(), temporary)
    del tables
    pa.default_memory_pool().release_unused()


def _unpacked(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.rows() if isinstance(value, Packed) else value for name, value in row.items()}


def read_table(
    content: bytes, schema: pa.Schema | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """The table in the bytes of a Parquet file.

    Args:
        content: Of the file.
        schema: What it must have; none: anything.
        columns: Which of it are read; none: all.

    Raises:
        ValueError: It is not one, or has not the columns of `schema`.
    """
    try:
        # Not `pq.read_table`, whose first call takes a second to import pandas. And without threads: one that
        # lets go of `content` while the interpreter ends, ends it with SIGABRT.
        file = pq.ParquetFile(pa.BufferReader(content))
        if schema is not None and not file.schema_arrow.equals(schema):
            raise ValueError(f"its columns are {file.schema_arrow.names}, not {schema.names}")
        return file.read(columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not Parquet ({error})") from error
