"""Whether the seed matters: how unlike the takes are that a model gives for one vocal.

Shapes: N tracks, K takes of each with seeds of their own, C channels, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from samuel.errors import InputError

LEAST_VARIANCE = 1e-6
"""Of normalised latents: what varies less is constant, and correlates with nothing."""


@dataclass(frozen=True)
class Diversity:
    """How unlike takes are: 0 for the same but for level, 1 for unrelated ones; None where not measured.

    Attributes:
        takes: How many each track has, K.
        between_takes: Of one vocal with different seeds, the mean over the tracks. None for a single take.
        between_songs: First takes of different vocals, the mean over all pairs of them. None for one track.
            The first figure is to be read against this one: it is as much as takes can differ.
        tracks: `between_takes` of each track; None where at most one take is not constant.
    """

    takes: int
    between_takes: float | None
    between_songs: float | None
    tracks: tuple[float | None, ...]


def diversity(takes: Tensor | Sequence[Tensor]) -> Diversity:
    """One minus the correlation of two takes, frame beside frame over all channels, over pairs of takes.

    The mean of each channel is taken away from each take first: what remains is when and how its sound
    changes, and not that every take is as bright as the other. A take that is constant is left out.

    Args:
        takes: Normalised latents, (N, K, C, T), or a sequence of N tensors (K, C, T), of which the tracks may
            differ in length: different tracks are compared over the shorter one.

    Raises:
        InputError: There is no track, the tracks differ in takes or channels, or a latent is not finite.
    """
    tracks = list(takes)
    _check(tracks)
    within = [_unlikeness(list(track)) for track in tracks]
    measured = [value for value in within if value is not None]
    return Diversity(
        takes=len(tracks[0]),
        between_takes=mean(measured) if measured else None,
        between_songs=_unlikeness([track[0] for track in tracks]),
        tracks=tuple(within),
    )


def _check(tracks: Sequence[Tensor]) -> None:
    if not tracks or any(track.ndim != 3 or 0 in track.shape for track in tracks):
        shapes = [tuple(track.shape) for track in tracks]
        raise InputError(f"tracks of shapes {shapes}; there must be one, and each must be (K, C, T)")
    if len({track.shape[:2] for track in tracks}) > 1:
        raise InputError("tracks must have the same number of takes and channels")
    if not all(bool(track.isfinite().all()) for track in tracks):
        raise InputError("the takes hold NaN or infinite numbers")


def _unlikeness(items: Sequence[Tensor]) -> float | None:
    """Mean of one minus the correlation, over the pairs of items (C, T) that are not constant."""
    values = [
        1 - value
        for later, item in enumerate(items)
        for other in items[:later]
        if (value := _correlation(item, other)) is not None
    ]
    return mean(values) if values else None


def _correlation(first: Tensor, second: Tensor) -> float | None:
    """Of two items (C, T) over the shorter one's frames; None where one of them is constant there."""
    frames = min(first.shape[-1], second.shape[-1])
    a, b = (_centred(item[..., :frames]) for item in (first, second))
    energies = [float(torch.vdot(item, item)) for item in (a, b)]
    if min(energies) <= LEAST_VARIANCE * len(a):
        return None
    return float(torch.vdot(a, b)) / (energies[0] * energies[1]) ** 0.5


def _centred(item: Tensor) -> Tensor:
    """(C · T,), each channel without its mean."""
    values = item.detach().cpu().float()
    return (values - values.mean(dim=-1, keepdim=True)).flatten()
