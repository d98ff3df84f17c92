"""Runs side by side: what differs, by how much, and whether it is more than noise.

Every difference is to the first run. Tracks that both runs hold, by name and by the digest of the vocal, are
compared in pairs, which takes away what is common to a track; runs without common tracks are compared as
independent samples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samuel.errors import InputError
from samuel.evaluate.statistics import Interval, mean_interval, paired_p, unpaired_p
from samuel.report.runs import Run, Values
from samuel.report.score_names import in_order

SIGNIFICANT = 0.05
CONFIDENCE = 0.95
LEAST_PAIRS = 2
PAIRED, INDEPENDENT = "in pairs", "independent"
DESCRIBING = ("codec", "dataset", "model", "audiobox", "apa_weights")
"""What a summary may say of a run, in which two of them should not differ unnoticed."""


@dataclass(frozen=True)
class Difference:
    """A run's mean less that of the first run, of one score of one system.

    Attributes:
        test: `in pairs` or `independent`: which samples were permuted.
        n: Pairs, or values of both runs together.
        left_out: Values of either run that had no partner.
        interval: Where the difference lies with 95 % confidence.
        p: Two-sided; None where there are too few tracks.
        adjusted: p after Benjamini and Hochberg, over all differences of the comparison.
    """

    test: str
    n: int
    left_out: int
    interval: Interval
    p: float | None
    adjusted: float | None = None

    @property
    def significant(self) -> bool:
        """Whether it is taken for more than noise."""
        return self.adjusted is not None and self.adjusted < SIGNIFICANT


@dataclass(frozen=True)
class Compared:
    """One score of one system in one run.

    Attributes:
        system: Whose accompaniments.
        score: Its name in `scores.parquet`.
        run: Name of the run.
        mean: Over the run's own tracks.
        difference: To the first run; None for the first itself.
    """

    system: str
    score: str
    run: str
    mean: Interval
    difference: Difference | None

    def row(self) -> dict[str, Any]:
        """All numbers, flat; what there is not is None."""
        found = self.difference
        interval = asdict(found.interval) if found else dict.fromkeys(("mean", "low", "high"))
        return {
            **{"system": self.system, "score": self.score, "run": self.run},
            **asdict(self.mean),
            **{f"difference_{name}": interval[name] for name in ("mean", "low", "high")},
            **{name: getattr(found, name, None) for name in ("test", "p", "adjusted", "left_out")},
            "tested": found and found.n,
        }


def compare(runs: Sequence[Run]) -> list[Compared]:
    """Every score of every system that all runs have, by system and score, and in the order of the runs.

    Args:
        runs: The first is what the others are held to.

    Raises:
        InputError: They have no score of a system in common.
    """
    common = _common(runs)
    if not common:
        raise InputError(f"the runs have no score of a system in common: {_held(runs)}")
    return _adjusted([_compared(runs[0], run, key) for key in common for run in runs])


def notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know beside the numbers: how the runs differ, and what was left out."""
    return [*_left_out(runs), *(note for run in runs[1:] for note in _unlike(runs[0], run))]


def _common(runs: Sequence[Run]) -> list[tuple[str, str]]:
    shared = [key for key in runs[0].values if all(key in run.values for run in runs)]
    systems = list(dict.fromkeys(system for system, _ in shared))
    return [
        (system, score) for system in systems for score in in_order([s for n, s in shared if n == system])
    ]


def _held(runs: Sequence[Run]) -> str:
    systems = {run.name: sorted({system for system, _ in run.values}) for run in runs}
    return "; ".join(f"{name} has {', '.join(found) or 'none'}" for name, found in systems.items())


def _compared(first: Run, run: Run, key: tuple[str, str]) -> Compared:
    mean = mean_interval(list(_measured(run.values[key]).values()))
    return Compared(*key, run.name, mean, None if run is first else _difference(first, run, key))


def _difference(first: Run, run: Run, key: tuple[str, str]) -> Difference:
    before, after = _measured(first.values[key]), _measured(run.values[key])
    both = [track for track in before if track in after and _same_song(first, run, track)]
    if len(both) >= LEAST_PAIRS:
        gains = [after[track] - before[track] for track in both]
        alone = len(before) + len(after) - 2 * len(both)
        return Difference(PAIRED, len(both), alone, mean_interval(gains), paired_p(gains))
    one, other = np.array(list(before.values())), np.array(list(after.values()))
    return Difference(INDEPENDENT, len(one) + len(other), 0, _welch(one, other), unpaired_p(one, other))


def _same_song(first: Run, run: Run, track: str) -> bool:
    """Whether a name means one vocal in both; a name alone, such as `01`, may mean any two songs."""
    vocal = first.vocals.get(track)
    return vocal is not None and vocal == run.vocals.get(track)


def _welch(before: NDArray[np.float64], after: NDArray[np.float64]) -> Interval:
    """Difference of the means of independent samples with Welch's interval: their spreads may differ."""
    from scipy import stats

    n = len(before) + len(after)
    if not (len(before) and len(after)):
        return Interval(n, None, None, None)
    mean = float(after.mean() - before.mean())
    if min(len(before), len(after)) < 2 or not (before.var() or after.var()):
        return Interval(n, mean, None, None)
    found = stats.ttest_ind(after, before, equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(n, mean, float(found.low), float(found.high))


def _adjusted(rows: Sequence[Compared]) -> list[Compared]:
    """With p after Benjamini and Hochberg: of what is marked, one in twenty is expected to be chance."""
    from scipy.stats import false_discovery_control

    tested = [row.difference.p for row in rows if row.difference and row.difference.p is not None]
    adjusted = iter(false_discovery_control(tested) if tested else ())
    return [
        replace(row, difference=replace(row.difference, adjusted=float(next(adjusted))))
        if row.difference and row.difference.p is not None
        else row
        for row in rows
    ]


def _measured(values: Values) -> dict[str, float]:
    return {track: value for track, value in values.items() if value is not None and math.isfinite(value)}


def _left_out(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        lacking = [other.name for other in runs if other is not run]
        for system, scores in _only_here(run, runs).items():
            listed = ", ".join(scores)
            yield f"{system} in {run.name}: {listed} left out, as not in all of {', '.join(lacking)}"


def _only_here(run: Run, runs: Sequence[Run]) -> dict[str, list[str]]:
    """Scores that some other run lacks, by system."""
    found: dict[str, list[str]] = {}
    for system, score in run.values:
        if not all((system, score) in other.values for other in runs):
            found.setdefault(system, []).append(score)
    return found


def _unlike(first: Run, run: Run) -> Iterator[str]:
    for part in ("tracks", *DESCRIBING):
        before, after = first.summary.get(part), run.summary.get(part)
        if before != after:
            yield f"{part} differ: {before!s:.200} in {first.name}, {after!s:.200} in {run.name}"
    yield from _other_songs(first, run)
    renamed = [
        track
        for track, title in run.titles.items()
        if first.titles.get(track, title) != title and _same_song(first, run, track)
    ]
    if renamed:
        track = renamed[0]
        yield (
            f"tracks with other titles in {first.name} than in {run.name}: {len(renamed)}, such as {track} "
            f"({first.titles[track]}, {run.titles[track]}); their vocals are the same, so they were paired"
        )


def _other_songs(first: Run, run: Run) -> Iterator[str]:
    """Tracks that have a name in common and nothing else that is known."""
    named = [track for track in first.titles if track in run.titles]
    known = [track for track in named if track in first.vocals and track in run.vocals]
    other = [track for track in known if not _same_song(first, run, track)]
    if other:
        yield (
            f"tracks of one name with another vocal in {first.name} than in {run.name}: {len(other)}, such "
            f"as {other[0]}; they were not paired"
        )
    if unknown := len(named) - len(known):
        yield (
            f"tracks of one name in {first.name} and {run.name} whose vocals were not recorded: {unknown}; "
            "they may be different songs, so they were not paired"
        )
