"""Classifier-free guidance, and what keeps it in bounds. Shapes: B batch, C channels, T frames."""

from collections.abc import Callable

import torch
from torch import Tensor

from samuel.config import SamplingConfig
from samuel.model.windows import VocalConditioned

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x_t (B, C, T), t int64 (B,), vocal (B, C, T) or None) -> v (B, C, T)"""
Velocity = Callable[[Tensor, int], Tensor]
"""(x_t (B, C, T), timestep of all items) -> v (B, C, T)"""


def guided(
    model: Denoiser | VocalConditioned, vocal: Tensor, config: SamplingConfig, timesteps: int
) -> Velocity:
    """Predictions pushed away from what the model would write without a vocal (paper §V).

        v = v_null + scale · (v_cond - v_null)

    With scale 1, and outside the interval, the model is asked once, without the null condition. Otherwise the
    two questions go as one batch of two if the model can show its null condition, and as two calls if not.

    Args:
        model: The denoiser.
        vocal: Vocal latents, (B, C, T).
        config: guidance_scale (0 ignores the vocal), guidance_rescale (arXiv 2305.08891, §3.4) and
            guidance_interval (arXiv 2404.07724), in shares of the timesteps.
        timesteps: Of the schedule.
    """
    scale, (low, high) = config.guidance_scale, config.guidance_interval
    both = None
    if isinstance(model, VocalConditioned):
        dropped = torch.ones(len(vocal), dtype=torch.bool, device=vocal.device)
        both = torch.cat((vocal, model.condition(vocal, dropped)))

    def velocity(x: Tensor, timestep: int) -> Tensor:
        t = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
        if scale == 1 or not low <= timestep / (timesteps - 1) <= high:
            return model(x, t, vocal)
        if both is None:
            v_cond, v_null = model(x, t, vocal), model(x, t, None)
        else:
            v_cond, v_null = model(x.repeat(2, 1, 1), t.repeat(2), both).chunk(2)
        v = v_null + scale * (v_cond - v_null)
        return rescaled(v, v_cond, config.guidance_rescale) if config.guidance_rescale else v

    return velocity


def rescaled(v: Tensor, v_cond: Tensor, share: float) -> Tensor:
    """Guided predictions taken back towards the deviation of unguided ones (arXiv 2305.08891, eq. 15, 16).

        v' = φ · v · std(v_cond) / std(v) + (1 - φ) · v

    Args:
        v: Guided, (B, C, T).
        v_cond: Unguided, (B, C, T).
        share: φ, 0 to 1.
    """
    ratio = v_cond.std(dim=(1, 2), keepdim=True) / v.std(dim=(1, 2), keepdim=True)
    return v * (share * ratio + (1 - share))
