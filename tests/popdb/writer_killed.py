"""Kill a writer at every step it takes, and see what is left.

Run as a program: `python -m tests.popdb.writer_killed FOLDER`; prints a JSON line for every kill.
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

from samuel.errors import DatasetError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.status import Status
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import digests, encoded_song, failed_song, small_settings

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def killed(popdb: Path, write: Callable[[], object], step: int) -> bool:
    """Write in a process that ends before its change number `step` in `popdb`; False where it has fewer."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            changes = event in CHANGES or (event == "open" and bool(arguments[2] & WRITES))
            if not changes or not str(arguments[0]).startswith(str(popdb)):
                return
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

        sys.addaudithook(hook)
        write()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"step {step}: the writer failed")
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def state(path: Path) -> dict[str, Any]:
    """What a reader finds, and what is wrong with it."""
    try:
        popdb = open_popdb(path)
    except DatasetError as error:
        return {"none": str(error)}
    for row in popdb.index:
        popdb.read_checked(row)
    return {"content": popdb.info["content_sha256"], "songs": sorted(popdb.songs()["song_id"].to_pylist())}


def main(folder: Path, operation: str) -> None:
    torch.set_num_threads(1)
    start, work = folder / "start", folder / "work"
    songs = {name: encoded_song(folder, name) for name in "acdef"}
    settings = small_settings(folder, popdb={"path": str(work), "pairs_per_shard": 3})
    wanted = [songs[name] for name in "acd"]
    start.mkdir(parents=True)
    if operation == "grow":  # two songs come, one leaves, one has failed: every file changes
        shutil.copytree(write_popdb(wanted, settings).root, start, dirs_exist_ok=True)
        wanted = [*(songs[name] for name in "acef"), failed_song("g", Status.NETWORK)]
    write_popdb(wanted, settings)
    goal, old, new = digests(work), state(start), state(work)
    step, going_on = 0, True
    while going_on:
        shutil.rmtree(work)
        shutil.copytree(start, work)
        going_on = killed(work, lambda: write_popdb(wanted, settings), step)
        found = state(work)
        write_popdb(wanted, settings)
        again = {"faults": verify(work), "same": digests(work) == goal}
        told = {"operation": operation, "step": step, "found": found, "old": old, "new": new, **again}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()  # or a forked writer has a copy of what waits to be written
        step += 1 if operation == "grow" else 2


if __name__ == "__main__":
    for operation in ("first", "grow"):
        main(Path(sys.argv[1]) / operation, operation)
