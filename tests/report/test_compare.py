from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from samuel.errors import InputError
from samuel.report.compare import (
    Compared,
    Difference,
    Run,
    compare,
    notes,
)
from tests.report.evaluations import OURS, REAL, summary

KEY = (OURS, "beat_f1")


def run(name: str, values: Mapping[tuple[str, str], Mapping[str, float | None]], **parts: Any) -> Run:
    titles = {track: track for tracks in values.values() for track in tracks}
    parts = {"vocals": {track: f"sha256 of {track}" for track in titles}} | parts
    return Run(name, Path(name), summary(**parts), {key: dict(v) for key, v in values.items()}, titles)


def drawn(seed: int, n: int = 12, prefix: str = "t", mean: float = 0.5) -> dict[str, float | None]:
    values = np.random.default_rng(seed).normal(mean, 0.1, n)
    return {f"{prefix}{place}": float(value) for place, value in enumerate(values)}


def numbers(values: dict[str, float | None]) -> list[float]:
    return [value for value in values.values() if value is not None]


def only(rows: list[Compared]) -> Difference:
    (found,) = [row.difference for row in rows if row.difference]
    return found


def test_common_tracks_are_compared_in_pairs() -> None:
    """p by every flip of signs, the mean by hand."""
    first = drawn(0, 8)
    second = {t: v + 0.02 + 0.01 * i for i, (t, v) in enumerate(reversed(first.items())) if v is not None}
    found = only(compare([run("a", {KEY: first}), run("b", {KEY: dict(second)})]))
    gains = np.array([second[track] - (value or 0) for track, value in first.items()])
    flips = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    means = np.abs((gains[:, None] * flips).mean(axis=0))
    assert found.p == pytest.approx(np.mean(means >= abs(gains.mean()) - 1e-12))
    assert (found.test, found.n, found.left_out) == ("in pairs", 8, 0)
    assert found.interval.mean == pytest.approx(gains.mean())
    assert found.interval.low is not None
    assert found.interval.low > 0


def test_tracks_without_a_partner_are_counted_and_left_out() -> None:
    first = {"a": 0.1, "b": 0.2, "c": 0.3, "d": None, "x": 9.0}
    second = {"c": 0.5, "b": 0.3, "a": 0.2, "d": 0.5, "y": -9.0, "z": float("nan")}
    rows = compare([run("a", {KEY: first}), run("b", {KEY: second})])
    found = only(rows)
    assert (found.n, found.left_out) == (3, 3)  # x, y, and d of the second
    assert found.interval.mean == pytest.approx(0.4 / 3)
    assert rows[1].mean.n == 5


def test_other_tracks_are_independent_samples() -> None:
    first, second = drawn(0, 10, "a"), drawn(1, 14, "b", 0.65)
    found = only(compare([run("a", {KEY: first}), run("b", {KEY: second})]))
    assert (found.test, found.n) == ("independent", 24)
    one, other = numbers(first), numbers(second)
    assert found.p == pytest.approx(stats.ttest_ind(one, other)[1], abs=0.005)
    # Welch by its formula.
    parts = np.var(one, ddof=1) / 10, np.var(other, ddof=1) / 14
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 9 + parts[1] ** 2 / 13)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    gain = np.mean(other) - np.mean(one)
    assert (found.interval.mean, found.interval.low, found.interval.high) == pytest.approx(
        (gain, gain - half, gain + half)
    )


def test_few_or_constant_values_give_what_they_can() -> None:
    alone = only(compare([run("a", {KEY: {"a": 0.5}}), run("b", {KEY: {"b": 0.7, "c": 0.8}})]))
    assert (alone.p, alone.adjusted, alone.interval.low, alone.significant) == (None, None, None, False)
    assert alone.interval.mean == pytest.approx(0.25)
    constant = only(compare([run("a", {KEY: {"a": 0.5, "b": 0.5}}), run("b", {KEY: {"c": 0.7, "d": 0.7}})]))
    assert (constant.interval.mean, constant.interval.low) == (pytest.approx(0.2), None)
    nothing = only(compare([run("a", {KEY: {"a": None}}), run("b", {KEY: {"b": 0.1}})]))
    assert (nothing.interval.mean, nothing.p) == (None, None)


def test_p_is_adjusted_over_the_whole_table() -> None:
    """Benjamini and Hochberg (1995) by a loop: the least of m p / rank over this and higher ranks."""
    scores = [("S", name) for name in ("beat_f1", "chroma_likeness", "level_dbfs")]
    runs = [
        run(name, {key: drawn(10 * i + j, mean=0.5 + 0.04 * i * j) for j, key in enumerate(scores)})
        for i, name in enumerate("abc")
    ]
    found = [row.difference for row in compare(runs) if row.difference]
    ps = [difference.p or 0 for difference in found]
    ranked = sorted(ps)
    wanted = [min(len(ps) * q / (k + 1) for k, q in enumerate(ranked) if q >= p) for p in ps]
    assert len(ps) == 6
    assert [difference.adjusted for difference in found] == pytest.approx(wanted)
    assert [difference.significant for difference in found] == [p < 0.05 for p in wanted]
    assert {difference.significant for difference in found} == {True, False}


def test_rows_are_by_system_and_score_and_in_the_order_of_the_runs() -> None:
    keys = [(REAL, "level_dbfs"), (OURS, "level_dbfs"), (OURS, "chroma_likeness")]
    runs = [run(name, {key: drawn(0) for key in keys}) for name in "ba"]
    assert [(row.system, row.score, row.run) for row in compare(runs)] == [
        (system, score, name)
        for system, score in ((REAL, "level_dbfs"), (OURS, "chroma_likeness"), (OURS, "level_dbfs"))
        for name in "ba"
    ]
    assert [row.difference is None for row in compare(runs)] == [True, False] * 3


def test_runs_without_a_common_score_are_refused() -> None:
    with pytest.raises(InputError, match="no score of a system in common: a has SAMUeL; b has real"):
        compare([run("a", {KEY: drawn(0)}), run("b", {(REAL, "beat_f1"): drawn(0)})])


def test_what_differs_and_what_is_left_out_is_told() -> None:
    first = run("a", {KEY: drawn(0), (REAL, "beat_f1"): drawn(1)}, codec="mel/1")
    second = run("b", {KEY: drawn(0), (OURS, "PQ"): drawn(1)}, codec="mel/2", tracks=12)
    second.titles["t3"] = "another song"
    told = notes([first, second])
    assert told == [
        "real in a: beat_f1 left out, as not in all of b",
        "SAMUeL in b: PQ left out, as not in all of a",
        "tracks differ: 20 in a, 12 in b",
        "codec differ: mel/1 in a, mel/2 in b",
        "tracks with other titles in a than in b: 1, such as t3 (t3, another song); their vocals are the "
        "same, so they were paired",
    ]
    assert notes([first, first]) == []


@pytest.mark.parametrize("part", ["codec", "dataset", "model", "audiobox", "apa_weights"])
def test_whatever_made_the_scores_is_compared(part: str) -> None:
    runs = [run(name, {KEY: drawn(0)}, **{part: f"{part} of {name}"}) for name in "ab"]
    assert notes(runs) == [f"{part} differ: {part} of a in a, {part} of b in b"]


def vocals(tracks: Mapping[str, Any], other: str = "", songs: Collection[str] = ()) -> dict[str, str]:
    """Digests, with those of some tracks of another song."""
    return {track: f"{track}{other if track in songs else ''}" for track in tracks}


def test_songs_that_share_a_name_alone_are_not_paired() -> None:
    first, second = drawn(0, 6), drawn(1, 6)
    runs = [
        run("a", {KEY: first}, vocals=vocals(first)),
        run("b", {KEY: second}, vocals=vocals(second, "!", {"t1", "t4"})),
    ]
    runs[1].titles["t1"] = "another song"
    found = only(compare(runs))
    assert (found.test, found.n, found.left_out) == ("in pairs", 4, 4)
    gains = [(second[f"t{i}"] or 0) - (first[f"t{i}"] or 0) for i in (0, 2, 3, 5)]
    assert found.interval.mean == pytest.approx(np.mean(gains))
    assert notes(runs) == [
        "tracks of one name with another vocal in a than in b: 2, such as t1; they were not paired"
    ]
    strangers = run("c", {KEY: second}, vocals=vocals(second, "!", second))
    independent = only(compare([runs[0], strangers]))
    assert (independent.test, independent.n) == ("independent", 12)
    assert notes([runs[0], strangers])[0].startswith(
        "tracks of one name with another vocal in a than in c: 6"
    )


@pytest.mark.parametrize("unknown", [None, {}, ["t0"], "t0"])
def test_without_the_vocals_digests_nothing_is_paired(unknown: Any) -> None:
    runs = [run("a", {KEY: drawn(0)}), run("b", {KEY: drawn(1)}, vocals=unknown)]
    for pair in (runs, runs[::-1], [runs[1], run("c", {KEY: drawn(2)}, vocals=unknown)]):
        assert only(compare(pair)).test == "independent"
        assert [note for note in notes(pair) if "whose vocals were not recorded: 12" in note]
