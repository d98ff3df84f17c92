"""A comparison of runs as text, as a page and as a table."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from samuel.files import replacing
from samuel.popdb.tables import write_rows
from samuel.report.compare import SIGNIFICANT, Compared, Difference
from samuel.report.html import page
from samuel.report.markdown import (
    NONE,
    NOT_MEASURED,
    bullets,
    interval,
    number,
    plain,
    probability,
    section,
    table,
)
from samuel.report.runs import Run
from samuel.report.score_names import score_name

MARK = "†"
TITLE = "SAMUeL runs compared"
SCHEMA = pa.schema(
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
    write_rows(paths[-1], [row.row() for row in rows], SCHEMA)
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
        f"**{plain(row.system)}**, {plain(score_name(row.score).name)}: {_gain(row)} in {plain(row.run)}"
        for row in marked
    ]
    return [*lines, f"{len(tested) - len(marked)} of {len(tested)} differences tested may be noise."]


def _gain(row: Compared) -> str:
    return number(
        row.difference.interval.mean if row.difference else None, score_name(row.score).digits, sign="+"
    )


def _of_system(system: str, rows: Sequence[Compared]) -> str:
    """Its table, with the score named on the first row of its runs."""
    lines, before = [], ""
    for row in rows:
        if row.system == system:
            words = _words(row)
            label = plain(score_name(row.score).label) if row.score != before else ""
            lines.append([label, plain(row.run), *(words[name] for name in HEAD[3:])])
            before = row.score
    return section(f"## {plain(system)}", table(["score", *HEAD[2:]], lines, words=2))


HEAD = ("system", "score", "run", "tracks", "mean", "difference", "p", "adjusted", "test")


def _words(row: Compared) -> dict[str, str]:
    digits = score_name(row.score).digits
    within = interval(row.mean.low, row.mean.high, max(1, digits - 1))
    mean = f"{number(row.mean.mean, digits)} {within}".rstrip()
    cells = (
        row.system,
        score_name(row.score).name,
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
