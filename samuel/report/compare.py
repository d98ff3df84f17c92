"""Finished evaluations side by side: what differs, by how much, and whether it is more than noise.

Every difference is to the first run. Tracks that both runs hold, by name and by the digest of the vocal, are
compared in pairs, which takes away what is common to a track; runs without common tracks are compared as
independent samples.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import stats

from samuel.artifacts import replacing, sha256
from samuel.errors import InputError
from samuel.evaluate.scores import find_score, in_order
from samuel.evaluate.statistics import Interval, mean_interval, paired_p, unpaired_p
from samuel.evaluate.summary import OTHERS, SCHEMA, SCORES, SUMMARY, VERSION
from samuel.report.html import NONE, bullets, interval, number, page, plain, probability, section, table

DEEPEST = 3
MOST_BYTES, MOST_ROWS = 2**26, 10**7
"""Of a summary, and of a table of scores: a thousand systems on a thousand tracks."""
SIGNIFICANT = 0.05
CONFIDENCE = 0.95
LEAST_PAIRS = 2
DESCRIBING = ("tracks", "codec", "dataset", "model", "audiobox", "apa_weights")
"""Parts of a summary in which two runs should not differ unnoticed."""
COLUMNS = {
    "system": "string", "score": "string", "run": "string",
    "n": "int64", "mean": "float64", "low": "float64", "high": "float64",
    "difference_mean": "float64", "difference_low": "float64", "difference_high": "float64",
    "test": "string", "p": "float64", "adjusted": "float64", "tested": "Int64", "left_out": "Int64",
}  # fmt: skip
HEAD = ("system", "score", "run", "tracks", "mean", "difference", "p", "adjusted", "test")
MARK = "†"
TITLE = "SAMUeL runs compared"


@dataclass(frozen=True)
class Run:
    """A finished evaluation.

    Attributes:
        name: In the comparison.
        folder: Where its scores lie.
        summary: `summary.json`.
        values: By system and score, the finite values by track; scores that look at the vocal, with its own.
        titles: By track.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    values: dict[tuple[str, str], pd.Series]
    titles: dict[str, str]

    @property
    def vocals(self) -> dict[str, str]:
        """Digest of each track's vocal, which tells songs of one name apart; empty where it was not kept."""
        found = self.summary.get("vocals")
        return found if isinstance(found, dict) else {}


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read runs that are to be compared.

    Raises:
        InputError: There are not two, one is not there, is given twice, or is damaged or of another version.
    """
    if len(paths) < 2:
        raise InputError("a comparison takes two runs at least: give the folders of their reports")
    folders = [find_run(path) for path in paths]
    for place, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:place]]:
            raise InputError(f"{paths[place]}: the run in {folder} is given twice")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_read(name, folder) for name, folder in zip(names, folders, strict=True)]


def find_run(path: Path) -> Path:
    """The folder of a run: `path`, or the only one below it; a run's report and scores count as one.

    Raises:
        InputError: There is none, or there are several.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder of a report, with {SCORES} and {SUMMARY}")
    depths = range(1, DEEPEST + 1)
    below = (folder for depth in depths for folder in sorted(path.glob("/".join("*" * depth))))
    found: dict[tuple[str, str], Path] = {}
    for folder in chain([path], below):
        in_the_making = any(part.startswith(".") for part in folder.relative_to(path).parts)
        if (folder / SCORES).is_file() and (folder / SUMMARY).is_file() and not in_the_making:
            found.setdefault((sha256(folder / SCORES), sha256(folder / SUMMARY)), folder)
            if folder == path:
                break
    if not found:
        raise InputError(
            f"{path}: holds no {SCORES} with {SUMMARY}, nor does a folder in it; give a report's"
        )
    if len(found) > 1:
        listed = ", ".join(str(folder) for folder in sorted(found.values()))
        raise InputError(f"{path}: holds several runs; give one of {listed}")
    return next(iter(found.values()))


def _read(name: str, folder: Path) -> Run:
    rows = _read_scores(folder / SCORES)
    by_track: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows.to_dict("records"):
        if row["against"] != OTHERS:
            found = by_track.setdefault((row["system"], row["score"]), {})
            found[row["track"]] = row["value"] if np.isfinite(row["value"]) else np.nan
    values = {key: pd.Series(found, dtype="float64").dropna() for key, found in by_track.items()}
    titles = dict(zip(rows["track"], rows["title"].fillna(""), strict=True))
    return Run(name, folder, _read_summary(folder / SUMMARY), values, titles)


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); evaluate again") from error
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise InputError(
            f"{path}: scores of version {version!r:.40}, this reads version {VERSION}; evaluate again"
        )
    return found


def _read_scores(path: Path) -> pd.DataFrame:
    try:
        file = pq.ParquetFile(path)
        fits = file.schema_arrow.equals(SCHEMA) and file.metadata.num_rows <= MOST_ROWS
        rows = file.read(use_threads=False).to_pandas() if fits else None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a table of scores ({error}); evaluate again") from error
    if rows is None:
        raise InputError(f"{path}: not a table of scores (other columns, or too many rows); evaluate again")
    if rows[["system", "track", "score"]].isna().any(axis=None):
        raise InputError(f"{path}: not a table of scores (a row without a name); evaluate again")
    return rows


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """Every score of every system that all runs have, by system and score, and in the order of the runs.

    Args:
        runs: The first is what the others are held to.

    Returns:
        The columns of `COLUMNS`: mean and interval of a run; its difference to the first run with a 95 %
        interval; `test`, which samples were permuted; `p`, two-sided; `adjusted`, p after Benjamini and
        Hochberg over the whole table; `tested` pairs, or values of both runs; `left_out` without a partner.

    Raises:
        InputError: They have no score of a system in common.
    """
    shared = [key for key in runs[0].values if all(key in run.values for run in runs)]
    if not shared:
        systems = {run.name: sorted({system for system, _ in run.values}) for run in runs}
        held = "; ".join(f"{name} has {', '.join(found) or 'none'}" for name, found in systems.items())
        raise InputError(f"the runs have no score of a system in common: {held}")
    rows = [
        {"system": system, "score": score, "run": run.name}
        | asdict(mean_interval(run.values[system, score]))
        | ({} if run is runs[0] else _difference(runs[0], run, (system, score)))
        for system in dict.fromkeys(system for system, _ in shared)
        for score in in_order([score for of, score in shared if of == system])
        for run in runs
    ]
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS)).astype(COLUMNS)
    tested = table["p"].notna().to_numpy()
    if tested.any():
        table.loc[tested, "adjusted"] = stats.false_discovery_control(table.loc[tested, "p"])
    return table


def _difference(first: Run, run: Run, key: tuple[str, str]) -> dict[str, Any]:
    before, after = first.values[key], run.values[key]
    both = [track for track in map(str, before.index) if track in after and _same_song(first, run, track)]
    if len(both) >= LEAST_PAIRS:
        gains = after[both] - before[both]
        found, p, test, tested = mean_interval(gains), paired_p(gains), "in pairs", len(both)
        left_out = len(before) + len(after) - 2 * tested
    else:
        found, p = _welch(before.to_numpy(), after.to_numpy()), unpaired_p(before, after)
        test, tested, left_out = "independent", len(before) + len(after), 0
    numbers = {f"difference_{part}": getattr(found, part) for part in ("mean", "low", "high")}
    return numbers | {"test": test, "p": p, "tested": tested, "left_out": left_out}


def _same_song(first: Run, run: Run, track: str) -> bool:
    """Test that a name means one vocal in both; a name alone, such as `01`, may mean any two songs."""
    vocal = first.vocals.get(track)
    return vocal is not None and vocal == run.vocals.get(track)


def _welch(before: NDArray[np.float64], after: NDArray[np.float64]) -> Interval:
    """Difference of the means of independent samples with Welch's interval: their spreads may differ."""
    n = len(before) + len(after)
    if not (len(before) and len(after)):
        return Interval(n, None, None, None)
    mean = float(after.mean() - before.mean())
    if min(len(before), len(after)) < 2 or not (before.var() or after.var()):
        return Interval(n, mean, None, None)
    found = stats.ttest_ind(after, before, equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(n, mean, float(found.low), float(found.high))


def notes(runs: Sequence[Run]) -> list[str]:
    """Remarks beside the numbers: how the runs differ, and what was left out."""
    lines = []
    for run in runs:
        others = [other for other in runs if other is not run]
        only_here: dict[str, list[str]] = {}
        for system, score in run.values:
            if not all((system, score) in other.values for other in others):
                only_here.setdefault(system, []).append(score)
        lacking = ", ".join(other.name for other in others)
        lines += [
            f"{system} in {run.name}: {', '.join(scores)} left out, as not in all of {lacking}"
            for system, scores in only_here.items()
        ]
    return [*lines, *(note for run in runs[1:] for note in _unlike(runs[0], run))]


def _unlike(first: Run, run: Run) -> Iterator[str]:
    for part in DESCRIBING:
        before, after = first.summary.get(part), run.summary.get(part)
        if before != after:
            yield f"{part} differ: {before!s:.200} in {first.name}, {after!s:.200} in {run.name}"
    named = [track for track in first.titles if track in run.titles]
    known = [track for track in named if track in first.vocals and track in run.vocals]
    if other := [track for track in known if not _same_song(first, run, track)]:
        yield (
            f"tracks of one name with another vocal in {first.name} than in {run.name}: {len(other)}, such "
            f"as {other[0]}; they were not paired"
        )
    if unknown := len(named) - len(known):
        yield (
            f"tracks of one name in {first.name} and {run.name} whose vocals were not recorded: {unknown}; "
            "they may be different songs, so they were not paired"
        )
    same = [track for track in known if _same_song(first, run, track)]
    if renamed := [track for track in same if first.titles[track] != run.titles[track]]:
        track = renamed[0]
        yield (
            f"tracks with other titles in {first.name} than in {run.name}: {len(renamed)}, such as {track} "
            f"({first.titles[track]}, {run.titles[track]}); their vocals are the same, so they were paired"
        )


def legend(rows: pd.DataFrame) -> list[str]:
    """Explanations of the numbers of a comparison."""
    return [
        "Each mean is over a run's own tracks; in brackets, its 95 % interval (bootstrap over the tracks).",
        "A difference is to the first run. *In pairs*: over the tracks that both runs have, with the "
        "same vocal, by permuting the two runs of a track, with a bootstrap interval. *Independent*: there "
        "are no two such tracks; by permuting all values, with Welch's interval.",
        f"{MARK}: p after Benjamini and Hochberg, over the {rows['p'].count()} differences tested, is below "
        f"{SIGNIFICANT:g}. Of what is marked, about one in twenty is expected to be chance. What is not "
        "marked may be noise.",
    ]


def table_rows(rows: pd.DataFrame) -> list[dict[str, str]]:
    """A row for each score, system and run, as words."""
    return [_words(row) for row in _records(rows)]


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries; what there is not is None."""
    return rows.astype(object).where(rows.notna(), None).to_dict("records")


def _words(row: dict[str, Any]) -> dict[str, str]:
    digits = find_score(row["score"]).digits
    within = interval(row["low"], row["high"], max(1, digits - 1))
    words = [row["system"], find_score(row["score"]).title, row["run"], str(row["n"])]
    words += [f"{number(row['mean'], digits)} {within}".rstrip(), NONE, NONE, NONE, NONE]
    if row["test"]:
        within = interval(row["difference_low"], row["difference_high"], digits, sign="+")
        gain = f"{number(row['difference_mean'], digits, sign='+')} {within}".rstrip()
        mark = f" {MARK}" if row["p"] is not None and row["adjusted"] < SIGNIFICANT else ""
        test = "too few tracks" if row["p"] is None else f"{row['test']}, n = {row['tested']}"
        left_out = f", {row['left_out']} left out" if row["left_out"] else ""
        words[5:] = [gain, probability(row["p"]), probability(row["adjusted"]) + mark, test + left_out]
    return dict(zip(HEAD, words, strict=True))


def write_comparison(
    runs: Sequence[Run], rows: pd.DataFrame, notes: Sequence[str], folder: Path
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
    with replacing(paths[-1]) as temporary:
        rows.to_parquet(temporary, index=False)
    return paths


def _markdown(runs: Sequence[Run], rows: pd.DataFrame, notes: Sequence[str]) -> str:
    listed = [
        f"**{plain(run.name)}**{' (the first)' if run is runs[0] else ''}: {plain(str(run.folder))}"
        for run in runs
    ]
    gains = [
        f"**{plain(row['system'])}**, {plain(find_score(row['score']).title)}: "
        f"{number(row['difference_mean'], find_score(row['score']).digits, sign='+')} in {plain(row['run'])}"
        for row in _records(rows)
        if row["p"] is not None and row["adjusted"] < SIGNIFICANT
    ]
    tested = rows["p"].count()
    systems: dict[str, list[list[str]]] = {}
    before = ("", "")
    for row, words in zip(_records(rows), table_rows(rows), strict=True):
        label = find_score(row["score"]).label if (row["system"], row["score"]) != before else ""
        before = (row["system"], row["score"])
        cells = [plain(label), plain(row["run"]), *(words[name] for name in HEAD[3:])]
        systems.setdefault(row["system"], []).append(cells)
    return section(
        f"# {TITLE}", bullets(listed), "## In short",
        bullets([*gains, f"{tested - len(gains)} of {tested} differences tested may be noise."]),
        *(
            section(f"## {plain(system)}", table(["score", *HEAD[2:]], lines, words=2))
            for system, lines in systems.items()
        ),
        "## How to read this", bullets(legend(rows)),
        section("## What differs beside the scores", bullets(map(plain, notes))) if notes else "",
    ) + "\n"  # fmt: skip
