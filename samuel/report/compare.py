"""Finished evaluations side by side: what differs, by how much, and whether it is more than noise.

Every difference is to the first run, over the tracks that both hold, by name and by the digest of the vocal:
in pairs, which takes away what is common to a track.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from samuel.artifacts import replacing
from samuel.errors import InputError
from samuel.evaluate.scores import find_score, in_order
from samuel.evaluate.statistics import SIGNIFICANT, mean_interval, permutation_p
from samuel.evaluate.summary import OTHERS, SCHEMA, SCORES, SUMMARY, VERSION
from samuel.popdb.tables import MOST_TABLE_BYTES, read_table
from samuel.reading import read_bounded, read_json
from samuel.report.html import NONE, Markdown, interval, number, page, probability, render

DESCRIBING = ("tracks", "codec", "dataset", "model", "audiobox", "apa_weights")  # noted where they differ
COLUMNS = {
    "system": "string", "score": "string", "run": "string",
    "n": "int64", "mean": "float64", "low": "float64", "high": "float64",
    "difference_mean": "float64", "difference_low": "float64", "difference_high": "float64",
    "test": "string", "p": "float64", "adjusted": "float64", "tested": "Int64", "left_out": "Int64",
}  # fmt: skip
MARK, TITLE = "†", "SAMUeL runs compared"


@dataclass(frozen=True)
class Run:
    """A finished evaluation."""

    name: str
    folder: Path
    summary: dict[str, Any]
    values: dict[tuple[str, str], pd.Series]  # by system and score: by track, finite, with own vocals

    @property
    def vocals(self) -> dict[str, str]:
        """Digest of each track's vocal, which tells songs of one name apart; empty where it was not kept."""
        found = self.summary.get("vocals")
        return found if isinstance(found, dict) else {}


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read runs; InputError where one is missing, is given twice, or is damaged or of another version."""
    if len(paths) < 2:
        raise InputError("a comparison takes two runs at least: give the folders of their reports")
    folders = [find_run(path).resolve() for path in paths]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            raise InputError(f"{paths[place]}: the run in {folder} is given twice")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_read(name, folder) for name, folder in zip(names, folders, strict=True)]


def find_run(path: Path) -> Path:
    """The folder of a run: `path`, or the only one in `path/report`."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder of a report, with {SCORES} and {SUMMARY}")
    places = [path, *sorted(path.glob("report/[!.]*"))]
    found = [place for place in places if (place / SCORES).is_file() and (place / SUMMARY).is_file()]
    if not found:
        raise InputError(f"{path}: holds no {SCORES} with {SUMMARY}, nor does a folder of its reports")
    if len(found) > 1 and found[0] != path:
        raise InputError(f"{path}: holds several runs; give one of {', '.join(map(str, found))}")
    return found[0]


def _read(name: str, folder: Path) -> Run:
    path = folder / SUMMARY
    summary = read_json(path)
    version = summary.get("version") if isinstance(summary, dict) else None
    if version != VERSION:
        raise InputError(f"{path}: scores of version {version!r:.40}, not {VERSION}; evaluate again")
    path = folder / SCORES
    try:
        rows = read_table(read_bounded(path, MOST_TABLE_BYTES), SCHEMA).to_pandas()
    except ValueError as error:
        raise InputError(f"{path}: not a table of scores ({error}); evaluate again") from error
    if rows[["system", "track", "score"]].isna().any(axis=None):
        raise InputError(f"{path}: not a table of scores (a name missing); evaluate again")
    own = rows[rows["against"] != OTHERS].replace([np.inf, -np.inf], np.nan)
    own = own.drop_duplicates(["system", "score", "track"], keep="last")
    groups = own.groupby(["system", "score"], sort=False)
    values = {(str(s), str(c)): group.set_index("track")["value"].dropna() for (s, c), group in groups}
    return Run(name, folder, summary, values)


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """Every score of every system that all runs have, by system and score, and in the order of the runs.

    `COLUMNS` are mean and interval of a run; its difference to the first with an interval; `p`, two-sided, by
    permutation; `adjusted`, p after Benjamini and Hochberg over the whole table; `tested` pairs; values
    `left_out` without a partner. InputError without a common score.
    """
    shared = [key for key in runs[0].values if all(key in run.values for run in runs)]
    if not shared:
        systems = [
            f"{r.name} has {', '.join(sorted({name for name, _ in r.values})) or 'none'}" for r in runs
        ]
        raise InputError(f"the runs have no score of a system in common: {'; '.join(systems)}")
    rows = [
        {"system": system, "score": score, "run": run.name}
        | mean_interval(run.values[system, score])
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
    gains = after[both] - before[both]
    numbers = {f"difference_{name}": value for name, value in mean_interval(gains).items() if name != "n"}
    left_out = len(before) + len(after) - 2 * len(both)
    test = {"test": "in pairs", "p": permutation_p(gains), "tested": len(both), "left_out": left_out}
    return numbers | test


def _same_song(first: Run, run: Run, track: str) -> bool:
    """Test that a name means one vocal in both; a name alone, such as `01`, may mean any two songs."""
    vocal = first.vocals.get(track)
    return vocal is not None and vocal == run.vocals.get(track)


def notes(runs: Sequence[Run]) -> list[str]:
    """Remarks beside the numbers: how the runs differ, and what was left out."""
    first, lines = runs[0], []
    for run in runs:
        only_here: dict[str, list[str]] = {}
        for system, score in run.values:
            if not all((system, score) in other.values for other in runs):
                only_here.setdefault(system, []).append(score)
        for system, scores in only_here.items():
            lines.append(f"{system} in {run.name}: {', '.join(scores)} left out, as not in all runs")
    for run in runs[1:]:
        for part in DESCRIBING:
            before, after = first.summary.get(part), run.summary.get(part)
            if before != after:
                lines.append(f"{part} differ: {before!s:.200} in {first.name}, {after!s:.200} in {run.name}")
        tracks = [{str(t) for values in of.values.values() for t in values.index} for of in (first, run)]
        if other := sorted(t for t in tracks[0] & tracks[1] if not _same_song(first, run, t)):
            of_one_name = f"tracks of one name in {first.name} and {run.name}"
            lines.append(
                f"{of_one_name}, not known to have one vocal: {len(other)}, such as {other[0]}; not paired"
            )
    return lines


def legend(rows: pd.DataFrame) -> list[str]:
    """Explanations of the numbers of a comparison."""
    return [
        "Each mean is over a run's own tracks; in brackets, its 95 % interval (bootstrap over the tracks).",
        "A difference is to the first run, in pairs: over the tracks that both runs have, with the same "
        "vocal, by permuting the two runs of a track, with a bootstrap interval.",
        f"{MARK}: p after Benjamini and Hochberg, over the {rows['p'].count()} differences tested, is below "
        f"{SIGNIFICANT:g}. Of what is marked, about one in twenty is expected to be chance. What is not "
        "marked may be noise.",
    ]


def table_rows(rows: pd.DataFrame) -> list[dict[str, str]]:
    """A row for each score, system and run, as words."""
    words = []
    for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
        score = find_score(row["score"])
        within = interval(row["low"], row["high"], max(1, score.digits - 1))
        cells = {
            "system": row["system"], "score": score.title, "run": row["run"], "tracks": str(row["n"]),
            "mean": Markdown(f"{number(row['mean'], score.digits)} {within}".rstrip()),
            "difference": NONE, "p": NONE, "adjusted": NONE, "test": NONE,
        }  # fmt: skip
        if row["tested"] is not None:
            within = interval(row["difference_low"], row["difference_high"], score.digits, "+")
            gain = f"{number(row['difference_mean'], score.digits, '+')} {within}".rstrip()
            mark = f" {MARK}" if row["p"] is not None and row["adjusted"] < SIGNIFICANT else ""
            test = "too few tracks" if row["p"] is None else f"in pairs, n = {row['tested']}"
            left_out = f", {row['left_out']} left out" if row["left_out"] else ""
            cells |= {"difference": Markdown(gain), "p": probability(row["p"]), "test": test + left_out}
            cells["adjusted"] = probability(row["adjusted"]) + mark
        words.append(cells)
    return words


def write_comparison(
    runs: Sequence[Run], rows: pd.DataFrame, notes: Sequence[str], folder: Path
) -> list[Path]:
    """Write `compare.html`, `compare.md` and `compare.parquet` into `folder`, each in one step."""
    tables: dict[str, list[dict[str, str]]] = {}
    for row in table_rows(rows):
        tables.setdefault(row.pop("system"), []).append(row)
    text = render("compare.md.j2", {
        "title": TITLE, "runs": runs, "tested": rows["p"].count(), "tables": tables,
        "marked": rows.loc[rows["adjusted"] < SIGNIFICANT].to_dict("records"),
        "legend": [*map(Markdown, legend(rows))], "notes": notes, "find_score": find_score,
    })  # fmt: skip
    paths = [folder / f"compare.{suffix}" for suffix in ("html", "md", "parquet")]
    for path, content in zip(paths, (page(text, folder, TITLE), text), strict=False):
        with replacing(path) as temporary:
            temporary.write_text(content, "utf-8")
    with replacing(paths[-1]) as temporary:
        rows.to_parquet(temporary, index=False)
    return paths
