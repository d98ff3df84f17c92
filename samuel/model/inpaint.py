"""Parts of an accompaniment that stay as they are while the rest is drawn.

Shapes: B batch, C channels, T frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from samuel.model.diffusion import CosineSchedule
from samuel.model.guidance import Velocity


@dataclass(frozen=True)
class Kept:
    """What stays."""

    x0: Tensor  # normalised latents, (B, C, T); where nothing is kept, anything finite
    mask: Tensor  # bool (T,), True = kept


def keeping(velocity: Velocity, kept: Kept, schedule: CosineSchedule) -> Velocity:
    """The same denoiser, for which the clean latents of what is kept are known.

    It predicts v = (√ᾱ_t · x_t - x0) / √(1 - ᾱ_t) there (eq. 4 solved for v). Any solver then leads those
    frames from their noise to x0 and nowhere else, and the network sees them at the noise level of all
    others. Differs from RePaint (arXiv 2201.09865), which noises them anew at every step: here
    a solver of higher order finds its own history in them.
    """

    def known(x: Tensor, timestep: int) -> Tensor:
        t = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
        signal, noise = schedule.levels(t, x)
        return torch.where(kept.mask, (signal * x - kept.x0) / noise, velocity(x, timestep))

    return known
