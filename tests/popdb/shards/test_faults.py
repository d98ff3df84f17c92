"""Writers that are killed, disks that are full, writers that meet."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from samuel.errors import DatasetError
from samuel.popdb.dataset import LocalFolder, open_popdb
from samuel.popdb.verify import verify
from samuel.popdb.writer import compact, write_popdb
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.shards.songs import digests, songs

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = ("unshare", "--map-root-user", "--mount")
MOUNT = 'mount -t tmpfs -o size=1500k samuel "$1" && shift && exec "$@"'


def program(module: str, *arguments: str, before: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What a program of the tests says, line by line."""
    command = [*before, sys.executable, "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("operation", ["first", "grow", "compact"])
def test_a_kill_at_any_step_leaves_an_old_or_a_new_dataset(tmp_path: Path, operation: str) -> None:
    steps = program("tests.popdb.shards.killed", str(tmp_path), operation)
    assert len(steps) > 40
    for step in steps:
        found = {name: value for name, value in step["found"].items() if name != "pending"}
        olds, news = ({n: v for n, v in step[kind].items() if n != "pending"} for kind in ("old", "new"))
        if operation == "first" and "none" in found:
            assert "no dataset here" in found["none"], step
        else:
            assert found in (olds, news), step
        assert (step["faults"], step["same"]) == ([], True), step
    contents = [step["found"].get("content") for step in steps]
    if operation == "grow":
        # There is one moment from which on it is the new one, and kills on both sides of it.
        moment = contents.index(steps[0]["new"]["content"])
        assert moment > 0
        assert set(contents[:moment]) == {steps[0]["old"]["content"]}
        assert set(contents[moment:]) == {steps[0]["new"]["content"]}
    assert any(step["found"].get("pending") for step in steps)


def test_a_reader_meets_a_whole_dataset_while_it_is_replaced(tmp_path: Path) -> None:
    """One thread writes two datasets in turn, another opens whatever is there: always one of the two."""
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 2})
    one, other = songs(tmp_path), songs(tmp_path)[:2]
    contents = {write_popdb(which, settings).info["content_sha256"] for which in (one, other)}
    done = threading.Event()

    def write() -> None:
        for _ in range(10):
            write_popdb(one, settings)
            write_popdb(other, settings)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        popdb = open_popdb(settings.popdb_path)
        seen.append(popdb.info["content_sha256"])
    writer.join()
    assert set(seen) == contents


def test_a_reader_whose_dataset_was_replaced_is_told_so(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    old = write_popdb(songs(tmp_path), settings)
    write_popdb(songs(tmp_path)[:2], settings)
    with pytest.raises(DatasetError, match=r"songs\.parquet: .*; the dataset was replaced meanwhile"):
        old.songs()


def test_a_disk_that_gets_full_leaves_the_old_dataset(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "samuel", str(disk)], check=False)
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if tried.returncode:
        pytest.skip("no user namespace with a mount of its own on this system")
    arguments = (str(tmp_path / "latents"), str(disk))
    before = (*NAMESPACE, "sh", "-c", MOUNT, "sh", str(disk))
    steps = program("tests.popdb.shards.full_disk", *arguments, before=before)
    failed = [step for step in steps if step["error"]]
    assert {step["error"].partition(": ")[0] for step in failed} == {"OperatorError"}
    assert all("the disk is full; the dataset there is as it was" in step["error"] for step in failed)
    assert all(step["whole"] == "old" and step["left"] == step["before"] for step in failed)
    # It got full at different points: some while a shard was written, some later.
    assert len(failed) > 5
    assert steps[-1]["error"] == ""
    assert steps[-1]["whole"] == "new"


def write_twelve_times(root: Path, pairs_per_shard: int) -> None:
    for count in range(12):
        write_popdb(
            songs(root)[: 1 + count % 3], small_settings(root, popdb={"pairs_per_shard": pairs_per_shard})
        )


def test_two_writers_take_turns(tmp_path: Path) -> None:
    songs(tmp_path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_twelve_times, args=(tmp_path, size)) for size in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert verify(small_settings(tmp_path).popdb_path) == []


def test_a_writer_that_waits_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = small_settings(tmp_path)
    path = Path(settings.popdb_path)
    outcomes = songs(tmp_path)
    waiting = threading.Thread(target=write_popdb, args=(outcomes, settings))
    with caplog.at_level(logging.WARNING), LocalFolder(path).locked():
        waiting.start()
        while not caplog.messages and waiting.is_alive():
            waiting.join(0.01)
        assert not path.joinpath("dataset.json").exists()
    waiting.join()
    assert caplog.messages == [f"{path}: another process is writing this dataset; waiting for it"]
    assert verify(path) == []


def test_one_dataset_has_one_lock_whatever_leads_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(tmp_path)
    path = Path(settings.popdb_path)
    write_popdb(songs(tmp_path)[:1], settings)
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(path)
    for name in (tmp_path / "link", Path(), path / "shards" / ".."):
        caplog.clear()
        with caplog.at_level(logging.WARNING), LocalFolder(path).locked():
            waiting = threading.Thread(target=compact, args=(name,))
            waiting.start()
            while not caplog.messages and waiting.is_alive():
                waiting.join(0.01)
            assert caplog.messages == [f"{name}: another process is writing this dataset; waiting for it"]
        waiting.join()


def test_files_of_somebody_else_stay(tmp_path: Path) -> None:
    """A dataset may come from anywhere, and may have links in it."""
    settings = small_settings(tmp_path)
    popdb = write_popdb(songs(tmp_path), settings)
    (popdb.root / "shards" / "notes.txt").write_text("mine")
    (popdb.root / "notes.txt").write_text("mine")
    write_popdb(songs(tmp_path)[:2], settings)
    compact(popdb.root)
    assert verify(popdb.root) == []
    assert (popdb.root / "shards" / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    for name in ("index.parquet", "thesis.doc"):
        (tmp_path / "other" / name).write_text("mine")
    for name in (".pending", ".work"):
        (popdb.root / name).symlink_to(tmp_path / "other")
        with pytest.raises(DatasetError, match=rf"{name}: a link; remove it"):
            compact(popdb.root)
        assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["index.parquet", "thesis.doc"]
        (popdb.root / name).unlink()


def test_what_fails_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(tmp_path, popdb={"pairs_per_shard": 1})
    popdb = write_popdb([encoded_song(tmp_path, "a")], settings)
    before = digests(popdb.root)
    put = LocalFolder.put

    def fails(self: LocalFolder, source: Path, name: str, digest: str) -> None:
        if name.startswith("shards/00004"):
            raise PermissionError(13, "not allowed", name)
        put(self, source, name, digest)

    monkeypatch.setattr(LocalFolder, "put", fails)
    with pytest.raises(PermissionError):
        write_popdb([encoded_song(tmp_path, name) for name in "abc"], settings)
    assert digests(popdb.root) == before


def test_what_is_no_dataset_is_not_compacted(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset here"):
        compact(tmp_path / "nothing")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = small_settings(tmp_path, popdb={"path": str(tmp_path / "file" / "popdb")})
    with pytest.raises(NotADirectoryError, match="file"):
        write_popdb(songs(tmp_path), settings)
