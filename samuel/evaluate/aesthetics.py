"""The AudioBox-Aesthetics of a lineup: each file once, its scores kept by the digests of file and weights.

Where the weights cannot be had there are none, and the reason why.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from samuel.audio import Audio
from samuel.config import EvaluationConfig
from samuel.errors import InputError, MissingPartError
from samuel.evaluate import audiobox
from samuel.evaluate.listen import load_start
from samuel.evaluate.systems import Lineup
from samuel.files import digest, read_json, sha256, write_json

VERSION = 1
NOT_CHOSEN = "it was not chosen (samuel evaluate --audiobox, or evaluation.scorers)"
Rows = dict[str, dict[str, dict[str, float | None]]]
"""By system, track and axis."""


@dataclass(frozen=True)
class Aesthetics:
    """What AudioBox-Aesthetics says by these weights; `missing` is why it says nothing."""

    rows: Rows = field(default_factory=dict)
    missing: str | None = None
    weights: str | None = None


def aesthetics_of(
    lineup: Lineup,
    config: EvaluationConfig,
    root: Path,
    each: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Aesthetics:
    """PQ, PC, CE and CU of every file that can be read.

    Args:
        lineup: What is compared.
        config: Whether they are wanted, and where the weights are.
        root: Where the scores of a file are kept.
        each: Wraps the loop over files that are not known yet.
    """
    if "audiobox" not in config.scorers:
        return Aesthetics(missing=NOT_CHOSEN)
    try:
        weights = audiobox.identity(config.audiobox_path)
        kept = _kept(lineup, root, weights)
        fresh = {path: place for path, place in kept.items() if not place.is_file()}
        if fresh:
            _score(fresh, config, each)
    except MissingPartError as error:
        return Aesthetics(missing=str(error))
    return Aesthetics(_rows(lineup, kept), weights=weights)


def _kept(lineup: Lineup, root: Path, weights: str) -> dict[Path, Path]:
    """Where the scores of each file that is there belong."""
    files = {path for system in lineup.systems for path in system.files.values() if path.is_file()}
    return {
        path: root / f"{digest('audiobox', VERSION, sha256(path), weights)}.json" for path in sorted(files)
    }


def _score(
    fresh: Mapping[Path, Path], config: EvaluationConfig, each: Callable[[Iterable[Any]], Iterable[Any]]
) -> None:
    predictor = audiobox.load_audiobox(config.audiobox_path)
    places: list[Path] = []

    def readable() -> Iterator[Audio]:
        for path, place in each(fresh.items()):
            try:
                audio, _ = load_start(path)
            except InputError:  # the report names it where its other scores are missing
                continue
            places.append(place)
            yield audio

    for number, row in enumerate(audiobox.score(predictor, readable())):
        write_json(places[number], {axis: None if isnan(value) else value for axis, value in row.items()})


def _rows(lineup: Lineup, kept: Mapping[Path, Path]) -> Rows:
    return {
        system.name: {
            track: read_json(kept[path])
            for track, path in system.files.items()
            if path in kept and kept[path].is_file()
        }
        for system in lineup.systems
    }
