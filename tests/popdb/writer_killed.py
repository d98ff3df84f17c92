"""Kill a writer at every step it takes, and see what is left.

Run as a program: `python -m tests.popdb.writer_killed FOLDER OPERATION`; prints a JSON line for every kill.
A writer is a forked process that counts what it does to files (Python's audit events) and ends itself with
SIGKILL before the step whose turn it is: no handler runs, no temporary file is removed.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from samuel.config import Settings
from samuel.errors import DatasetError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.status import Status
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import digests, encoded_song, failed_song, small_settings

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def before(root: Path) -> None:
    """A dataset of songs a, c and d."""
    write_popdb([encoded_song(root, name) for name in "acd"], settings_at(root))


def grow(root: Path) -> None:
    """Two songs come, one leaves, one has failed: every file changes."""
    songs = [encoded_song(root, name) for name in "acef"]
    write_popdb([*songs, failed_song("g", Status.NETWORK)], settings_at(root))


def settings_at(root: Path) -> Settings:
    return small_settings(root, popdb={"pairs_per_shard": 3})


def first(root: Path) -> None:
    """A dataset where there was none."""
    write_popdb([encoded_song(root, name) for name in "abc"], settings_at(root))


OPERATIONS: dict[str, Callable[[Path], None]] = {"first": first, "grow": grow}


def killed(root: Path, operation: Callable[[Path], None], step: int) -> bool:
    """Run `operation` in a process that ends before its change number `step`; False where it has fewer."""
    child = os.fork()
    if child == 0:
        _die_at(step, str(root))
        operation(root)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"step {step}: the writer failed")
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _die_at(step: int, root: str) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if not _changes(event, arguments, root):
            return
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(hook)


def _changes(event: str, arguments: tuple[Any, ...], root: str) -> bool:
    if event == "open":
        path, _, flags = arguments
        return isinstance(path, str | Path) and str(path).startswith(root) and bool(flags & WRITES)
    return event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"} and str(
        arguments[0]
    ).startswith(root)


def state(root: Path) -> dict[str, Any]:
    """What a reader finds, and what is wrong with it."""
    path = settings_at(root).popdb_path
    try:
        popdb = open_popdb(path)
    except DatasetError as error:
        return {"none": str(error)}
    for row in popdb.index:
        popdb.read_checked(row)
    songs = sorted(popdb.songs()["song_id"].to_pylist())
    return {"content": popdb.info["content_sha256"], "songs": songs}


def main(folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    start, work, operation = folder / "start", folder / "work", OPERATIONS[name]
    if name != "first":
        before(start)
    else:
        start.mkdir(parents=True)
    for letter in "abcdefg":  # what the stages left is not part of the writer's work
        encoded_song(start, letter)
    shutil.copytree(start, work)
    operation(work)
    goal, old, new = digests(work / "data"), state(start), state(work)
    step = 0
    while True:
        shutil.rmtree(work)
        shutil.copytree(start, work)
        if not killed(work, operation, step):
            break
        found = state(work)
        operation(work)
        again = {"faults": verify(work / "data" / "popdb"), "same": digests(work / "data") == goal}
        told = {"step": step, "found": found, "old": old, "new": new, **again}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()  # or a forked writer has a copy of what waits to be written
        step += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
