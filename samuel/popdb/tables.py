"""Rows in Parquet: the same rows give the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from samuel.files import replacing


def write_rows(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    """Write `rows` as a Parquet file, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)


def read_table(content: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """The table in the bytes of a Parquet file.

    Raises:
        ValueError: It is not one, or has not the columns of `schema`.
    """
    try:
        # Not `pq.read_table`, whose first call takes a second to import pandas. And without threads: one that
        # lets go of `content` while the interpreter ends, ends it with SIGABRT.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not Parquet ({error})") from error
    if schema is not None and not table.schema.equals(schema):
        raise ValueError(f"its columns are {table.schema.names}, not {schema.names}")
    return table
