from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samuel.errors import InputError
from samuel.report.compare import Run, compare, find_run, notes, read_runs, table_rows
from tests.report.evaluations import OURS, REAL, rows_of, summary, write_scores

KEY = (OURS, "beat_f1")
ROWS = [
    *rows_of(OURS, "beat_f1", {"a": 0.5, "b": None}),
    *rows_of(OURS, "beat_f1", {"a": 0.1, "b": 0.2}, "other vocals"),
    *rows_of(OURS, "level_dbfs", {"a": -18.0, "b": float("inf")}, None),
]
Values = Mapping[str, float]


def write(folder: Path, **parts: Any) -> Path:
    write_scores(folder, summary(**parts), ROWS)
    return folder


def test_a_run_is_read_with_the_finite_scores_of_its_own_vocals(tmp_path: Path) -> None:
    first, other = read_runs([write(tmp_path / "x"), write(tmp_path / "y", tracks=3)])
    values = {key: found.to_dict() for key, found in first.values.items()}
    assert values == {(OURS, "beat_f1"): {"a": 0.5}, (OURS, "level_dbfs"): {"a": -18.0}}
    assert (first.name, other.name, other.summary["tracks"]) == ("x", "y", 3)
    places = [write(tmp_path / name / "report") for name in "ab"]
    assert [run.name for run in read_runs(places)] == [str(place) for place in places]


def test_a_run_is_found_below_a_folder(tmp_path: Path) -> None:
    run = write(tmp_path / "run" / "report" / "key")
    write(tmp_path / "run" / "report" / ".key.tmp", tracks=1)  # in the making
    write(tmp_path / "run" / "scores" / "key")
    assert find_run(tmp_path / "run") == find_run(run) == run
    second = write(tmp_path / "run" / "report" / "other", tracks=7)
    with pytest.raises(InputError, match="holds several runs; give one of") as refused:
        find_run(tmp_path / "run")
    assert str(second) in str(refused.value)
    (tmp_path / "empty").mkdir()
    for paths, said in (
        ([run], "two runs at least"),
        ([run, tmp_path / "gone"], "gone: no such folder"),
        ([run, tmp_path / "empty"], "empty: holds no scores.parquet with summary.json"),
        ([run, run / ".." / "key"], "is given twice"),
    ):
        with pytest.raises(InputError, match=said):
            read_runs(paths)


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good"), tmp_path / "bad"
    other = pa.table({"system": [1]})
    for damage, said in (
        (lambda: (bad / "summary.json").write_bytes(b"[" * 100_000), r"summary\.json: not JSON"),
        (lambda: (bad / "summary.json").write_bytes(b"[1]"), "of version None"),
        (lambda: write(bad, version=99), r"summary\.json: scores of version 99, not "),
        (lambda: (bad / "scores.parquet").write_bytes(b"PAR1"), r"scores\.parquet: not a table of scores"),
        (lambda: pq.write_table(other, bad / "scores.parquet"), r"scores\.parquet: not a table of scores"),
        (lambda: write_scores(bad, summary(), [row | {"track": None} for row in ROWS]), "a name missing"),
    ):
        write(bad)
        damage()
        with pytest.raises(InputError, match=said):
            read_runs([good, bad])


def run(name: str, values: Mapping[tuple[str, str], Values], **parts: Any) -> Run:
    parts = {"vocals": {track: f"sha256 of {track}" for found in values.values() for track in found}} | parts
    series = {key: pd.Series(found, dtype=float).dropna() for key, found in values.items()}
    return Run(name, Path(name), summary(**parts), series)


def drawn(seed: int, n: int = 12, prefix: str = "t", mean: float = 0.5) -> dict[str, float]:
    values = np.random.default_rng(seed).normal(mean, 0.1, n)
    return {f"{prefix}{place}": float(value) for place, value in enumerate(values)}


def only(*runs: Run) -> Any:
    """The row of the only difference of two runs."""
    _, second = compare(runs).itertuples()
    return second


def test_common_tracks_are_compared_in_pairs() -> None:
    """p by every flip of signs, the mean by hand."""
    first = drawn(0, 8)
    second = {t: v + 0.02 + 0.01 * i for i, (t, v) in enumerate(reversed(first.items()))}
    found = only(run("a", {KEY: first}), run("b", {KEY: second}))
    gains = np.array([second[track] - value for track, value in first.items()])
    flips = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    means = np.abs((gains[:, None] * flips).mean(axis=0))
    assert found.p == pytest.approx(np.mean(means >= abs(gains.mean()) - 1e-12))
    assert (found.test, found.tested, found.left_out) == ("in pairs", 8, 0)
    assert found.difference_mean == pytest.approx(gains.mean())
    assert found.difference_low > 0


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"b": 0.7, "c": 0.8}, ["not measured"] * 3 + ["too few tracks, 3 left out"]),
        ({"a": 0.75}, ["+0.250", "not measured", "not measured", "too few tracks"]),
        ({}, ["not measured"] * 3 + ["too few tracks, 1 left out"]),
    ],
)
def test_without_two_common_tracks_there_is_no_p(second: Values, words: list[str]) -> None:
    before, after = table_rows(compare([run("a", {KEY: {"a": 0.5}}), run("b", {KEY: second})]))
    assert list(before.values())[5:] == ["–"] * 4
    assert list(after.values())[5:] == words


def test_p_is_adjusted_over_the_whole_table_in_its_order() -> None:
    """Benjamini and Hochberg (1995) by a loop: the least of m p / rank over this and higher ranks."""
    scores = [("S", name) for name in ("level_dbfs", "chroma_likeness", "beat_f1")]
    rows = compare([
        run(name, {key: drawn(10 * i + j, mean=0.5 + 0.04 * i * j) for j, key in enumerate(scores)})
        for i, name in enumerate("bac")
    ])  # fmt: skip
    order = [(score, name) for score in ("chroma_likeness", "beat_f1", "level_dbfs") for name in "bac"]
    assert list(zip(rows["score"], rows["run"], strict=True)) == order
    tested = rows.dropna(subset="p")
    ranked = sorted(tested["p"])
    wanted = [min(6 * q / (k + 1) for k, q in enumerate(ranked) if q >= p) for p in tested["p"]]
    assert tested["adjusted"].tolist() == pytest.approx(wanted)
    assert [("†" in row["adjusted"]) for row in table_rows(tested)] == [p < 0.05 for p in wanted]
    assert 0 < sum(p < 0.05 for p in wanted) < 6


def test_what_differs_and_what_is_left_out_is_noted() -> None:
    first = run("a", {KEY: drawn(0), (REAL, "beat_f1"): drawn(1)}, codec="mel/1")
    second = run("b", {KEY: drawn(0), (OURS, "PQ"): drawn(1)}, codec="mel/2", tracks=12)
    assert notes([first, second]) == [
        "real in a: beat_f1 left out, as not in all runs",
        "SAMUeL in b: PQ left out, as not in all runs",
        "tracks differ: 20 in a, 12 in b",
        "codec differ: mel/1 in a, mel/2 in b",
    ]
    assert notes([first, first]) == []
    with pytest.raises(InputError, match="no score of a system in common: a has SAMUeL; b has real"):
        compare([run("a", {KEY: drawn(0)}), run("b", {(REAL, "beat_f1"): drawn(0)})])


def test_songs_that_share_a_name_alone_are_not_paired() -> None:
    first, second = drawn(0, 6), drawn(1, 7)

    def vocals(others: Collection[str]) -> dict[str, str]:
        return {track: f"{track}{'!' if track in others else ''}" for track in second}

    ours = run("a", {KEY: first}, vocals=vocals(()))
    other = run("b", {KEY: second}, vocals=vocals({"t1", "t4"}))
    found = only(ours, other)
    assert (found.test, found.tested, found.left_out) == ("in pairs", 4, 5)
    gains = [second[f"t{i}"] - first[f"t{i}"] for i in (0, 2, 3, 5)]
    assert found.difference_mean == pytest.approx(np.mean(gains))
    said = "tracks of one name in a and b, not known to have one vocal: 2, such as t1; not paired"
    assert notes([ours, other]) == [said]
    strangers = only(ours, run("c", {KEY: second}, vocals=vocals(second)))
    assert (strangers.tested, strangers.left_out) == (0, 13)
