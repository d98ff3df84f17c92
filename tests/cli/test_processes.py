"""The command as a process of its own: its pipes, and its end."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings

AGAIN = 6
"""Times that a process is run whose end went wrong in about one of two."""
OPEN = "from samuel.popdb.dataset import open_popdb; open_popdb({!r})"


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    return write_popdb([encoded_song(tmp_path, name) for name in "ab"], small_settings(tmp_path))


def samuel(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "samuel.cli", *arguments]


def test_a_process_that_read_a_dataset_ends_well(popdb: Popdb, tmp_path: Path) -> None:
    export = samuel("export-manifest", str(popdb.root), "-o")
    commands = [[*export, str(tmp_path / f"manifest-{number}")] for number in range(AGAIN)]
    commands += [[sys.executable, "-c", OPEN.format(str(popdb.root))]] * AGAIN
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(partial(subprocess.run, capture_output=True, check=False), commands))
    assert [(done.returncode, done.stderr) for done in ended] == [(0, b"")] * len(commands)


def test_an_encoding_that_lacks_characters_does_not_stop_the_output(popdb: Popdb) -> None:
    inspect = samuel("inspect", str(popdb.root), "--pairs", "0")
    narrow = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(inspect, capture_output=True, check=False, env=narrow)
    assert (done.returncode, done.stderr) == (0, b"")
    wide = subprocess.run(inspect, capture_output=True, check=True, env=os.environ | {"PYTHONUTF8": "1"})
    assert "█" in wide.stdout.decode("utf-8")
    assert done.stdout.decode("cp1252") == wide.stdout.decode("utf-8").replace("█", "?")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_left_ends_the_command_quietly(unbuffered: str, popdb: Popdb) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            samuel("inspect", str(popdb.root), "--pairs", "0"),
            stdout=writing, stderr=subprocess.PIPE, check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_output_that_finds_no_room_is_said_once(popdb: Popdb) -> None:
    with Path("/dev/full").open("wb") as full:
        verify = samuel("verify", str(popdb.root))
        buffered = os.environ | {"PYTHONUNBUFFERED": ""}
        done = subprocess.run(verify, stdout=full, stderr=subprocess.PIPE, check=False, env=buffered)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["error: [Errno 28] No space left on device"]


def test_what_the_hub_says_is_printed_once() -> None:
    program = """
from samuel.cli import main
main(["doctor", "--settings", "absent.json"])
from huggingface_hub.utils.logging import get_logger
get_logger("huggingface_hub.utils._http").warning("Retrying in 1s")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr.decode().count("Retrying in 1s") == 1
