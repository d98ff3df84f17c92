from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samuel.errors import InputError
from samuel.report.compare import find_run, read_runs
from tests.report.evaluations import (
    OURS,
    rows_of,
    summary,
    write_scores,
)

ROWS = [
    *rows_of(OURS, "beat_f1", {"a": 0.5, "b": None}),
    *rows_of(OURS, "beat_f1", {"a": 0.1, "b": 0.2}, "other vocals"),
    *rows_of(OURS, "level_dbfs", {"a": -18.0}, None),
]


def write(folder: Path, **parts: Any) -> Path:
    write_scores(folder, summary(**parts), ROWS)
    return folder


def test_a_run_is_read_with_the_scores_of_its_own_vocals(tmp_path: Path) -> None:
    first, other = read_runs([write(tmp_path / "x"), write(tmp_path / "y", tracks=3)])
    assert first.values == {(OURS, "beat_f1"): {"a": 0.5, "b": None}, (OURS, "level_dbfs"): {"a": -18.0}}
    assert (first.name, other.name, other.summary["tracks"]) == ("x", "y", 3)
    assert first.titles == {"a": "a", "b": "b"}


def test_a_run_is_found_below_a_folder(tmp_path: Path) -> None:
    run = write(tmp_path / "run" / "report" / "key")
    assert find_run(tmp_path / "run") == run
    assert find_run(run) == run
    write(tmp_path / "run" / "report" / ".key.tmp", tracks=1)  # in the making
    assert find_run(tmp_path / "run") == run
    write(tmp_path / "run" / "scores" / "key")  # the same
    assert find_run(tmp_path / "run") == run
    second = write(tmp_path / "run" / "scores" / "other", tracks=7)
    with pytest.raises(InputError, match="holds several runs; give one of") as refused:
        find_run(tmp_path / "run")
    assert str(second) in str(refused.value)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    places = [write(tmp_path / name / "report") for name in "ab"]
    assert [run.name for run in read_runs(places)] == [str(place) for place in places]


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    good = write(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    for paths, said in (
        ([good], "two runs at least"),
        ([good, tmp_path / "gone"], "gone: no such folder"),
        ([good, tmp_path / "empty"], "empty: holds no scores.parquet with summary.json"),
        ([good, tmp_path / "good" / ".." / "good"], "is given twice"),
        (
            [good, write(tmp_path / "later", version=2)],
            r"later/summary\.json: scores of version 2, this reads",
        ),
    ):
        with pytest.raises(InputError, match=said):
            read_runs(paths)


def nameless(folder: Path) -> None:
    rows = [row | {"track": None} for row in ROWS]
    write_scores(folder, summary(), rows)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "summary.json").write_text("{"), r"summary\.json: not JSON"),
        (lambda folder: (folder / "summary.json").write_text("[" * 100_000), r"summary\.json: not JSON"),
        (lambda folder: (folder / "summary.json").write_bytes(b"\xff"), r"summary\.json: not JSON"),
        (lambda folder: (folder / "summary.json").write_text("[1]"), "of version None"),
        (
            lambda folder: (folder / "scores.parquet").write_text("PAR1"),
            r"scores\.parquet: not a table of scores",
        ),
        (
            lambda folder: pq.write_table(pa.table({"system": [1]}), folder / "scores.parquet"),
            r"scores\.parquet: not a table of scores",
        ),
        (nameless, "a row without a name"),
    ],
)
def test_a_damaged_run_is_named(damage: Any, said: str, tmp_path: Path) -> None:
    damage(write(tmp_path / "bad"))
    with pytest.raises(InputError, match=said):
        read_runs([write(tmp_path / "good"), tmp_path / "bad"])
