"""The command line as such: settings, errors, pipes, and how a process ends."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from samuel import __version__
from samuel.cli import main
from samuel.cli.options import plain
from samuel.config import ModelConfig
from samuel.model.unet import SamuelUNet, parameter_count
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from tests.model.conftest import SMALL
from tests.popdb.latents import encoded_song, small_settings


def settings_of_a_folder(root: Path) -> Path:
    """Settings for two songs that are at hand, one of them broken."""
    (root / "songs").mkdir()
    soundfile.write(root / "songs" / "whole.wav", np.zeros((44_100, 2)), 44_100)
    (root / "songs" / "broken.wav").write_bytes(b"RIFF")
    path = root / "settings.json"
    songs = {"source": "folder", "path": str(root / "songs")}
    path.write_text(json.dumps({"data": str(root / "data"), "songs": songs}))
    return path


def test_download_accounts_for_every_song(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "--settings", str(settings_of_a_folder(tmp_path))]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "rule                       removed  left",
        "audio files in the folder        0     2",
        "",
        "step        songs  lost  why",
        "listed          2     0",
        "downloaded      1     1  decode_failed 1",
        "",
        f"each song and its candidates: {tmp_path / 'data' / 'songs.parquet'}",
    ]
    assert "2/2" in shown.err
    rows = pq.read_table(tmp_path / "data" / "songs.parquet").to_pylist()
    assert {row["title"]: row["status"] for row in rows} == {"whole": "ok", "broken": "decode_failed"}


def test_download_stops_where_the_audio_finds_no_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samuel.doctor.require", lambda *_: [])  # it wants more than this disk has
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000_000))
    assert main(["download", "--settings", str(settings_of_a_folder(tmp_path))]) == 1
    raw = tmp_path / "data" / "raw"  # twice 211 s, for the list states no duration
    assert f"0.1 GB of disk space (audio 0.15 GB in {raw}), 0.05 GB free" in capsys.readouterr().err
    assert not list(raw.glob("*/entry.json"))


def test_an_interrupt_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samuel.popdb.acquire.fetch_file", interrupt)
    assert main(["download", "--settings", str(settings_of_a_folder(tmp_path))]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "interrupted; what is done stays, and the same command goes on from there"
    )


def test_an_interrupted_command_that_starts_anew_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samuel.popdb.dataset.open_popdb", interrupt)
    assert main(["inspect", "anywhere"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing half-written was left, run it again\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "absent.wav", "--model", "absent"], "absent: no whole checkpoint here"),
        (["evaluate", "--vocals", "absent", "--system", "A=absent"], "absent: no such folder (the vocals)"),
        (["doctor", "--settings", "absent.json"], "absent.json: no such file"),
    ],
)
def test_what_the_user_must_mend_is_said_and_fails(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        (json.dumps({"codec": {"name": "flac"}}), "codec.name"),
        (json.dumps({"training": {"batch_size": -1}}), "training.batch_size"),
    ],
)
def test_wrong_settings_are_named(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    assert main(["doctor", "--settings", str(path)]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("module", ["samuel.cli", "samuel.cli.__main__"])
def test_the_command_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, check=True)
    assert done.stdout.decode().strip() == __version__


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    assert plain("a\x1b[31m\x07\u202eb é 日本\nc\r\x9b") == "a?[31m??b é 日本\nc??"


def test_an_error_is_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--settings", "\x1b[2Jabsent.json"]) == 1
    assert capsys.readouterr().err == "error: ?[2Jabsent.json: no such file\n"


def test_doctor_prints_its_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samuel.doctor.WEIGHTS", {})
    assert main(["doctor"]) == 0
    assert "ffmpeg" in capsys.readouterr().out


def test_settings_come_from_a_file_and_from_anywhere_on_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"training": {"steps": 5, "seed": 3}}))
    file = ["--settings", str(tmp_path / "settings.json")]
    assert main(["settings", "training.steps=7", "training", *file, "training.compile=true"]) == 0
    rows = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert (rows["training.steps"], rows["training.seed"], rows["training.compile"]) == ("7", "3", "true")
    assert set(rows) == {name for name in rows if name.startswith("training.")}


def test_a_preset_gives_what_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "preset=paper", "training.steps=7"]) == 0
    shown = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1] for line in shown[1:]}
    assert (rows["training.steps"], rows["training.batch_size"], rows["separator.name"]) == (
        "7",
        "16",
        "demucs",
    )
    assert "chunk" not in shown[0]
    duration = next(line for line in shown if line.startswith("download.max_duration_s"))
    assert duration.split()[1:3] == ["900.0", "s"]
    assert duration.endswith("(above 0, at most 86,400)")


def test_the_help_of_a_command_lists_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "[SETTING=VALUE]..." in shown
    assert "training.patience=null" in shown
    assert "AdamW's (at least 0)" in shown
    assert "download." not in shown


def test_what_an_option_takes_is_no_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`data` is the name of a setting, and here that of a system."""
    (tmp_path / "vocals").mkdir()
    soundfile.write(tmp_path / "vocals" / "a.wav", np.ones(44_100), 44_100)
    command = ["evaluate", "--vocals", str(tmp_path / "vocals"), "--system", "data=absent"]
    assert main(command) == 1
    assert "absent: no such folder (data)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["train", "training=5x=3", "--what"], ["verify", "a", "b"]]
)
def test_a_mistyped_command_is_told_with_its_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("Usage: samuel")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stepz=1", "setting training.stepz"),
        ("training.steps=", "setting training.steps"),
        ("training=3", "setting training"),
        ("data.x=1", "setting data"),
        ("songs.min_popularity=5", "songs.min_popularity needs songs.source = 'csv'"),
    ],
)
def test_a_wrong_setting_on_the_line_is_named(
    override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary", override]) == 1
    assert words in capsys.readouterr().err


AGAIN = 2
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


def test_what_the_hub_says_is_printed_once() -> None:
    program = """
from samuel.cli import main
main(["doctor", "--settings", "absent.json"])
from huggingface_hub.utils.logging import get_logger
get_logger("huggingface_hub.utils._http").warning("Retrying in 1s")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr.decode().count("Retrying in 1s") == 1


def test_summary_of_the_default_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["part", "parameters", "GFLOP", "share"]
    assert rows[-1].split() == ["total", f"{parameter_count(SamuelUNet(ModelConfig())):,}", "5.680", "100.0%"]
    shares = [float(row.split()[3].rstrip("%")) for row in rows[:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_summary_of_settings_and_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"model": SMALL.model_dump(mode="json")}))
    assert main(["summary", "--frames", "64", "--settings", str(path)]) == 0
    total = capsys.readouterr().out.splitlines()[-1].split()
    assert total[1] == f"{parameter_count(SamuelUNet(SMALL)):,}"
    assert main(["summary", "--frames", "12"]) == 1
    assert "12 latent frames" in capsys.readouterr().err
