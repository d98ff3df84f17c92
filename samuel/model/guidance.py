"""Classifier-free guidance, and what keeps it in bounds. Shapes: B batch, C channels, T frames."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from samuel.config import SamplingConfig

Velocity = Callable[[Tensor, int], Tensor]  # (x_t (B, C, T), timestep of all items) → v (B, C, T)


class VocalConditioned(Protocol):
    """A denoiser that can show its null condition: `SamuelUNet`, or `Windowed`."""

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        """Predict v, (B, C, T), of x_t at the timesteps t, (B,)."""
        ...

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        """Replace the vocal of dropped items."""
        ...


def guided(model: VocalConditioned, vocal: Tensor, config: SamplingConfig, timesteps: int) -> Velocity:
    """Predictions pushed away from what the model would write without a vocal (paper §V).

        v = v_null + scale · (v_cond - v_null)

    With scale 1, and outside the interval (arXiv 2404.07724, in shares of the timesteps), the model is asked
    once. Otherwise both questions go as one batch.
    """
    scale, (low, high) = config.guidance_scale, config.guidance_interval
    everything = torch.ones(len(vocal), dtype=torch.bool, device=vocal.device)
    both = vocal if scale == 1 else torch.cat((vocal, model.condition(vocal, everything)))

    def velocity(x: Tensor, timestep: int) -> Tensor:
        t = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
        if scale == 1 or not low <= timestep / (timesteps - 1) <= high:
            return model(x, t, vocal)
        v_cond, v_null = model(x.repeat(2, 1, 1), t.repeat(2), both).chunk(2)
        v, share = v_null + scale * (v_cond - v_null), config.guidance_rescale
        if share:  # back towards the deviation of unguided predictions (arXiv 2305.08891, eq. 15, 16)
            ratio = v_cond.std(dim=(1, 2), keepdim=True) / v.std(dim=(1, 2), keepdim=True)
            v = v * (share * ratio + (1 - share))
        return v

    return velocity
