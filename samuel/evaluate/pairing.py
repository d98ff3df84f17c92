"""Every accompaniment against its own vocal and against those of other songs.

Shapes: N tracks of a block; a matrix holds accompaniment × vocal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samuel.evaluate.following import FOLLOWING, Features, follow
from samuel.evaluate.statistics import mean_interval, others, own_minus_others, pairing_p

BLOCK = 32
"""Tracks that are compared with each other: the work grows with the tracks, not with their square."""


@dataclass(frozen=True)
class Pairing:
    """One score of one system.

    Attributes:
        tracks: Names, block by block.
        blocks: A matrix (N, N) for each block, own pairs on the diagonal; NaN where nothing can be followed.
    """

    tracks: list[list[str]]
    blocks: list[NDArray[np.float64]]

    def own(self) -> dict[str, float]:
        """Score of each track with its own vocal."""
        return self._by_track([np.diag(block) for block in self.blocks])

    def others(self) -> dict[str, float]:
        """Mean score of each track with the vocals of the others; NaN where there are none."""
        return self._by_track([others(block) for block in self.blocks])

    def summary(self) -> dict[str, Any]:
        """Means, their difference with its interval, and how likely chance is to do as well."""
        differences = np.concatenate([own_minus_others(block) for block in self.blocks])
        told = np.isfinite(differences)
        own, other = (np.array(list(scores.values())) for scores in (self.own(), self.others()))
        return {
            "n": int(told.sum()),
            "own": float(own[told].mean()) if told.any() else None,
            "other": float(other[told].mean()) if told.any() else None,
            "difference": vars(mean_interval(differences)),
            "p": pairing_p(self.blocks),
        }

    def _by_track(self, columns: list[NDArray[np.float64]]) -> dict[str, float]:
        return dict(zip(chain(*self.tracks), map(float, np.concatenate(columns)), strict=True))


def pairings(vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]) -> dict[str, Pairing]:
    """Every score that follows the vocal, of one system.

    Args:
        vocals: By track.
        accompaniments: By track; those without a vocal are left out.
    """
    named = [[name for name in block if name in accompaniments] for block in blocks_of(list(vocals))]
    named = [names for names in named if names]
    matrices = [_matrices(names, vocals, accompaniments) for names in named]
    return (
        {score: Pairing(named, [matrix[score] for matrix in matrices]) for score in FOLLOWING}
        if named
        else {}
    )


def blocks_of(names: Sequence[str]) -> list[list[str]]:
    """Names in blocks of about one size, none larger than `BLOCK`."""
    if not names:
        return []
    parts = np.array_split(np.arange(len(names)), -(-len(names) // BLOCK))
    return [[names[int(place)] for place in part] for part in parts]


def _matrices(
    names: Sequence[str], vocals: Mapping[str, Features], accompaniments: Mapping[str, Features]
) -> dict[str, NDArray[np.float64]]:
    matrices = {score: np.full((len(names), len(names)), np.nan) for score in FOLLOWING}
    for row, name in enumerate(names):
        for column, vocal in enumerate(names):
            for score, value in follow(vocals[vocal], accompaniments[name]).items():
                matrices[score][row, column] = value
    return matrices
