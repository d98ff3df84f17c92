"""Every accompaniment against its own vocal and against those of other songs.

Shapes: N tracks of a block; a matrix holds accompaniment × vocal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samuel.evaluate.following import FOLLOWING, Features, cut, follow
from samuel.evaluate.statistics import least_pairing_p, mean_interval, others, pairing_p, usable

BLOCK = 32
"""Tracks that are compared with each other: the work grows with the tracks, not with their square."""
LIKE_LENGTH = 0.8
"""Of the median: what is shorter is not compared with other songs' vocals."""


@dataclass(frozen=True)
class Pairing:
    """One score of one system.

    Attributes:
        own: Score of each track with its own vocal, over all that both have.
        tracks: Names of those that are compared with each other's vocals, block by block.
        blocks: A matrix (N, N) for each block, own pairs on the diagonal, all over one length; NaN where
            nothing can be followed.
    """

    own: dict[str, float]
    tracks: list[list[str]]
    blocks: list[NDArray[np.float64]]

    def others(self) -> dict[str, float]:
        """Mean score of each track with the vocals of the others; NaN where there are none."""
        columns = [others(block) for block in self.blocks]
        return dict(zip(chain(*self.tracks), map(float, chain(*columns)), strict=True))

    def summary(self) -> dict[str, Any]:
        """Means over the tracks that have all scores, their difference, and how often chance does as well."""
        kept = [block[np.ix_(places, places)] for block in self.blocks if len(places := usable(block)) > 1]
        own, other = (np.array([value for block in kept for value in of(block)]) for of in (np.diag, others))
        return {
            "n": len(own),
            "own": float(own.mean()) if kept else None,
            "other": float(other.mean()) if kept else None,
            "difference": vars(mean_interval(own - other)),
            "p": pairing_p(kept),
            "p_least": least_pairing_p([len(block) for block in kept]) if kept else None,
        }


def pairings(vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]) -> dict[str, Pairing]:
    """Every score that follows the vocal, of one system.

    Tracks are compared with each other's vocals over the length of the shortest of them: over lengths of
    their own, a pair that belongs together would be told by its length. So those that are much shorter than
    the others are left out.

    Args:
        vocals: By track.
        accompaniments: By track; those without a vocal are left out.
    """
    own = {name: follow(vocals[name], made) for name, made in accompaniments.items() if name in vocals}
    if not own:
        return {}
    blocks = _like_blocks(vocals, accompaniments)
    matrices = [_matrices(names, vocals, accompaniments) for names in blocks]
    return {
        score: Pairing(
            {name: scores[score] for name, scores in own.items()},
            blocks,
            [found[score] for found in matrices],
        )
        for score in FOLLOWING
    }


def left_out(vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]) -> list[str]:
    """Tracks that are too short to be compared with the others' vocals."""
    compared = set(chain(*_like_blocks(vocals, accompaniments)))
    return [name for name in vocals if name in accompaniments and name not in compared]


def _like_blocks(vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]) -> list[list[str]]:
    """Blocks of the tracks that a system has, without those that are much shorter than the median."""
    named = [[name for name in block if name in accompaniments] for block in blocks_of(list(vocals))]
    return [_alike(names, vocals, accompaniments) for names in named if names]


def _alike(
    names: Sequence[str], vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]
) -> list[str]:
    both_s = {name: min(vocals[name].duration_s, accompaniments[name].duration_s) for name in names}
    least_s = LIKE_LENGTH * median(both_s.values())
    return [name for name in names if both_s[name] >= least_s]


def blocks_of(names: Sequence[str]) -> list[list[str]]:
    """Names in blocks of about one size, none larger than `BLOCK`."""
    if not names:
        return []
    parts = np.array_split(np.arange(len(names)), -(-len(names) // BLOCK))
    return [[names[int(place)] for place in part] for part in parts]


def _matrices(
    names: Sequence[str], vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]
) -> dict[str, NDArray[np.float64]]:
    sides = [[side[name] for name in names] for side in (vocals, accompaniments)]
    until_s = min(found.duration_s for side in sides for found in side)
    frames = min(found.level_db.size for side in sides for found in side)
    sung, made = ([cut(found, frames, until_s) for found in side] for side in sides)
    matrices = {score: np.full((len(names), len(names)), np.nan) for score in FOLLOWING}
    for row, accompaniment in enumerate(made):
        for column, vocal in enumerate(sung):
            for score, value in follow(vocal, accompaniment).items():
                matrices[score][row, column] = value
    return matrices
