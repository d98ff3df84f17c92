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

    Args:
        length: Frames of the song, no fewer than `frames`.
        frames: Of a window.
        overlap: Frames that neighbours share at least.
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
        """Nothing is computed yet.

        Args:
            network: The denoiser for windows.
            frames: Of a window, F: the length the network was trained on; a shorter song goes through whole.
            overlap: Frames that neighbours share at least; None: a quarter of a window.
            at_a_time: Windows in one call of the network.
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
        # The items of a window lie side by side: with guidance, it is asked with and without its vocal.
        places = [(item, start) for start in starts for item in range(len(x_t))]
        v = torch.zeros_like(x_t)
        for first in range(0, len(places), self.at_a_time):
            self._add(v, places[first : first + self.at_a_time], x_t, t, vocal)
        return v / self._weight(starts, x_t)

    def _add(
        self, v: Tensor, places: list[tuple[int, int]], x_t: Tensor, t: Tensor, vocal: Tensor | None
    ) -> None:
        """Add the weighted predictions of some windows to v."""
        predicted = self.network(
            self._cut(x_t, places),
            t[[item for item, _ in places]],
            None if vocal is None else self._cut(vocal, places),
        )
        fade = _fade(self.frames, self.overlap, v)
        for (item, start), part in zip(places, predicted, strict=True):
            v[item, :, start : start + self.frames] += fade * part

    def _cut(self, x: Tensor, places: list[tuple[int, int]]) -> Tensor:
        return torch.stack([x[item, :, start : start + self.frames] for item, start in places])

    def _weight(self, starts: list[int], like: Tensor) -> Tensor:
        """What the fades of all windows add up to at every frame, (T,)."""
        weight, fade = like.new_zeros(like.shape[-1]), _fade(self.frames, self.overlap, like)
        for start in starts:
            weight[start : start + self.frames] += fade
        return weight


def _fade(frames: int, overlap: int, like: Tensor) -> Tensor:
    """Weight of every frame of a window, (F,): rises over the overlap, falls over it at the end; never 0."""
    place = torch.arange(frames, device=like.device, dtype=like.dtype)
    from_the_end = torch.minimum(place, frames - 1 - place)
    return ((from_the_end + 0.5) / overlap).clamp(max=1.0)
