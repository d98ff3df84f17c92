"""The Fréchet distance between sets of latents: how far generated ones are from true ones as a whole.

Shapes: N items, C channels, T frames.
"""

import torch
from torch import Tensor

from samuel.errors import InputError


def frechet_distance(generated: Tensor, true: Tensor) -> float:
    """Squared distance of the Gaussians fitted to both sets (Dowson and Landau, 1982), 0 for equal ones.

        d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)

    What is fitted is every frame together with the next one, 2C numbers: both which sounds there are and how
    they follow each other. No network judges, so what it says is about latents and not about listening.

    Args:
        generated: Normalised latents, (N, C, T), T at least 2.
        true: Normalised latents, (N', C, T'), T' at least 2.

    Returns:
        d², in the square of the latents' unit.

    Raises:
        InputError: There is no frame that has a next one, or a latent is not finite.
    """
    from torchaudio.functional import frechet_distance as of_gaussians

    distance = of_gaussians(*_gaussian(generated), *_gaussian(true))
    return float(distance.clamp(min=0.0))  # rounding may leave -1e-12 for equal sets


def _gaussian(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (2C,) and covariance (2C, 2C) of frames and their successors, float64 on the CPU."""
    if latents.shape[0] == 0 or latents.shape[-1] < 2:
        raise InputError(f"latents of shape {tuple(latents.shape)} hold no two frames in a row")
    if not latents.isfinite().all():  # which would end the whole process inside LAPACK
        raise InputError("the latents hold NaN or infinite numbers; another model or setting must draw them")
    both = torch.cat((latents[..., :-1], latents[..., 1:]), dim=1).cpu().double()
    points = both.transpose(1, 2).flatten(0, 1)
    return points.mean(dim=0), torch.cov(points.T)
