"""Mean and standard deviation per latent channel, gathered shard by shard.

Shapes: N pairs, C channels, T frames.
"""

import torch
from torch import Tensor

STILL = 1e-4
"""A channel with less of a deviation never changes."""


class ChannelStatistics:
    """Running sums in float64 over (N, C, T) tensors."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, latents: Tensor) -> None:
        """Count every frame of `latents` (N, C, T)."""
        values = latents.to(torch.float64)
        self._count += values.shape[0] * values.shape[2]
        self._sum = self._sum + values.sum(dim=2).sum(dim=0)
        self._squares = self._squares + values.square().sum(dim=2).sum(dim=0)

    def summary(self) -> dict[str, list[float]]:
        """`{"mean": C numbers, "std": C numbers}`; a channel that never changes gets a deviation of 1.

        Rounded to eight digits, so that the order in which a processor adds does not show.
        """
        mean = self._sum / self._count
        std = (self._squares / self._count - mean.square()).clamp(min=0.0).sqrt()
        std = torch.where(std < STILL, torch.ones_like(std), std)
        return {"mean": _rounded(mean), "std": _rounded(std)}


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.8g}") for value in values.tolist()]
