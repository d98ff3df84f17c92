"""`samuel evaluate` and `compare`."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from samuel.cli import main
from tests.decoding import write_ten_hours
from tests.evaluate.songs import write_songs
from tests.report.evaluations import OURS, rows_of, summary, write_scores
from tests.small_disk import run_on_small_disk

HOSTILE = "b\x1b[31m<i>"
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("songs")
    write_songs(root, 2, 4.0)
    return root


def evaluate(songs: Path, output: Path, *more: str) -> int:
    folders = ["--vocals", str(songs / "vocals"), "--system", f"Copy={songs / 'true'}"]
    return main(["evaluate", *folders, "-o", str(output), *more])


def test_folders_are_scored_once_and_the_report_named(
    songs: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = ["--references", str(songs / "true")]
    absent = ["--audiobox", f"evaluation.audiobox_path={tmp_path / 'none.pt'}"]
    assert evaluate(songs, tmp_path, *references, *absent) == 0
    first = capsys.readouterr()
    page, text, scores = map(Path, first.out.split("\n")[:3])
    assert page.read_text().startswith("<!doctype html>")
    assert "not measured" in text.read_text()
    assert "audiobox: not measured: " in first.err  # asked for, and not there
    assert "none.pt: no such file" in first.err
    rows = pq.read_table(scores).to_pylist()
    assert {row["system"] for row in rows} == {"real", "real (through the codec)", "Copy"}
    summary = json.loads((page.parent / "summary.json").read_text())
    assert summary["scores"]["chroma_likeness"]["Copy"] == summary["scores"]["chroma_likeness"]["real"]
    monkeypatch.setattr("samuel.evaluate.summary.analyse_lineup", None)
    assert evaluate(songs, tmp_path, *references, *absent) == 0
    assert capsys.readouterr().out == first.out


def test_ten_hours_are_scored_and_heard_over_their_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    for room in ("evaluate.features", "report.report"):
        monkeypatch.setattr(f"samuel.{room}.LONGEST_S", 8)
    for name in ("vocals", "true"):
        (tmp_path / name).mkdir()
        write_ten_hours(tmp_path / name / "a.flac", stated_s=0)
    assert evaluate(tmp_path, tmp_path / "scores") == 0
    page = Path(capsys.readouterr().out.split("\n")[0])
    assert {soundfile.info(flac).duration for flac in page.parent.rglob("*.flac")} == {8.0}
    problems = json.loads((page.parent / "summary.json").read_text())["problems"]
    assert sum("scored over its first" in problem["message"] for problem in problems) == 2
    write_ten_hours(tmp_path / "vocals" / "a.flac")
    assert evaluate(tmp_path, tmp_path / "scores") == 1
    assert "no track could be scored: " in (said := capsys.readouterr()).err
    assert "a.flac: lasts over 10800 s" in said.err


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
        (["-o", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_what_the_user_must_mend_is_said(
    more: list[str], words: str, songs: Path, tmp_path: Path, capsys: Said
) -> None:
    assert evaluate(songs, tmp_path, *more) == 1
    assert words in capsys.readouterr().err


def test_a_full_disk_is_told(songs: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    folders = ["--vocals", f"{songs}/vocals", "--references", f"{songs}/true", "--system", f"X={songs}/true"]
    program = [sys.executable, "-m", "samuel.cli", "evaluate", *folders, "-o", str(disk / "run")]
    done = run_on_small_disk(disk, "2m", program)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """The second is better by 0.1 on one score and by nothing on the other."""
    for place, name in enumerate(("a", HOSTILE)):
        noise = np.random.default_rng(place)
        base = np.random.default_rng(9).normal(0.5, 0.1, 12)
        values = {f"t{i}": float(v + 0.1 * place + noise.normal(0, 0.01)) for i, v in enumerate(base)}
        same = {f"t{i}": float(v) for i, v in enumerate(base)}
        rows = [*rows_of(OURS, "beat_f1", values), *rows_of(OURS, "key_agreement", same)]
        write_scores(tmp_path / name, summary(tracks=12 + place, vocals=dict.fromkeys(values, "one")), rows)
    return [str(tmp_path / name) for name in ("a", HOSTILE)]


def test_compare_prints_what_differs_and_writes_it(runs: list[str], tmp_path: Path, capsys: Said) -> None:
    folder = tmp_path / "out"
    assert main(["compare", *runs, "-o", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    head, *lines = shown.split("\n\n")[0].splitlines()
    assert head.split() == ["system", "score", "run", "tracks", "mean", "difference", "p", "adjusted", "test"]
    assert len(lines) == 4
    assert lines[1].startswith("SAMUeL  beat F1        b?[31m<i>  12 ")
    assert " +0.1" in lines[1]
    assert "†  in pairs, n = 12" in lines[1]
    assert "+0.000 [+0.000, +0.000]  1.000   1.000     in pairs, n = 12" in lines[3]
    assert "over the 2 differences tested" in shown
    assert "tracks differ: 12 in a, 13 in b?[31m<i>" in shown
    names = ["compare.html", "compare.md", "compare.parquet"]
    assert shown.splitlines()[-3:] == [str(folder / name) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == names
    rows = pq.read_table(folder / "compare.parquet").to_pylist()
    assert [(row["score"], row["run"], row["test"]) for row in rows] == [
        ("beat_f1", "a", None), ("beat_f1", HOSTILE, "in pairs"),
        ("key_agreement", "a", None), ("key_agreement", HOSTILE, "in pairs"),
    ]  # fmt: skip
    assert rows[1]["difference_mean"] == pytest.approx(rows[1]["mean"] - rows[0]["mean"])
    assert rows[1]["p"] < rows[1]["adjusted"] < 0.05
    assert rows[3]["adjusted"] == 1.0
    text, page = ((folder / name).read_text() for name in ("compare.md", "compare.html"))
    assert "- **SAMUeL**, beat F1: +0.1" in " ".join(text.split())
    assert "1 of 2 differences tested may be noise." in text
    assert "<i>" not in text + page
    assert main(["compare", runs[0]]) == 1
    assert "two runs at least" in capsys.readouterr().err
