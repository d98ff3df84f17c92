"""A comparison of runs as text, as a page and as a table."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from samuel.artifacts import replacing, sha256
from samuel.errors import InputError
from samuel.evaluate.scores import find_score, in_order
from samuel.evaluate.statistics import (
    Interval,
    mean_interval,
    paired_p,
    unpaired_p,
)
from samuel.evaluate.summary import (
    OTHERS,
    SCHEMA,
    SCORES,
    SUMMARY,
    VERSION,
)
from samuel.popdb.tables import read_table, write_rows
from samuel.report.html import (
    NONE,
    NOT_MEASURED,
    bullets,
    interval,
    number,
    page,
    plain,
    probability,
    section,
    table,
)

# Finished evaluations as they lie on disk, in the folder of a report or of its scores.


DEEPEST = 3
Values = dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """A finished evaluation.

    Attributes:
        name: What a comparison calls it.
        folder: Where its scores lie.
        summary: `summary.json`.
        values: By system and score, the value of each track; scores that look at the vocal, with its own.
        titles: By track.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    values: dict[tuple[str, str], Values]
    titles: dict[str, str]

    @property
    def vocals(self) -> dict[str, str]:
        """Digest of each track's vocal, which tells songs of one name apart; empty where it was not kept."""
        found = self.summary.get("vocals")
        return found if isinstance(found, dict) else {}


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Runs that are to be compared.

    Raises:
        InputError: There are not two, one is not there, is given twice, or is damaged or of another version.
    """
    if len(paths) < 2:
        raise InputError("a comparison takes two runs at least: give the folders of their reports")
    folders = [find_run(path) for path in paths]
    for place, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:place]]:
            raise InputError(f"{paths[place]}: the run in {folder} is given twice")
    return [_read(name, folder) for name, folder in zip(_names(paths), folders, strict=True)]


def find_run(path: Path) -> Path:
    """The folder of a run: `path`, or the only one below it; a run's report and scores count as one.

    Raises:
        InputError: There is none, or there are several.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder of a report, with {SCORES} and {SUMMARY}")
    if _holds_run(path):
        return path
    below = [folder for depth in range(1, DEEPEST + 1) for folder in sorted(path.glob("/".join("*" * depth)))]
    found = [folder for folder in below if _holds_run(folder) and not _hidden(folder, path)]
    if not found:
        raise InputError(
            f"{path}: holds no {SCORES} with {SUMMARY}, nor does a folder in it; give a report's"
        )
    different = {(sha256(folder / SCORES), sha256(folder / SUMMARY)): folder for folder in reversed(found)}
    if len(different) > 1:
        listed = ", ".join(str(folder) for folder in sorted(different.values()))
        raise InputError(f"{path}: holds several runs; give one of {listed}")
    return found[0]


def _holds_run(folder: Path) -> bool:
    return (folder / SCORES).is_file() and (folder / SUMMARY).is_file()


def _hidden(folder: Path, root: Path) -> bool:
    """Whether it is in the making."""
    return any(part.startswith(".") for part in folder.relative_to(root).parts)


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or all of it where that would leave two runs with one name."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _read(name: str, folder: Path) -> Run:
    summary, rows = _summary(folder / SUMMARY), _rows(folder / SCORES)
    values: dict[tuple[str, str], Values] = {}
    for row in rows:
        if row["against"] != OTHERS:
            values.setdefault((row["system"], row["score"]), {})[row["track"]] = row["value"]
    return Run(name, folder, summary, values, {row["track"]: row["title"] or "" for row in rows})


def _summary(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); evaluate again") from error
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise InputError(
            f"{path}: scores of version {version!r:.40}, this reads version {VERSION}; evaluate again"
        )
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = read_table(path.read_bytes(), SCHEMA).to_pylist()
    except ValueError as error:
        raise InputError(f"{path}: not a table of scores ({error}); evaluate again") from error
    if any(row[name] is None for row in rows for name in ("system", "track", "score")):
        raise InputError(f"{path}: not a table of scores (a row without a name); evaluate again")
    return rows


# Runs side by side: what differs, by how much, and whether it is more than noise.
#
# Every difference is to the first run. Tracks that both runs hold, by name and by the digest of the vocal,
# are
# compared in pairs, which takes away what is common to a track; runs without common tracks are compared as
# independent samples.


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


MARK = "†"
TITLE = "SAMUeL runs compared"
DIFFERENCES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("system", "score", "run")]
    + [("n", pa.int64())]
    + [(name, pa.float64()) for name in ("mean", "low", "high")]
    + [(f"difference_{name}", pa.float64()) for name in ("mean", "low", "high")]
    + [("test", pa.string()), ("p", pa.float64()), ("adjusted", pa.float64())]
    + [("tested", pa.int64()), ("left_out", pa.int64())]
)


def legend(rows: Sequence[Compared]) -> list[str]:
    """What the numbers of a comparison are."""
    tests = sum(row.difference is not None and row.difference.p is not None for row in rows)
    return [
        "Each mean is over a run's own tracks; in brackets, its 95 % interval (bootstrap over the tracks).",
        "A difference is to the first run. *In pairs*: over the tracks that both runs have, with the "
        "same vocal, by permuting the two runs of a track, with a bootstrap interval. *Independent*: there "
        "are no two such tracks; by permuting all values, with Welch's interval.",
        f"{MARK}: p after Benjamini and Hochberg, over the {tests} differences tested, is below "
        f"{SIGNIFICANT:g}. Of what is marked, about one in twenty is expected to be chance. What is not "
        "marked may be noise.",
    ]


def table_rows(rows: Sequence[Compared]) -> list[dict[str, str]]:
    """A row for each score, system and run, as words."""
    return [_words(row) for row in rows]


def write_comparison(
    runs: Sequence[Run], rows: Sequence[Compared], notes: Sequence[str], folder: Path
) -> list[Path]:
    """Write `compare.html`, `compare.md` and `compare.parquet` into `folder`, each in one step.

    Returns:
        Their paths.
    """
    text = _markdown(runs, rows, notes)
    paths = [folder / f"compare.{suffix}" for suffix in ("html", "md", "parquet")]
    for path, content in zip(paths, (page(text, folder, TITLE), text), strict=False):
        with replacing(path) as temporary:
            temporary.write_text(content, "utf-8")
    write_rows(paths[-1], [row.row() for row in rows], DIFFERENCES_SCHEMA)
    return paths


def _markdown(runs: Sequence[Run], rows: Sequence[Compared], notes: Sequence[str]) -> str:
    listed = [
        f"**{plain(run.name)}**{' (the first)' if run is runs[0] else ''}: {plain(str(run.folder))}"
        for run in runs
    ]
    sections = [
        section(f"# {TITLE}", bullets(listed)),
        section("## In short", bullets(_in_short(rows))),
        *(_of_system(system, rows) for system in dict.fromkeys(row.system for row in rows)),
        section("## How to read this", bullets(legend(rows))),
        section("## What differs beside the scores", bullets(plain(note) for note in notes)) if notes else "",
    ]
    return section(*sections) + "\n"


def _in_short(rows: Sequence[Compared]) -> list[str]:
    """The differences that are more than noise, and how many are not shown to be."""
    marked = [row for row in rows if row.difference and row.difference.significant]
    tested = [row for row in rows if row.difference and row.difference.p is not None]
    lines = [
        f"**{plain(row.system)}**, {plain(find_score(row.score).title)}: {_gain(row)} in {plain(row.run)}"
        for row in marked
    ]
    return [*lines, f"{len(tested) - len(marked)} of {len(tested)} differences tested may be noise."]


def _gain(row: Compared) -> str:
    return number(
        row.difference.interval.mean if row.difference else None, find_score(row.score).digits, sign="+"
    )


def _of_system(system: str, rows: Sequence[Compared]) -> str:
    """Its table, with the score named on the first row of its runs."""
    lines, before = [], ""
    for row in rows:
        if row.system == system:
            words = _words(row)
            label = plain(find_score(row.score).label) if row.score != before else ""
            lines.append([label, plain(row.run), *(words[name] for name in HEAD[3:])])
            before = row.score
    return section(f"## {plain(system)}", table(["score", *HEAD[2:]], lines, words=2))


HEAD = ("system", "score", "run", "tracks", "mean", "difference", "p", "adjusted", "test")


def _words(row: Compared) -> dict[str, str]:
    digits = find_score(row.score).digits
    within = interval(row.mean.low, row.mean.high, max(1, digits - 1))
    mean = f"{number(row.mean.mean, digits)} {within}".rstrip()
    cells = (
        row.system,
        find_score(row.score).title,
        row.run,
        str(row.mean.n),
        mean,
        *_tested(row.difference, digits),
    )
    return dict(zip(HEAD, cells, strict=True))


def _tested(found: Difference | None, digits: int) -> tuple[str, str, str, str]:
    """Difference, p, adjusted p and test as words."""
    if found is None:
        return NONE, NONE, NONE, NONE
    within = interval(found.interval.low, found.interval.high, digits, sign="+")
    gain = f"{number(found.interval.mean, digits, sign='+')} {within}".rstrip()
    out = f", {found.left_out} left out" if found.left_out else ""
    if found.p is None:
        return gain, NOT_MEASURED, NOT_MEASURED, f"too few tracks{out}"
    adjusted = f"{probability(found.adjusted)}{f' {MARK}' if found.significant else ''}"
    return gain, probability(found.p), adjusted, f"{found.test}, n = {found.n}{out}"
