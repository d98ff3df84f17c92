"""Everything that is measured of a lineup: `scores.parquet`, a row for each number, and `summary.json`."""

import math
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from samuel.artifacts import (
    Artifact,
    digest,
    find_artifact,
    make_artifact,
    sha256,
    write_json,
)
from samuel.config import EvaluationConfig
from samuel.evaluate.apa import Adherence, adherence_of
from samuel.evaluate.audiobox import Aesthetics, aesthetics_of
from samuel.evaluate.cost import stated_efficiency
from samuel.evaluate.distribution import Space
from samuel.evaluate.following import Hearing, Pairing, hear_lineup, left_out, pairings
from samuel.evaluate.statistics import mean_interval
from samuel.evaluate.systems import Lineup, Problem

VERSION = 1
SCORES, SUMMARY = "scores.parquet", "summary.json"
OWN, OTHERS = "own vocal", "other vocals"
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("system", "track", "title", "against", "score")]
    + [("value", pa.float64())]
)
TOO_SHORT = "much shorter than the others: not compared with other songs' vocals"
NO_COST = "no system states what it cost (system.json)"
NO_OTHERS = "a single track has no other song's vocal"
Each = Callable[[Iterable[Any]], Iterable[Any]]


def score_lineup(
    lineup: Lineup,
    config: EvaluationConfig,
    root: Path,
    space: Space,
    efficiency: Mapping[str, Any] | None = None,
    each: Each = iter,
) -> Artifact:
    """Score every system, or find the scores: `scores.parquet` and `summary.json`.

    What cannot be measured is named with its reason, and the rest is.

    Args:
        lineup: What is compared.
        config: Which scorers.
        root: Where entries go.
        space: What is compared in latent space.
        efficiency: What was measured of systems beside what their own `system.json` says.
        each: Wraps the loop over tracks, e.g. in a progress bar.
    """
    stated, problems = _stated(lineup)
    lineup = replace(lineup, problems=(*lineup.problems, *problems))
    identity = _identity(lineup)
    outside = _Outside(
        aesthetics_of(lineup, config, root / "aesthetics", each),
        adherence_of(lineup, identity, config, root / "adherence"),
        {**stated, **(efficiency or {})},
    )
    folder = root / digest("scores", VERSION, identity, space.identity, asdict(outside))

    def make(target: Path) -> dict[str, Any]:
        hearing = hear_lineup(lineup, space.codec, each)
        paired = {name: pairings(hearing.vocals, found) for name, found in hearing.features.items()}
        hearing.problems += _too_short(hearing)
        rows = list(_rows(lineup, hearing, paired, outside.aesthetics))
        measured = _summary(hearing, paired, rows, outside, *space.look(hearing.latents))
        summary = measured | space.described | outside.described() | {"vocals": _vocals(lineup)}
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), target / SCORES)
        write_json(target / SUMMARY, summary)
        return {"tracks": summary["tracks"], "systems": summary["systems"]}

    return find_artifact(folder) or make_artifact(folder, make)


@dataclass(frozen=True)
class _Outside:
    """What is measured by networks of others, and what was measured before."""

    aesthetics: Aesthetics
    adherence: Adherence
    efficiency: dict[str, Any]

    def described(self) -> dict[str, str]:
        """By which weights it was measured."""
        weights = {"audiobox": self.aesthetics.weights, "apa_weights": self.adherence.weights}
        return {name: value for name, value in weights.items() if value}


def _summary(
    hearing: Hearing,
    paired: Mapping[str, Mapping[str, Pairing]],
    rows: Sequence[Mapping[str, Any]],
    outside: _Outside,
    distribution: Mapping[str, Any],
    lacking: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "tracks": len(hearing.vocals),
        "systems": list(paired),
        "scores": _means(rows),
        "following": _following(paired),
        "distribution": distribution,
        "apa": outside.adherence.by_system,
        "efficiency": outside.efficiency,
        "not_measured": _not_measured(outside, hearing) | dict(lacking),
        "problems": [asdict(problem) for problem in hearing.problems],
    }


def _identity(lineup: Lineup) -> list[Any]:
    """What is scored, whatever the files are called: names, titles, bytes, and what is wrong with them."""
    digests = {path: sha256(path) for path in _files(lineup) if path.is_file()}
    tracks = [(track.name, track.title, digests.get(track.vocal)) for track in lineup.tracks]
    systems = [
        (system.name, [(track, digests.get(path)) for track, path in sorted(system.files.items())])
        for system in lineup.systems
    ]
    return [tracks, systems, [asdict(problem) for problem in lineup.problems]]


def _vocals(lineup: Lineup) -> dict[str, str]:
    """Digest of each track's vocal, by which tracks of other runs are known."""
    return {track.name: sha256(track.vocal) for track in lineup.tracks if track.vocal.is_file()}


def _too_short(hearing: Hearing) -> list[Problem]:
    return [
        Problem(system, track, TOO_SHORT)
        for system, found in hearing.features.items()
        for track in left_out(hearing.vocals, found)
    ]


def _files(lineup: Lineup) -> set[Path]:
    made = {path for system in lineup.systems for path in system.files.values()}
    return made | {track.vocal for track in lineup.tracks}


def _stated(lineup: Lineup) -> tuple[dict[str, Any], list[Problem]]:
    """What the systems state of their cost, and what is wrong with it."""
    told = [(system.name, *stated_efficiency(system)) for system in lineup.systems]
    return {name: row for name, row, _ in told if row}, [problem for *_, problem in told if problem]


def _rows(
    lineup: Lineup, hearing: Hearing, paired: Mapping[str, Mapping[str, Pairing]], aesthetics: Aesthetics
) -> Iterator[dict[str, Any]]:
    """A row for each number, in the order of systems and tracks."""
    for system in lineup.systems:
        columns = [
            *_columns(paired[system.name]),
            *_transposed(hearing.scores[system.name]),
            *_transposed(aesthetics.rows.get(system.name, {})),
        ]
        for track in (track for track in lineup.tracks if track.name in hearing.vocals):
            for score, against, values in columns:
                if track.name in values:
                    yield {
                        "system": system.name, "track": track.name, "title": track.title, "against": against,
                        "score": score, "value": _number(values[track.name]),
                    }  # fmt: skip


Column = tuple[str, str | None, Mapping[str, float | None]]
"""Score, against what, and the value of each track."""


def _columns(pairing: Mapping[str, Pairing]) -> Iterator[Column]:
    for score, pairs in pairing.items():
        yield score, OWN, pairs.own
        yield score, OTHERS, pairs.others()


def _transposed(rows: Mapping[str, Mapping[str, float | None]]) -> Iterator[Column]:
    """{track: {score: value}} → a column for each score."""
    for score in dict.fromkeys(score for row in rows.values() for score in row):
        yield score, None, {track: row[score] for track, row in rows.items() if score in row}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and interval by score and system; of scores that follow the vocal, those with their own."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["against"] != OTHERS:
            by_system = values.setdefault(row["score"], {}).setdefault(row["system"], [])
            by_system.append(math.nan if row["value"] is None else row["value"])
    return {
        score: {system: asdict(mean_interval(found)) for system, found in by_system.items()}
        for score, by_system in values.items()
    }


def _following(paired: Mapping[str, Mapping[str, Pairing]]) -> dict[str, dict[str, Any]]:
    summaries: dict[str, dict[str, Any]] = {}
    for system, scores in paired.items():
        for score, pairing in scores.items():
            summaries.setdefault(score, {})[system] = pairing.summary()
    return summaries


def _not_measured(outside: _Outside, hearing: Hearing) -> dict[str, str]:
    reasons = {
        "audiobox": outside.aesthetics.missing,
        "apa": outside.adherence.missing,
        "other vocals": NO_OTHERS if len(hearing.vocals) < 2 else None,
        "efficiency": None if outside.efficiency else NO_COST,
    }
    return {part: reason for part, reason in reasons.items() if reason}


def _number(value: float | None) -> float | None:
    """NaN is not JSON, and means that there was nothing to measure."""
    return None if value is None or math.isnan(value) else float(value)
