"""`verify` names every damage; datasets that were made to hurt cost one line, seconds and little memory."""

import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samuel.errors import DatasetError
from samuel.popdb import verify as verification
from samuel.popdb.dataset import open_popdb, read_manifest
from samuel.popdb.tables import read_table
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.damage import (
    CASES,
    NEW,
    NEW_FILE,
    OUTSIDE,
    change_index,
    change_songs,
    outcomes,
    relist,
    restate,
    set_row,
    settings_of,
    shard_names,
    written,
)
from tests.popdb.latents import encoded_song, flip_bit, small_settings

MIB = 2**20
# Parts of lines that are worked out elsewhere, or said by a library.
OPEN = {
    "STATS": r"dataset\.json: stats: (vocal|accompaniment) (mean|std) FIGURES",
    "FIGURES": r"of \d+ channels: channel \d+ has \S+, the training pairs \S+",
    "LIBRARY": r".+",
    "NUMBER": r"[\d,]+",
    "DIGEST": r"[0-9a-f]{64}",
    "INDEX": r"index-[0-9a-f]{16}\.parquet",
    "SONGS": r"songs-[0-9a-f]{16}\.parquet",
    "SHARD": r"shards/[0-9a-f]{16}\.safetensors",
    "ROOT": r"\S+/popdb",
}


def pattern_of(line: str) -> str:
    pattern = re.escape(line)
    for word, meaning in OPEN.items():
        pattern = re.sub(rf"\b{word}\b", lambda _, meaning=meaning: meaning, pattern)
    return pattern


@pytest.mark.parametrize("name", CASES)
def test_every_damage_is_named(tmp_path: Path, name: str) -> None:
    popdb, (act, lines) = written(tmp_path), CASES[name]
    assert verify(popdb.root) == []
    act(popdb)
    found, patterns = verify(popdb.root), [pattern_of(line) for line in lines]
    unsaid = [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in found)]
    unmeant = [line for line in found if not any(re.fullmatch(pattern, line) for pattern in patterns)]
    assert (unsaid, unmeant) == ([], [])


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    (tmp_path / "outside.safetensors").write_bytes((popdb.root / shard_names(popdb)[1]).read_bytes())
    for shard in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        change_index(set_row(4, shard=shard))(popdb)
        assert "index: in a shard that dataset.json does not name: c-000" in verify(popdb.root)
        with pytest.raises(DatasetError, match=r"dataset\.json does not name .*outside"):
            open_popdb(popdb.root)


def test_lines_are_harmless_and_short(tmp_path: Path) -> None:
    popdb = written(tmp_path)
    change_songs(set_row(3, song_id="\x1b]0;owned\a\nsound\u202e", pairs=3))(popdb)
    said = verify(popdb.root)
    assert "songs: pairs other than the index has: \\x1b]0;owned\\x07\\nsound\\u202e" in said
    assert all(line.isprintable() for line in said)
    settings = small_settings(tmp_path, popdb={"validation_share": 0.0})
    popdb = write_popdb([encoded_song(tmp_path, "long", 20)], settings)
    (popdb.root / popdb.index[0]["shard"]).unlink()
    names = ", ".join(f"long-{i:03d}" for i in range(8))
    assert verify(popdb.root) == [f"{popdb.index[0]['shard']}: missing, with {names} and 12 more"]


def test_silence_gives_nothing_away(tmp_path: Path) -> None:
    """Pairs of digital silence are alike in all songs."""
    popdb = written(tmp_path)
    CASES["a pair on both sides"][0](popdb)
    assert len(verify(popdb.root)) == 1
    change_index(set_row(3, mix_peak=0.0))(open_popdb(popdb.root))
    assert verify(popdb.root) == []


def test_the_statistics_are_compared_with_the_pairs_themselves(tmp_path: Path) -> None:
    """To what a plain mean over the training pairs is, within the tolerance, and no further."""
    popdb = written(tmp_path)
    vocal, accompaniment = (latents.double().numpy() for latents in popdb.read(popdb.pairs("train")))
    stats = {
        stream: {"mean": latents.mean(axis=(0, 2)).tolist(), "std": latents.std(axis=(0, 2)).tolist()}
        for stream, latents in (("vocal", vocal), ("accompaniment", accompaniment))
    }
    restate(stats=stats)(popdb)
    assert verify(popdb.root) == []
    stats["vocal"]["std"][5] *= 1.0002
    restate(stats=stats)(popdb)
    (line,) = verify(popdb.root)
    assert re.fullmatch(r"dataset\.json: stats: vocal std of 1 channels: channel 5 has .*", line)


def test_no_damage_to_any_file_raises(tmp_path: Path) -> None:
    """Random bytes at random places, with digests that fit, so that the checks behind them are reached."""
    random = np.random.default_rng(0)
    for turn in range(24):
        popdb = written(tmp_path / str(turn))
        path = sorted(path for path in popdb.root.rglob("[!.]*.*"))[random.integers(6)]
        content, name = bytearray(path.read_bytes()), str(path.relative_to(popdb.root))
        for place in random.integers(len(content), size=3):
            content[place] = random.integers(256)
        if name in (popdb.info["index"], popdb.info["songs"]):
            relist(name[:5], bytes(content))(popdb)
        else:
            path.write_bytes(content)
        verify(popdb.root)


def test_a_dataset_behind_a_url_is_read_where_it_lies(tmp_path: Path) -> None:
    popdb, url, cache = written(tmp_path), "memory://verified/popdb", tmp_path / "cache"
    memory = fsspec.filesystem("memory")
    memory.put(f"{popdb.root}/", "/verified/popdb/", recursive=True)
    assert verify(url, cache) == []
    open_popdb(url, cache).read(popdb.index)  # now it is kept
    shard = shard_names(popdb)[0]
    flip_bit(popdb.root / shard)
    memory.pipe_file(f"/verified/popdb/{shard}", (popdb.root / shard).read_bytes())
    assert verify(url, cache) == verify(popdb.root) != []
    settings = settings_of(tmp_path)
    at_url = settings.popdb.model_copy(update={"path": url, "cache": cache})
    write_popdb(outcomes(tmp_path), settings.model_copy(update={"popdb": at_url}))
    assert verify(url, cache) == []
    memory.rm("/verified", recursive=True)


def test_a_dataset_that_is_replaced_meanwhile_is_checked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popdb = written(tmp_path)
    infos = [popdb.info]
    write_popdb(outcomes(tmp_path)[1:], settings_of(tmp_path))
    monkeypatch.setattr(
        verification, "read_manifest", lambda folder: infos.pop() if infos else read_manifest(folder)
    )
    assert verify(popdb.root) == []
    assert infos == []


# Datasets that were made to hurt.


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


def repeated(text: str, rows: int) -> pa.Table:
    """A title of a megabyte in every row, which a dictionary holds once."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    return pa.table({"title": column.cast(pa.dictionary(pa.int32(), pa.string()))})


def nested(values: int) -> pa.Table:
    """One row with a list of very many values that are nothing."""
    return pa.table({"vocal_shares": pa.ListArray.from_arrays([0, values], pa.nulls(values, pa.float64()))})


BOMBS: dict[str, Callable[[], bytes]] = {
    "compressed": lambda: parquet(pa.table({"title": ["a" * 8 * MIB]}), compression="zstd"),
    "a dictionary": lambda: parquet(repeated("a" * MIB, 10_000), use_dictionary=True),
    "rows of nothing": lambda: parquet(pa.table({"title": pa.nulls(2**26)})),
    "a list of nothing": lambda: parquet(nested(2**25 + 1)),
    "groups of rows": lambda: parquet(pa.table({"row": range(100)}), row_group_size=1),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_few_bytes_that_would_become_many_are_not_read(tmp_path: Path, bomb: str) -> None:
    content, popdb = BOMBS[bomb](), written(tmp_path)
    assert len(content) < 2 * MIB
    with within_bounds(), pytest.raises(ValueError, match=r"compressed|too many"):
        read_table(content)
    relist("songs", content)(popdb)
    with within_bounds():
        (line,) = verify(popdb.root)
    assert line.startswith("songs-")
    with pytest.raises(DatasetError, match="songs-"):
        open_popdb(popdb.root).songs()


def test_text_that_is_none_is_refused() -> None:
    latin = pa.array(["Bj\xf6rk".encode("latin-1")]).view(pa.string())
    with pytest.raises(ValueError, match=r"not Parquet .*UTF8"):
        read_table(parquet(pa.table({"title": latin})))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b'{"format_version":' * 100_000,
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b'{"format_version": 4}',
        b'{"format_version": "4"}',
        b"\xff\xfe",
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
        {"chunk_frames": 0},
        {"chunk_frames": True},
        {"counts": {"pairs": 10**30}},
        {"settings": {"pairs_per_shard": 0}},
        {"settings": None},
        {"stats": {"vocal": {"mean": [], "std": []}}},
        {"stats": {"vocal": {"mean": [0.0] * 65, "std": [1.0] * 64}}},
        {"stats": {"vocal": {"mean": [1e400] * 64, "std": [1.0] * 64}}},
        {"stats": {"vocal": {"mean": [0.0] * 5000, "std": [1.0] * 5000}}},
        {"source": "x" * 2000},
        {"index": "README.md"},
        {"songs": "../songs-0123456789abcdef.parquet"},
        {"files": {OUTSIDE: {"bytes": 1, "sha256": "0" * 64}}},
        {"files": {NEW: {"bytes": 1, "sha256": "1" * 64}}},
        {"files": {NEW: NEW_FILE[NEW] | {"bytes": 2**50}}},
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
