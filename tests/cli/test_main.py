import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from samuel import __version__
from samuel.cli import main
from samuel.cli.terminal import plain


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
        "rule                       taken  left",
        "audio files in the folder      0     2",
        "",
        "step        songs  lost  why",
        "listed          2     0",
        "downloaded      1     1  decode_failed 1",
        "",
        f"each song and its candidates: {tmp_path / 'data' / 'songs.parquet'}",
    ]
    assert "2 of 2 songs, about 0 s left" in shown.err
    rows = pq.read_table(tmp_path / "data" / "songs.parquet").to_pylist()
    assert {row["title"]: row["status"] for row in rows} == {"whole": "ok", "broken": "decode_failed"}


def test_download_stops_where_the_audio_finds_no_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samuel.doctor.require", lambda *_: [])  # it wants more than this disk has
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000_000))
    assert main(["download", "--settings", str(settings_of_a_folder(tmp_path))]) == 1
    raw = tmp_path / "data" / "raw"  # 1 s, and 211 s for the broken one
    assert f"needs about 75 MB of disk space (audio 75 MB in {raw}), 50 MB free" in capsys.readouterr().err
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
    assert main(["compact", "anywhere"]) == 130
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


def test_bench_prints_the_figures_of_the_loader(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.loader.loader_rows", lambda: iter([("batches", "9 pairs/s")]))
    assert main(["bench", "loader"]) == 0
    assert capsys.readouterr().out.split() == ["batches", "9", "pairs/s"]


def test_doctor_prints_its_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samuel.doctor.WEIGHTS", {})
    assert main(["doctor"]) == 0
    assert "ffmpeg" in capsys.readouterr().out
