from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from samuel.cli import main
from tests.report.evaluations import (
    OURS,
    rows_of,
    summary,
    write_scores,
)

HOSTILE = "b\x1b[31m<i>"


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


def test_compare_prints_what_differs(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs]) == 0
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


def test_compare_writes_what_it_prints(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert main(["compare", *runs, "-o", str(folder)]) == 0
    names = ["compare.html", "compare.md", "compare.parquet"]
    assert capsys.readouterr().out.splitlines()[-3:] == [str(folder / name) for name in names]
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
    assert "- **SAMUeL**, beat F1: +0.1" in text
    assert "1 of 2 differences tested may be noise." in text
    assert "<i>" not in text + page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "two runs at least"), (["gone"], "gone: no such folder"), (["."], "is given twice")],
)
def test_compare_says_what_is_wrong(
    arguments: list[str], said: str, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    others = [runs[0] if argument == "." else argument for argument in arguments]
    assert main(["compare", runs[0], *others]) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
