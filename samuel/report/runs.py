"""Finished evaluations as they lie on disk, in the folder of a report or of its scores."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samuel.errors import InputError
from samuel.evaluate.scores import OTHERS, SCHEMA, SCORES, SUMMARY, VERSION
from samuel.files import sha256
from samuel.popdb.tables import read_table

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
