"""The command line as such: settings, errors, pipes, and how a process ends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile

from samuel.cli import main
from samuel.cli.options import plain
from samuel.model.unet import SamuelUNet, parameter_count
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from tests.model.conftest import SMALL
from tests.popdb.latents import encoded_song, small_settings
from tests.report.evaluations import noise

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings for two songs that are at hand, one of them broken."""
    root = tmp_path_factory.mktemp("songs")
    (root / "songs").mkdir()
    soundfile.write(root / "songs" / "whole.wav", noise(1.0).T, 44_100)
    (root / "songs" / "broken.wav").write_bytes(b"RIFF")
    songs = {"source": "folder", "path": str(root / "songs")}
    (root / "settings.json").write_text(json.dumps({"data": str(root / "data"), "songs": songs}))
    return root / "settings.json"


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("popdb")
    return write_popdb([encoded_song(root, name) for name in "ab"], small_settings(root))


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_is_said_in_one_line(
    file: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samuel.popdb.acquire.fetch_file", interrupt)
    assert main(["download", "--settings", str(file), f"data={tmp_path}"]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "interrupted; what is done stays, and the same command goes on from there"
    monkeypatch.setattr("samuel.popdb.dataset.open_popdb", interrupt)
    assert main(["inspect", "anywhere"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing half-written was left, run it again\n"


def test_download_accounts_for_every_song(file: Path, capsys: Said) -> None:
    assert main(["download", "--settings", str(file)]) == 0
    shown = capsys.readouterr()
    path = file.parent / "data" / "songs.parquet"
    assert shown.out.splitlines() == [
        "rule                       removed  left",
        "audio files in the folder        0     2",
        "",
        "step        songs  lost  why",
        "listed          2     0",
        "downloaded      1     1  decode_failed 1",
        "",
        f"each song and its candidates: {path}",
    ]
    assert "2/2" in shown.err
    statuses = {row["title"]: row["status"] for row in pq.read_table(path).to_pylist()}
    assert statuses == {"whole": "ok", "broken": "decode_failed"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate", "absent.wav", "--model", "absent"], 1, "error: absent: no whole checkpoint here"),
        (["doctor", "--settings", "\x1b[2Jabsent.json"], 1, "error: ?[2Jabsent.json: no such file\n"),
        (["summary", "training.stepz=1"], 1, "error: setting training.stepz"),
        (["summary", "songs.min_popularity=5"], 1, "songs.min_popularity needs songs.source = 'csv'"),
        (["summary", "--frames", "12"], 1, "12 latent frames"),
        (["nothing"], 2, "Usage: samuel"),
        (["train", "training=5x=3", "--what"], 2, "Usage: samuel"),
        (["settings", "trainings"], 2, "no section 'trainings'; there are preset, "),
    ],
)
def test_what_the_user_must_mend_is_said_and_fails(
    arguments: list[str], code: int, words: str, capsys: Said
) -> None:
    assert main(arguments) == code
    assert words in capsys.readouterr().err


def test_a_secret_in_a_url_is_not_printed(tmp_path: Path, capsys: Said) -> None:
    for url in ("https://me:s3cret@host/x", "s3://bucket/x?X-Amz-Signature=s3cret"):
        for arguments in (
            ["verify", url], ["inspect", url, "-o", str(tmp_path)], ["settings", f"store={url}"],
            ["settings", "--settings", url], ["evaluate", "--vocals", url, "--system", f"A={url}"],
            ["generate", url, "--model", url, "-o", str(tmp_path / "a.wav")], ["compare", url],
            ["render", "musicgen", "--model", url, "--vocals", url, "-o", str(tmp_path)],
        ):  # fmt: skip
            assert main(arguments) == 1
            shown = capsys.readouterr()
            assert shown.err.startswith("error: ")
            assert "s3cret" not in shown.out + shown.err


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    assert plain("a\x1b[31m\x07\u202eb é 日本\nc\r\x9b") == "a?[31m??b é 日本\nc??"


def settings_shown(capsys: Said, *arguments: str) -> dict[str, str]:
    assert main(["settings", *arguments]) == 0
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[1:]}


def test_settings_come_from_a_file_a_preset_and_anywhere_on_the_line(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"training": {"steps": 5, "seed": 3}}))
    file = ["--settings", str(tmp_path / "settings.json")]
    rows = settings_shown(capsys, "training.steps=7", "training", *file, "training.compile=true")
    values = [rows[f"training.{name}"].split()[0] for name in ("steps", "seed", "compile")]
    assert values == ["7", "3", "true"]
    assert all(name.startswith("training.") for name in rows)
    rows = settings_shown(capsys, "preset=paper", "training.steps=7")
    names = ("training.steps", "training.batch_size", "separator.name")
    assert [rows[name].split()[0] for name in names] == ["7", "16", "demucs"]
    assert rows["download.max_duration_s"].split()[:2] == ["900.0", "s"]
    assert rows["download.max_duration_s"].endswith("(above 0, at most 86,400)")


def test_the_help_of_a_command_lists_its_settings(capsys: Said) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "[SETTING=VALUE]..." in shown
    assert "training.patience=null" in shown
    assert "AdamW's (at least 0)" in shown
    assert "download." not in shown


def test_what_an_option_takes_is_no_setting(file: Path, capsys: Said) -> None:
    """`data` is the name of a setting, and here that of a system."""
    command = ["evaluate", "--vocals", str(file.parent / "songs"), "--system", "data=absent"]
    assert main(command) == 1
    assert "absent: no such folder (data)" in capsys.readouterr().err


def run(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    environment = os.environ | options.pop("env", {})
    command = [sys.executable, "-m", "samuel.cli", *arguments]
    return subprocess.run(command, check=False, stderr=subprocess.PIPE, env=environment, **options)


def test_a_process_that_read_a_dataset_prints_what_the_encoding_has_and_ends_well(
    popdb: Popdb, capsys: Said
) -> None:
    """A pipe of Windows, say; and threads of a library that are left at the end."""
    arguments = ["inspect", str(popdb.root), "--pairs", "0"]
    assert main(arguments) == 0
    wide = capsys.readouterr().out
    assert "█" in wide
    done = run(*arguments, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "cp1252"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("cp1252") == wide.replace("█", "?")


def test_a_reader_that_has_left_ends_the_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run("settings", stdout=writing, env={"PYTHONUNBUFFERED": ""})
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_summary_of_a_network(capsys: Said) -> None:
    small = [f"model.{name}={json.dumps(value)}" for name, value in SMALL.model_dump(mode="json").items()]
    assert main(["summary", "--frames", "64", *small]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["part", "parameters", "GFLOP", "share"]
    name, parameters, _, share = rows[-1].split()
    assert (name, parameters, share) == ("total", f"{parameter_count(SamuelUNet(SMALL)):,}", "100.0%")
    assert sum(float(row.split()[3].rstrip("%")) for row in rows[:-1]) == pytest.approx(100, abs=0.5)
