"""The accompaniment prompt adherence (APA) of a lineup: one figure for each system, by the true pairs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samuel.config import EvaluationConfig
from samuel.errors import InputError, MissingPartError
from samuel.evaluate.apa import CHECKPOINT, Apa, Pair, load_clap
from samuel.evaluate.listen import load_start
from samuel.evaluate.systems import CEILING, REAL, Lineup
from samuel.files import digest, read_json, sha256, write_json

VERSION = 1
NOT_CHOSEN = "it was not chosen (evaluation.scorers)"
NO_REFERENCE = "there are no true accompaniments to compare with"


@dataclass(frozen=True)
class Adherence:
    """APA by system, by these weights; `missing` is why there is none."""

    by_system: dict[str, float] = field(default_factory=dict)
    missing: str | None = None
    weights: str | None = None


def adherence_of(lineup: Lineup, identity: Any, config: EvaluationConfig, root: Path) -> Adherence:
    """APA of every system but the one that it is measured by, measured or found.

    The true pairs are those as recorded, or through the codec where no recordings are known.

    Args:
        lineup: What is compared.
        identity: What determines the lineup, as JSON.
        config: Whether it is wanted, and where the weights are.
        root: Where it is kept.
    """
    if "apa" not in config.scorers:
        return Adherence(missing=NOT_CHOSEN)
    reference = lineup.system(REAL) or lineup.system(CEILING)
    if reference is None:
        return Adherence(missing=NO_REFERENCE)
    path = config.apa_path
    if path and not path.is_file():
        return Adherence(missing=f"{path}: no such file (evaluation.apa_path)")
    weights = sha256(path) if path else CHECKPOINT
    place = root / f"{digest('apa', VERSION, identity, weights)}.json"
    if place.is_file():
        return Adherence(read_json(place), weights=weights)
    try:
        measure = Apa(load_clap(path), _pairs(lineup, reference.files))
        others = [system for system in lineup.systems if system is not reference]
        found = {system.name: measure.score(_pairs(lineup, system.files)) for system in others}
    except (MissingPartError, InputError) as error:
        return Adherence(missing=str(error))
    write_json(place, found)
    return Adherence(found, weights=weights)


def _pairs(lineup: Lineup, files: Mapping[str, Path]) -> Iterator[Pair]:
    """Vocals with accompaniments, one pair at a time; what cannot be read is named by the other scores."""
    for track in lineup.tracks:
        if track.name in files:
            try:
                pair = load_start(track.vocal)[0], load_start(files[track.name])[0]
            except InputError:
                continue
            yield pair
