"""`verify` names every damage; datasets that were made to hurt cost one line, seconds and little memory.

The dataset has two shards, `a-000 a-001 a-002 b-000` and `c-000 c-001`. Songs a and c are
trained on, b is held out.
"""

import functools
import hashlib
import json
import math
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save
from torch import Tensor

from samuel.errors import DatasetError
from samuel.popdb.dataset import Popdb, content_digest, open_popdb, pair_sha256
from samuel.popdb.status import Status
from samuel.popdb.tables import INDEX_SCHEMA, SONGS_SCHEMA, read_table, table_bytes
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import FRAMES, encoded_song, failed_song, flip_bit, small_settings

MIB = 2**20
OUTSIDE, NEW = "../../outside.safetensors", f"shards/{'0' * 16}.safetensors"

Rows = list[dict[str, Any]]


@functools.cache
def template() -> tempfile.TemporaryDirectory[str]:
    """A folder with the dataset, and what it is made from; with this seed, song b is held out."""
    made = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    root = Path(made.name)
    songs = [encoded_song(root, name, pairs) for name, pairs in (("a", 3), ("b", 1), ("c", 2))]
    settings = small_settings(root, popdb={"path": root / "popdb", "pairs_per_shard": 4, "seed": 4})
    write_popdb([*songs, failed_song("d", Status.UNAVAILABLE)], settings)
    return made


def written(root: Path) -> Popdb:
    """The dataset, in a folder of its own."""
    shutil.copytree(template().name, root, dirs_exist_ok=True)
    return open_popdb(root / "popdb")


def shard_names(popdb: Popdb) -> list[str]:
    """In the order of the index."""
    return list(dict.fromkeys(row["shard"] for row in popdb.index))


def restate(popdb: Popdb, **fields: Any) -> None:
    """Other content of `dataset.json`; a dict is merged into the one that is there."""
    for name, value in fields.items():
        popdb.info[name] = popdb.info[name] | value if isinstance(value, dict) else value
    (popdb.root / "dataset.json").write_text(json.dumps(popdb.info))


def relist(popdb: Popdb, old: str, content: bytes) -> str:
    """Put a file in the place of `old`, under the name that its digest gives it, and have it listed."""
    digest = hashlib.sha256(content).hexdigest()
    name = old.replace(popdb.info["files"].pop(old)["sha256"][:16], digest[:16])
    (popdb.root / old).unlink()
    (popdb.root / name).write_bytes(content)
    popdb.info["files"][name] = {"bytes": len(content), "sha256": digest}
    tables = {table: name for table in ("index", "songs") if popdb.info[table] == old}
    restate(popdb, **tables)
    return name


def change_index(popdb: Popdb, edit: Callable[[Rows], Rows]) -> None:
    rows = edit([dict(row) for row in popdb.index])
    relist(popdb, popdb.info["index"], table_bytes(rows, INDEX_SCHEMA))
    restate(popdb, counts={"pairs": len(rows)}, content_sha256=content_digest(rows))


def set_row(place: int, **values: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [row | (values if i == place else {}) for i, row in enumerate(rows)]


def same_recording(popdb: Popdb) -> None:
    """The song that is held out is of the recording of one that is trained on."""
    rows = popdb.songs().to_pylist()
    rows[1]["recording"] = rows[0]["recording"]
    relist(popdb, popdb.info["songs"], table_bytes(rows, SONGS_SCHEMA))


def reshard(popdb: Popdb, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Write the first shard anew, with its digest and those of its pairs."""
    old = shard_names(popdb)[0]
    tensors = {stream: tensor.clone() for stream, tensor in load_file(popdb.root / old).items()}
    edit(tensors)
    new = relist(popdb, old, save(tensors))
    index = [row | ({"shard": new} if row["shard"] == old else {}) for row in popdb.index]
    halves = list(zip(tensors["vocal"], tensors["accompaniment"], strict=True))
    index[:4] = [row | {"pair_sha256": pair_sha256(*halves[i])} for i, row in enumerate(index[:4])]
    change_index(popdb, lambda _: index)


def same_latents(tensors: dict[str, Tensor]) -> None:
    """The held out song has the latents of a pair that is trained on."""
    for tensor in tensors.values():
        tensor[3] = tensor[0]


def link_index(popdb: Popdb) -> None:
    path = popdb.root / popdb.info["index"]
    path.rename(path.with_name("aside"))
    path.symlink_to("aside")


def shard(popdb: Popdb) -> Path:
    return popdb.root / shard_names(popdb)[0]


# Name → the damage, and patterns of all that `verify` says of it.
SHARD, INDEX = r"shards/[0-9a-f]{16}\.safetensors", r"index-[0-9a-f]{16}\.parquet"
CASES: dict[str, tuple[Callable[[Popdb], object], list[str]]] = {
    "a bit of a vocal": (
        lambda it: flip_bit(shard(it), -3 * 64 * FRAMES * 2),
        [f"{SHARD}: its bytes are not those .*; run build-popdb .*", f"{SHARD}: not the latents .*: a-001"],
    ),
    "a bit of the header": (lambda it: flip_bit(shard(it), 8), [f"{SHARD}: not a shard .*"]),
    "a shard lost": (lambda it: shard(it).unlink(), [f"{SHARD}: missing, with a-000, a-001, a-002, b-000"]),
    "a shard of a terabyte": (
        lambda it: os.truncate(shard(it), 2**40),
        [rf"{SHARD}: {2**40} bytes, dataset\.json names \d+"],
    ),
    "not a number": (
        lambda it: reshard(it, lambda tensors: tensors["vocal"][1].fill_(math.inf)),
        [f"{SHARD}: values that are not finite: a-001"],
    ),
    "a shard that nobody knows": (
        lambda it: (it.root / NEW).write_bytes(b"half of it"),
        [f"{NEW}: left over by a write .*"],
    ),
    "a link for the index": (link_index, [rf".*{INDEX}: a link; remove it, .*"]),
    "songs for an index": (
        lambda it: relist(it, it.info["index"], table_bytes([], SONGS_SCHEMA)),
        [f"{INDEX}: its columns are .*, not those of the table; .*"],
    ),
    "a name twice": (
        lambda it: change_index(it, set_row(2, pair_id="a-001", chunk=1)),
        ["index: more than one row: a-001"],
    ),
    "a pair that lost its row": (
        lambda it: change_index(it, lambda rows: rows[:5]),
        [
            "songs: pairs other .*: c",
            r".*counts\.train is 5, the tables have 4",
            f"{SHARD}: pairs of shape .*",
        ],
    ),
    "a recording on both sides": (same_recording, ["split: recording a in training and validation: b-000"]),
    "a pair on both sides": (
        lambda it: reshard(it, same_latents),
        ["split: the latents [0-9a-f]{64} in training and validation: b-000"],
    ),
    "a newer format": (
        lambda it: restate(it, format_version=99),
        [".*: format 99, this version reads 4; update samuel"],
    ),
    "another content": (
        lambda it: restate(it, content_sha256="0" * 64),
        [r"dataset\.json: content_sha256 is not that of the pairs of the index"],
    ),
    "a mean": (
        lambda it: restate(
            it, stats={"vocal": {**it.stats["vocal"], "mean": [9.0, *it.stats["vocal"]["mean"][1:]]}}
        ),
        [r"dataset\.json: stats: vocal mean of 1 channels: channel 0 has .*"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_damage_is_named(tmp_path: Path, name: str) -> None:
    popdb, (act, patterns) = written(tmp_path), CASES[name]
    assert verify(popdb.root) == []
    act(popdb)
    with within_bounds():
        found = verify(popdb.root)
    unsaid = [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in found)]
    unmeant = [line for line in found if not any(re.fullmatch(pattern, line) for pattern in patterns)]
    assert (unsaid, unmeant) == ([], [])


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    (tmp_path / "outside.safetensors").write_bytes((popdb.root / shard_names(popdb)[1]).read_bytes())
    for outside in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        change_index(popdb, set_row(4, shard=outside))
        assert "index: in a shard that dataset.json does not name: c-000" in verify(popdb.root)
        with pytest.raises(DatasetError, match=r"dataset\.json does not name .*outside"):
            open_popdb(popdb.root)


@contextmanager
def within_bounds() -> Iterator[None]:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * MIB / 1024


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{"compression": "none", "use_dictionary": False} | options)
    return sink.getvalue().to_pybytes()


def nested(values: int) -> pa.Table:
    """One row with a list of very many values that are nothing."""
    return pa.table({"vocal_shares": pa.ListArray.from_arrays([0, values], pa.nulls(values, pa.float64()))})


def in_footer(content: bytes, old: bytes, new: bytes) -> bytes:
    """A footer that says something else than the pages."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    changed = re.sub(old, new, content[start:-8], flags=re.DOTALL)
    assert changed != content[start:-8]
    assert len(changed) == len(content[start:-8])
    return content[:start] + changed + content[-8:]


def hidden_dictionary() -> bytes:
    """A page with one long text, and 50,000 times its number; by the footer it is a page of values."""
    one = pa.DictionaryArray.from_arrays(np.zeros(50_000, np.int32), ["a" * 2**16])
    content = parquet(pa.table({"title": one}), use_dictionary=True, dictionary_pagesize_limit=2**20, **BARE)
    # The offset of the values becomes that of the dictionary, and that of the dictionary one of an index.
    return in_footer(content, rb"\x26[\x80-\xff]{2}.\x26\x08\x1c", b"\x26\x88\x80\0\x16\x08\x2c")


def hidden_values() -> bytes:
    """A page of very many values, which by the footer has one."""
    return in_footer(
        parquet(pa.table({"title": pa.nulls(2**26, pa.string())}), row_group_size=2**26, **BARE),
        VARINTS[2**26],
        VARINTS[1],
    )


BARE, VARINTS = {"store_schema": False}, {2**26: b"\x80\x80\x80\x40", 1: b"\x82\x80\x80\0"}
PREFIXES = pa.table({"title": ["a" * 2**14] * 2**12})
BOMBS: dict[str, Callable[[], bytes]] = {
    "a hidden dictionary": hidden_dictionary,
    "hidden values": hidden_values,
    "prefixes": lambda: parquet(PREFIXES, column_encoding="DELTA_BYTE_ARRAY"),
    "compressed": lambda: parquet(pa.table({"title": ["a" * 8 * MIB]}), compression="zstd"),
    "rows of nothing": lambda: parquet(pa.table({"title": pa.nulls(2**26)})),
    "a list of nothing": lambda: parquet(nested(2**25 + 1)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_few_bytes_that_would_become_many_are_not_read(tmp_path: Path, bomb: str) -> None:
    content, popdb = BOMBS[bomb](), written(tmp_path)
    assert len(content) < 2 * MIB
    with (
        within_bounds(),
        pytest.raises(ValueError, match=r"compressed|too many|otherwise|other (pages|fields)"),
    ):
        read_table(content, SONGS_SCHEMA, rows=1)
    relist(popdb, popdb.info["songs"], content)
    with within_bounds():
        (line,) = verify(popdb.root)
    assert line.startswith("songs-")
    with pytest.raises(DatasetError, match="songs-"):
        open_popdb(popdb.root).songs()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"format_version": "4"}',
        {"counts": {"pairs": 10**30}},
        {"stats": {"vocal": {"mean": [0.0] * 65, "std": [1.0] * 64}}},
        {"songs": "../songs-0123456789abcdef.parquet"},
        {"files": {OUTSIDE: {"bytes": 1, "sha256": "0" * 64}}},
    ],
    ids=lambda content: repr(content)[:30],
)
def test_a_manifest_out_of_bounds_is_one_line(tmp_path: Path, content: bytes | dict[str, Any]) -> None:
    popdb = written(tmp_path)
    if isinstance(content, bytes):
        (popdb.root / "dataset.json").write_bytes(content)
    else:
        restate(popdb, **content)
    with within_bounds():
        (line,) = verify(popdb.root)
    assert "dataset.json" in line
    assert "; run build-popdb again" in line
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        open_popdb(popdb.root)
