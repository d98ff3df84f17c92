import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from samuel.artifacts import (
    MANIFEST,
    digest,
    find_artifact,
    forget,
    make_artifact,
    read_json,
    read_jsonl,
    release,
    replacing,
    sha256,
    write_json,
)
from tests.lines import append_line


def make_greeting(folder: Path) -> dict[str, Any]:
    (folder / "greeting.txt").write_text("hello")
    return {"words": 1}


def test_an_entry_is_made_once_and_found_after(tmp_path: Path) -> None:
    first = make_artifact(tmp_path / "e", make_greeting)
    second = make_artifact(tmp_path / "e", lambda _: pytest.fail("made again"))
    assert first.made
    assert not second.made
    assert second.record == {"words": 1}
    assert second.sha256 == {"greeting.txt": sha256(tmp_path / "e" / "greeting.txt")}


@pytest.mark.parametrize("damage", ["delete", "truncate", "no manifest", "half a manifest"])
def test_a_damaged_entry_is_absent_and_made_again(tmp_path: Path, damage: str) -> None:
    folder = make_artifact(tmp_path / "e", make_greeting).folder
    target = folder / (MANIFEST if "manifest" in damage else "greeting.txt")
    if damage in ("delete", "no manifest"):
        target.unlink()
    else:
        target.write_text("{")
    assert find_artifact(folder) is None
    assert make_artifact(folder, make_greeting).made
    assert (folder / "greeting.txt").read_text() == "hello"


def test_a_failed_maker_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        make_greeting(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        make_artifact(tmp_path / "e", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def killed_while_making(folder: Path) -> None:
    def make(target: Path) -> dict[str, Any]:
        make_greeting(target)
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    make_artifact(folder, make)


def test_a_killed_maker_leaves_no_entry_and_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed_while_making, args=(tmp_path / "e",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert find_artifact(tmp_path / "e") is None
    assert make_artifact(tmp_path / "e", make_greeting).made
    assert sorted(path.name for path in tmp_path.iterdir()) == [".locks", "e"]


def count_and_make(folder: Path) -> None:
    def make(target: Path) -> dict[str, Any]:
        append_line(folder.parent / "makers.jsonl", {"pid": os.getpid()})
        time.sleep(0.5)
        return make_greeting(target)

    make_artifact(folder, make)


def test_two_processes_make_an_entry_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=count_and_make, args=(tmp_path / "e",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(read_jsonl(tmp_path / "makers.jsonl")) == 1


def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"v": 1})
    with pytest.raises(ValueError, match="stop"), replacing(path) as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert read_json(path) == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    append_line(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_jsonl(path) == [{"step": 1}]
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def test_a_digest_depends_on_values_not_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest("a", "b") != digest("ab")
    assert digest(1) != digest("1")


@pytest.mark.parametrize(
    "manifest", ["[]", "null", "{}", '{"files": []}', '{"files": {"a": 1}, "record": {}}', "{"]
)
def test_a_manifest_of_another_form_is_a_damaged_one(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "entry.json").write_text(manifest)
    assert find_artifact(tmp_path / "entry") is None
    (tmp_path / "other" / "entry.json").mkdir(parents=True)
    assert find_artifact(tmp_path / "other") is None


def test_release_of_what_is_released_writes_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, int]:
        (folder / "file").write_bytes(b"bytes")
        return {"n": 1}

    made = make_artifact(tmp_path / "entry", make)
    release(made.folder)
    stat = made.path("entry.json").stat()
    release(made.folder)
    assert made.path("entry.json").stat().st_mtime_ns == stat.st_mtime_ns
    released = find_artifact(made.folder)
    assert released
    assert (released.released, released.record, released.sha256) == (True, made.record, made.sha256)
    forget(made.folder)
    assert find_artifact(made.folder) is None
    assert not make_artifact(made.folder, make).released


def test_release_of_nothing_does_nothing(tmp_path: Path) -> None:
    release(tmp_path / "none")
    assert not (tmp_path / "none").exists()
