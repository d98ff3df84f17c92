import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from samuel.cli import main
from tests.evaluate.small_audiobox import small_audiobox
from tests.evaluate.songs import write_songs


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("songs")
    write_songs(root, 3, 6.0)
    return root


def evaluate(songs: Path, output: Path, *more: str) -> int:
    folders = ["--vocals", str(songs / "vocals"), "--system", f"Copy={songs / 'true'}"]
    return main(["evaluate", *folders, "-o", str(output), *more])


def test_folders_are_scored_and_the_report_named(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(songs, tmp_path, "--references", str(songs / "true")) == 0
    page, text, scores = map(Path, capsys.readouterr().out.split("\n")[:3])
    assert page.read_text().startswith("<!doctype html>")
    assert "not measured" in text.read_text()
    rows = pq.read_table(scores).to_pylist()
    assert {row["system"] for row in rows} == {"real", "real (through the codec)", "Copy"}
    summary = json.loads((page.parent / "summary.json").read_text())
    assert summary["scores"]["chroma_likeness"]["Copy"] == summary["scores"]["chroma_likeness"]["real"]


def test_the_same_folders_are_not_scored_twice(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(songs, tmp_path) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("samuel.evaluate.summary.hear_lineup", None)
    assert evaluate(songs, tmp_path) == 0
    assert capsys.readouterr().out == first


def test_audiobox_is_asked_by_an_option(songs: Path, tmp_path: Path) -> None:
    with small_audiobox(tmp_path) as (checkpoint, _):
        assert evaluate(songs, tmp_path / "run", "--audiobox", f"evaluation.audiobox_path={checkpoint}") == 0
    (summary,) = (tmp_path / "run").glob("report/*/summary.json")
    assert json.loads(summary.read_text())["scores"]["PQ"]["Copy"]["n"] == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--system", "Copy"], "--system Copy: give NAME=FOLDER"),
        (["--system", "=here"], "--system =here: give NAME=FOLDER"),
        (["--system", "Copy=elsewhere"], "--system Copy is given twice"),
        (["--system", "real=elsewhere"], "cannot be a system's name"),
        (["--system", "Other=elsewhere"], "elsewhere: no such folder (Other)"),
        (["--references", "elsewhere"], "elsewhere: no such folder (real)"),
        (["--dataset", "elsewhere"], "elsewhere"),
    ],
)
def test_what_the_user_must_mend_is_said(
    more: list[str], words: str, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(songs, tmp_path, *more) == 1
    assert words in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("samuel.evaluate.summary.hear_lineup", None)
    assert evaluate(songs, tmp_path / "file" / "run") == 1
    assert "Not a directory; give another --output" in capsys.readouterr().err


def test_what_was_asked_for_and_not_measured_is_told(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(songs, tmp_path, "--audiobox", f"evaluation.audiobox_path={tmp_path / 'none.pt'}") == 0
    said = capsys.readouterr().err
    assert "audiobox: not measured: " in said
    assert "none.pt: no such file" in said


def test_a_full_disk_is_told(songs: Path, tmp_path: Path) -> None:
    (disk := tmp_path / "disk").mkdir()
    mount = 'mount -t tmpfs -o size=2m samuel "$1" && shift && exec "$@"'
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(disk)]
    folders = [
        "--vocals",
        songs / "vocals",
        "--references",
        songs / "true",
        "--system",
        f"X={songs / 'true'}",
    ]
    program = [sys.executable, "-m", "samuel.cli", "evaluate", *map(str, folders), "-o", str(disk / "run")]
    try:
        if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no user namespace with a mount of its own on this system")
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    done = subprocess.run([*namespace, *program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
