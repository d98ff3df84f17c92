from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

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
    assert first.titles == {"a": "a", "b": "b"}
    places = [write(tmp_path / name / "report") for name in "ab"]
    assert [run.name for run in read_runs(places)] == [str(place) for place in places]


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


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    good, later = write(tmp_path / "good"), write(tmp_path / "later", version=99)
    (tmp_path / "empty").mkdir()
    for paths, said in (
        ([good], "two runs at least"),
        ([good, tmp_path / "gone"], "gone: no such folder"),
        ([good, tmp_path / "empty"], "empty: holds no scores.parquet with summary.json"),
        ([good, tmp_path / "good" / ".." / "good"], "is given twice"),
        ([good, later], r"later/summary\.json: scores of version 99, this reads"),
    ):
        with pytest.raises(InputError, match=said):
            read_runs(paths)


def with_text(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def with_table(table: pa.Table) -> Callable[[Path], object]:
    return lambda folder: pq.write_table(table, folder / "scores.parquet")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (with_text("summary.json", b"{"), r"summary\.json: not JSON"),
        (with_text("summary.json", b"[" * 100_000), r"summary\.json: not JSON"),
        (with_text("summary.json", b"\xff"), r"summary\.json: not JSON"),
        (with_text("summary.json", b"[1]"), "of version None"),
        (with_text("scores.parquet", b"PAR1"), r"scores\.parquet: not a table of scores"),
        (with_table(pa.table({"system": [1]})), r"scores\.parquet: not a table of scores"),
        (
            lambda folder: write_scores(folder, summary(), [row | {"track": None} for row in ROWS]),
            "a row without a name",
        ),
    ],
)
def test_a_damaged_run_is_named(damage: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    damage(write(tmp_path / "bad"))
    with pytest.raises(InputError, match=said):
        read_runs([write(tmp_path / "good"), tmp_path / "bad"])


def run(name: str, values: Mapping[tuple[str, str], Values], **parts: Any) -> Run:
    titles = {track: track for tracks in values.values() for track in tracks}
    parts = {"vocals": {track: f"sha256 of {track}" for track in titles}} | parts
    series = {key: pd.Series(found, dtype=float).dropna() for key, found in values.items()}
    return Run(name, Path(name), summary(**parts), series, titles)


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


def test_tracks_without_a_partner_are_counted_and_left_out() -> None:
    first = {"a": 0.1, "b": 0.2, "c": 0.3, "x": 9.0}
    second = {"c": 0.5, "b": 0.3, "a": 0.2, "d": 0.5, "y": -9.0}
    found = only(run("a", {KEY: first}), run("b", {KEY: second}))
    assert (found.tested, found.left_out) == (3, 3)  # x, y, and d of the second
    assert found.difference_mean == pytest.approx(0.4 / 3)
    assert found.n == 5


def test_other_tracks_are_independent_samples() -> None:
    first, second = drawn(0, 10, "a"), drawn(1, 14, "b", 0.65)
    found = only(run("a", {KEY: first}), run("b", {KEY: second}))
    assert (found.test, found.tested) == ("independent", 24)
    one, other = list(first.values()), list(second.values())
    assert found.p == pytest.approx(stats.ttest_ind(one, other)[1], abs=0.005)
    # Welch by its formula.
    parts = np.var(one, ddof=1) / 10, np.var(other, ddof=1) / 14
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 9 + parts[1] ** 2 / 13)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    gain = np.mean(other) - np.mean(one)
    assert (found.difference_mean, found.difference_low, found.difference_high) == pytest.approx(
        (gain, gain - half, gain + half)
    )


@pytest.mark.parametrize(
    ("first", "second", "gain", "words"),
    [
        (
            {"a": 0.5},
            {"b": 0.7, "c": 0.8},
            0.25,
            ["+0.250", "not measured", "not measured", "too few tracks"],
        ),
        ({"a": 0.5, "b": 0.5}, {"c": 0.7, "d": 0.7}, 0.2, ["+0.200", "0.333", "0.333", "independent, n = 4"]),
        ({}, {"b": 0.1}, None, ["not measured", "not measured", "not measured", "too few tracks"]),
    ],
)
def test_few_or_constant_values_give_what_they_can(
    first: Values, second: Values, gain: float | None, words: list[str]
) -> None:
    rows = compare([run("a", {KEY: first}), run("b", {KEY: second})])
    found = rows.iloc[1]
    assert found["difference_mean"] == pytest.approx(np.nan if gain is None else gain, nan_ok=True)
    assert np.isnan(found["difference_low"])
    assert list(table_rows(rows)[1].values())[5:] == words
    assert list(table_rows(rows)[0].values())[5:] == ["–"] * 4


def test_p_is_adjusted_over_the_whole_table() -> None:
    """Benjamini and Hochberg (1995) by a loop: the least of m p / rank over this and higher ranks."""
    scores = [("S", name) for name in ("beat_f1", "chroma_likeness", "level_dbfs")]
    rows = compare([
        run(name, {key: drawn(10 * i + j, mean=0.5 + 0.04 * i * j) for j, key in enumerate(scores)})
        for i, name in enumerate("abc")
    ])  # fmt: skip
    tested = rows.dropna(subset="p")
    ranked = sorted(tested["p"])
    wanted = [min(6 * q / (k + 1) for k, q in enumerate(ranked) if q >= p) for p in tested["p"]]
    assert tested["adjusted"].tolist() == pytest.approx(wanted)
    assert [("†" in row["adjusted"]) for row in table_rows(tested)] == [p < 0.05 for p in wanted]
    assert 0 < sum(p < 0.05 for p in wanted) < 6


def test_rows_are_by_system_and_score_and_in_the_order_of_the_runs() -> None:
    keys = [(REAL, "level_dbfs"), (OURS, "level_dbfs"), (OURS, "chroma_likeness")]
    rows = compare([run(name, {key: drawn(0) for key in keys}) for name in "ba"])
    assert list(zip(rows["system"], rows["score"], rows["run"], strict=True)) == [
        (system, score, name)
        for system, score in ((REAL, "level_dbfs"), (OURS, "chroma_likeness"), (OURS, "level_dbfs"))
        for name in "ba"
    ]
    assert rows["test"].isna().tolist() == [True, False] * 3


def test_runs_without_a_common_score_are_refused() -> None:
    with pytest.raises(InputError, match="no score of a system in common: a has SAMUeL; b has real"):
        compare([run("a", {KEY: drawn(0)}), run("b", {(REAL, "beat_f1"): drawn(0)})])


def test_what_differs_and_what_is_left_out_is_noted() -> None:
    first = run("a", {KEY: drawn(0), (REAL, "beat_f1"): drawn(1)}, codec="mel/1")
    second = run("b", {KEY: drawn(0), (OURS, "PQ"): drawn(1)}, codec="mel/2", tracks=12)
    second.titles["t3"] = "another song"
    assert notes([first, second]) == [
        "real in a: beat_f1 left out, as not in all of b",
        "SAMUeL in b: PQ left out, as not in all of a",
        "tracks differ: 20 in a, 12 in b",
        "codec differ: mel/1 in a, mel/2 in b",
        "tracks with other titles in a than in b: 1, such as t3 (t3, another song); their vocals are the "
        "same, so they were paired",
    ]
    assert notes([first, first]) == []
    for part in ("dataset", "model", "audiobox", "apa_weights"):
        runs = [run(name, {KEY: drawn(0)}, **{part: f"{part} of {name}"}) for name in "ab"]
        assert notes(runs) == [f"{part} differ: {part} of a in a, {part} of b in b"]


def vocals(tracks: Values, songs: Collection[str] = ()) -> dict[str, str]:
    """Digests, with those of some tracks of another song."""
    return {track: f"{track}{'!' if track in songs else ''}" for track in tracks}


def test_songs_that_share_a_name_alone_are_not_paired() -> None:
    first, second = drawn(0, 6), drawn(1, 6)
    ours = run("a", {KEY: first}, vocals=vocals(first))
    other = run("b", {KEY: second}, vocals=vocals(second, {"t1", "t4"}))
    other.titles["t1"] = "another song"
    found = only(ours, other)
    assert (found.test, found.tested, found.left_out) == ("in pairs", 4, 4)
    assert found.difference_mean == pytest.approx(
        np.mean([second[f"t{i}"] - first[f"t{i}"] for i in (0, 2, 3, 5)])
    )
    said = "tracks of one name with another vocal in a than in"
    assert notes([ours, other]) == [f"{said} b: 2, such as t1; they were not paired"]
    strangers = run("c", {KEY: second}, vocals=vocals(second, second))
    independent = only(ours, strangers)
    assert (independent.test, independent.tested) == ("independent", 12)
    assert notes([ours, strangers])[0].startswith(f"{said} c: 6")


@pytest.mark.parametrize("unknown", [None, {}, ["t0"], "t0"])
def test_without_the_vocals_digests_nothing_is_paired(unknown: Any) -> None:
    known, other = run("a", {KEY: drawn(0)}), run("b", {KEY: drawn(1)}, vocals=unknown)
    for pair in ([known, other], [other, known], [other, run("c", {KEY: drawn(2)}, vocals=unknown)]):
        assert only(*pair).test == "independent"
        assert [note for note in notes(pair) if "whose vocals were not recorded: 12" in note]
