"""POPDB → normalised batches.

Which pairs a step sees follows from (seed, step) alone, so a run that was killed goes on with the same
batches and no loader state has to be kept.

Shapes: B batch, C = 64 latent channels, T frames.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from samuel.errors import DatasetError
from samuel.popdb.shards import STREAMS, Popdb


@dataclass(frozen=True)
class Normaliser:
    """Per-channel affine maps of both streams, from the training songs; every tensor is (C, 1) float32."""

    vocal_mean: Tensor
    vocal_std: Tensor
    accompaniment_mean: Tensor
    accompaniment_std: Tensor

    @classmethod
    def of(cls, stats: dict[str, dict[str, list[float]]]) -> "Normaliser":
        """From the content of `stats.json`."""
        columns = {f"{s}_{k}": torch.tensor(stats[s][k])[:, None] for s in STREAMS for k in ("mean", "std")}
        return cls(**columns)

    def to(self, device: torch.device) -> "Normaliser":
        """The same maps on another device."""
        return Normaliser(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def vocal(self, latents: Tensor) -> Tensor:
        """Codec latents (B, C, T) → normalised float32."""
        return (latents.float() - self.vocal_mean) / self.vocal_std

    def accompaniment(self, latents: Tensor) -> Tensor:
        """Codec latents (B, C, T) → normalised float32."""
        return (latents.float() - self.accompaniment_mean) / self.accompaniment_std

    def accompaniment_latents(self, normalised: Tensor) -> Tensor:
        """Normalised (B, C, T) → codec latents; the inverse of `accompaniment`."""
        return normalised * self.accompaniment_std + self.accompaniment_mean


@dataclass(frozen=True)
class Batches:
    """The training pairs as an endless shuffled sequence, cut into batches.

    Every epoch visits each pair once; a batch may straddle two epochs.
    """

    popdb: Popdb
    batch_size: int
    seed: int

    def at(self, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Vocal and accompaniment of step `step` (from 0), normalised float32 (B, C, T) on `device`."""
        vocal, accompaniment = self.popdb.read(self.rows(step))
        normaliser = Normaliser.of(self.popdb.stats).to(device)
        vocal, accompaniment = vocal.to(device), accompaniment.to(device)
        return normaliser.vocal(vocal), normaliser.accompaniment(accompaniment)

    def rows(self, step: int) -> list[dict[str, Any]]:
        """The index rows of step `step`."""
        pairs = training_pairs(self.popdb)
        first = step * self.batch_size
        places = (divmod(place, len(pairs)) for place in range(first, first + self.batch_size))
        return [pairs[_permutation(self.seed, epoch, len(pairs))[i]] for epoch, i in places]


def training_pairs(popdb: Popdb) -> list[dict[str, Any]]:
    """The pairs to train on.

    Raises:
        DatasetError: There are none.
    """
    pairs = popdb.pairs("train")
    if not pairs:
        raise DatasetError(f"{popdb.root}: no training pairs; lower popdb.validation_share or add songs")
    return pairs


def evaluation_pairs(popdb: Popdb) -> list[dict[str, Any]]:
    """The held-out pairs, or the training pairs of a dataset that is too small to hold any out."""
    return popdb.pairs("validation") or training_pairs(popdb)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
