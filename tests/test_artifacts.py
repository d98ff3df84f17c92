"""Folders that are whole or absent: made once, found after, damaged, killed, released, from a stranger."""

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from samuel.artifacts import MANIFEST, find_artifact, forget, make_artifact, release, sha256
from samuel.reading import read_jsonl
from tests.lines import append_line


def make_greeting(folder: Path) -> dict[str, Any]:
    (folder / "greeting.txt").write_text("hello")
    return {"words": 1}


def test_an_artifact_is_made_once_and_found_after(tmp_path: Path) -> None:
    record = {"inf": float("inf"), "tenth": 0.1, "large": 2**70, "naïve": [None, True, {"ü": "\u200b"}]}
    first = make_artifact(tmp_path / "a", lambda folder: make_greeting(folder) | record)
    second = make_artifact(tmp_path / "a", lambda _: pytest.fail("made again"))
    assert (first.made, second.made, second.record) == (True, False, {"words": 1, **record})
    assert second.sha256 == {"greeting.txt": sha256(tmp_path / "a" / "greeting.txt")}


FILE = {"bytes": 5, "sha256": "0" * 64}
MANIFESTS = [
    "{",
    {"files": {"a": 1}, "record": {}},
    {"files": {"../../x": FILE}, "record": {}},
    {"files": {"greeting.txt": FILE | {"sha256": "../../x"}}, "record": {}},
    {"files": {"greeting.txt": FILE}, "record": {}, "more": 1},
]


@pytest.mark.parametrize("damage", ["truncate", "link", *MANIFESTS], ids=lambda damage: str(damage)[:60])
def test_a_damaged_artifact_is_absent_and_made_again(tmp_path: Path, damage: Any) -> None:
    folder = make_artifact(tmp_path / "a", make_greeting).folder
    if damage in ("truncate", "link"):
        (folder / "greeting.txt").rename(tmp_path / "secret")
    if damage == "truncate":
        (folder / "greeting.txt").write_text("h")
    elif damage == "link":
        (folder / "greeting.txt").symlink_to(tmp_path / "secret")
    else:
        (folder / MANIFEST).write_text(damage if isinstance(damage, str) else json.dumps(damage))
    assert find_artifact(folder) is None
    assert make_artifact(folder, make_greeting).made
    assert (folder / "greeting.txt").read_text() == "hello"


def count_and_make(folder: Path, *, die: bool) -> None:
    def make(target: Path) -> dict[str, Any]:
        append_line(folder.parent / "makers.jsonl", {"pid": os.getpid()})
        make_greeting(target)
        time.sleep(0.5)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    make_artifact(folder, make)


def test_two_processes_make_an_artifact_once_after_one_that_was_killed(tmp_path: Path) -> None:
    """The killed one leaves no artifact, and no lock that anybody waits for."""
    context = multiprocessing.get_context("spawn")

    def start(*, die: bool) -> BaseProcess:
        process = context.Process(target=count_and_make, args=(tmp_path / "a",), kwargs={"die": die})
        process.start()
        return process

    killed = start(die=True)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert find_artifact(tmp_path / "a") is None
    makers = [start(die=False), start(die=False)]
    for maker in makers:
        maker.join()
        assert maker.exitcode == 0
    assert find_artifact(tmp_path / "a")
    assert len(read_jsonl(tmp_path / "makers.jsonl")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".locks", "a", "makers.jsonl"]


def test_what_is_released_keeps_its_record_until_it_is_forgotten(tmp_path: Path) -> None:
    made = make_artifact(tmp_path / "a", make_greeting)
    release(made.folder)
    stat = made.path(MANIFEST).stat()
    release(made.folder)
    assert made.path(MANIFEST).stat().st_mtime_ns == stat.st_mtime_ns
    released = find_artifact(made.folder)
    assert released
    assert (released.released, released.record, released.sha256) == (True, made.record, made.sha256)
    assert not made.path("greeting.txt").exists()
    forget(made.folder)
    assert find_artifact(made.folder) is None
    assert not make_artifact(made.folder, make_greeting).released
    release(tmp_path / "none")
    assert not (tmp_path / "none").exists()
