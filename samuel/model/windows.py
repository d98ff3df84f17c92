"""Songs of any length by a network of a fixed one: overlapping windows, averaged at every step.

Shapes: B batch, C channels, T frames, F frames of a window.
"""

from math import ceil
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

OVERLAP_DIVISOR = 4
"""Neighbouring windows share at least a quarter of their frames: of 1024, 12 s to pass over."""
AT_A_TIME = {"cpu": 2, "mps": 2}
"""Windows in one call of the network: where they cost memory and gain no time, one with and one without its
vocal."""
AT_A_TIME_ON_GPU = 16


@runtime_checkable
class VocalConditioned(Protocol):
    """A denoiser that can show its null condition: `SamuelUNet`, or `Windowed`."""

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        """Predict v, (B, C, T), of x_t at the timesteps t, (B,)."""
        ...

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        """Replace the vocal of dropped items."""
        ...


def window_starts(length: int, frames: int, overlap: int) -> list[int]:
    """First frames of the windows that cover `length` frames: as few as may be, evenly spaced.

    Windows have `frames` frames, no more than `length`; neighbours share at least `overlap`.
    """
    gaps = ceil((length - frames) / (frames - overlap))
    return [round(i * (length - frames) / gaps) for i in range(gaps + 1)] if gaps else [0]


class Windowed:
    """A denoiser for any length from one for windows (MultiDiffusion, arXiv 2302.08113).

    At every step each window of x_t is denoised with its part of the vocal, and the predictions are averaged
    where windows overlap. So all windows share one noise and one song grows, without seams: a window counts
    less towards its ends, where its neighbour knows more of what is around.

    Differs from MultiDiffusion, which weighs all windows alike: the average would jump where one begins.
    """

    def __init__(
        self, network: VocalConditioned, frames: int, overlap: int | None = None, at_a_time: int = 2
    ) -> None:
        """`frames` of a window, F, are those the network was trained on; a shorter song goes through whole.

        Neighbours share at least `overlap`, by default a quarter of a window; `at_a_time` go through the
        network in one call.
        """
        self.network, self.frames, self.at_a_time = network, frames, at_a_time
        self.overlap = frames // OVERLAP_DIVISOR if overlap is None else overlap

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        """Replace the vocal of dropped items, (B, C, T)."""
        return self.network.condition(vocal, drop_mask)

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        """Predict v, (B, C, T), of x_t at the timesteps t, (B,)."""
        if x_t.shape[-1] <= self.frames:
            return self.network(x_t, t, vocal)
        starts = window_starts(x_t.shape[-1], self.frames, self.overlap)
        # A window rises over the overlap and falls over it at the end; it is never 0.
        place = torch.arange(self.frames, device=x_t.device, dtype=x_t.dtype)
        fade = ((torch.minimum(place, self.frames - 1 - place) + 0.5) / self.overlap).clamp(max=1.0)
        v, weight = torch.zeros_like(x_t), x_t.new_zeros(x_t.shape[-1])
        for start in starts:
            weight[start : start + self.frames] += fade
        # The items of a window lie side by side: with guidance, it is asked with and without its vocal.
        places = [(item, start) for start in starts for item in range(len(x_t))]
        for first in range(0, len(places), self.at_a_time):
            group = places[first : first + self.at_a_time]
            sung = None if vocal is None else self._cut(vocal, group)
            predicted = self.network(self._cut(x_t, group), t[[item for item, _ in group]], sung)
            for (item, start), part in zip(group, predicted, strict=True):
                v[item, :, start : start + self.frames] += fade * part
        return v / weight

    def _cut(self, x: Tensor, places: list[tuple[int, int]]) -> Tensor:
        return torch.stack([x[item, :, start : start + self.frames] for item, start in places])
