"""A hundred cases of the fuzz script, and by name what once got in."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from samuel.popdb.dataset import open_popdb
from samuel.popdb.tables import SONGS_SCHEMA
from tests.fuzz import GENERATE, POPDB, VOICE, attack, build, case
from tests.popdb.test_verify import parquet, relist

Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build(root := tmp_path_factory.mktemp("sound"))
    return root


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_hostile_input_is_one_line_in_seconds_and_little_memory(sound: Path, first: int) -> None:
    results = [case(sound, 19, number) for number in range(first, first + 25)]
    assert [result for result in results if result.fault] == []
    assert any(result.code for result in results)


def put(name: str, what: bytes | Path | None) -> Damage:
    """Content, a link, or a pipe under a name that may be a pattern."""

    def damage(folder: Path) -> None:
        path = next(folder.glob(name))
        path.rename(folder / "aside")
        if isinstance(what, bytes):
            path.write_bytes(what)
        elif what:
            path.symlink_to(what)
        else:
            os.mkfifo(path)

    return damage


def record(**changes: Any) -> Damage:
    """Other values in the record of a model."""

    def damage(folder: Path) -> None:
        entry = json.loads((folder / "entry.json").read_text())
        for name, value in changes.items():
            entry["record"][name] = entry["record"][name] | value if isinstance(value, dict) else value
        (folder / "entry.json").write_text(json.dumps(entry))

    return damage


def songs_that_are_no_utf8(folder: Path) -> None:
    popdb = open_popdb(folder)
    table = popdb.songs()
    offsets = pa.py_buffer(b"".join((2 * i).to_bytes(4, "little") for i in range(len(table) + 1)))
    titles = pa.StringArray.from_buffers(len(table), offsets, pa.py_buffer(b"\xff\xfe" * len(table)))
    place = SONGS_SCHEMA.names.index("title")
    relist(popdb, popdb.info["songs"], parquet(table.set_column(place, SONGS_SCHEMA.field(place), titles)))


OTHER = Path("../../../canary/popdb")
INSTEAD = {
    "zero": Path("/dev/zero"),
    "pipe": None,
    "empty": b"",
    "deep": b"[" * 100_000,
    "link": OTHER / "dataset.json",
}
FILES = {
    "dataset": ("dataset.json", "index-*", "songs-*", "shards/*", "README.md"),
    "model": ("*.json", "*.safetensors"),
}
RECORDS: list[dict[str, Any]] = [
    {"model": {"channels": [10**12] * 4}}, {"model": {"channels": [8192] * 4}}, {"model": {"heads": 10**9}},
    {"model": {"window": 2**30}}, {"model": {"head_dim": 2**30}}, {"diffusion": {"timesteps": 10**9}},
    {"frames": 2**13 + 8}, {"stats": []}, {"stats": {"vocal": {"mean": [0.0] * 65, "std": [1.0] * 64}}},
    {"progress": 3},
]  # fmt: skip
MEETS = {"dataset": ["verify", POPDB], "model": [*GENERATE, VOICE]}
KNOWN: dict[str, tuple[str, Damage, list[str]]] = {
    f"{kind}, {name} {instead}": (kind, put(name, INSTEAD[instead]), MEETS[kind])
    for kind, names in FILES.items()
    for name in names
    for instead in INSTEAD
}
KNOWN |= {f"model, {changes!r:.50}": ("model", record(**changes), MEETS["model"]) for changes in RECORDS}
KNOWN |= {f"dataset, {n} link": ("dataset", put(n, OTHER / n), ["rebuild"]) for n in ("shards", ".lock")}
KNOWN["dataset, no UTF-8"] = (
    "dataset",
    songs_that_are_no_utf8,
    ["inspect", POPDB, "--no-audio", "-o", "out"],
)


@pytest.mark.parametrize("name", KNOWN)
def test_what_once_got_in_is_refused(sound: Path, name: str) -> None:
    kind, damage, arguments = KNOWN[name]
    result = attack(sound, kind, lambda folder: str(damage(folder)), arguments)
    assert (result.fault, result.code) == ("", 1)
