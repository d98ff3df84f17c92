"""The Fréchet distance between sets of latents: how far generated ones are from true ones as a whole.

What it says depends on how many items there are: two small sets of the same songs' latents are far apart by
chance alone. `floor` and `halves_distance` say how far, with true latents on both sides.

Shapes: N items, C channels, T frames, D = 2C.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from samuel.errors import InputError

AT_A_TIME = 2**15
"""Frames that stand in memory as float64: 32 MiB of 2 × 64 numbers each."""


class Gaussian:
    """Mean and covariance of frames with their successors, from sums: sets can be added piece by piece.

    The sums are taken about 0 in float64, which suits normalised latents.

    Attributes:
        items: Items that were added.
        points: Frames that have a successor.
    """

    def __init__(self, channels: int) -> None:
        self.items, self.points = 0, 0
        self._sum = torch.zeros(2 * channels, dtype=torch.float64)
        self._products = torch.zeros(2 * channels, 2 * channels, dtype=torch.float64)

    @classmethod
    def of(cls, latents: Tensor) -> "Gaussian":
        """That of normalised latents (N, C, T); see `add`."""
        if latents.ndim != 3:
            raise InputError(f"latents of shape {tuple(latents.shape)}; they must be (N, C, T)")
        return cls(latents.shape[1]).add(latents)

    @classmethod
    def sum(cls, parts: Iterable["Gaussian"]) -> "Gaussian":
        """That of several sets together; there must be one."""
        first, *rest = parts
        whole = cls(first.channels)
        for part in (first, *rest):
            whole.items, whole.points = whole.items + part.items, whole.points + part.points
            whole._sum += part._sum
            whole._products += part._products
        return whole

    @property
    def channels(self) -> int:
        """C."""
        return len(self._sum) // 2

    @property
    def mean(self) -> Tensor:
        """(D,), float64 on the CPU."""
        return self._sum / self.points

    @property
    def covariance(self) -> Tensor:
        """(D, D), float64 on the CPU, with one degree of freedom taken off.

        Raises:
            InputError: There are not two points.
        """
        if self.points < 2:
            raise InputError("one frame with its successor has no covariance; add items, or longer ones")
        outer = torch.outer(self._sum, self._sum) / self.points
        return (self._products - outer) / (self.points - 1)

    def add(self, latents: Tensor) -> "Gaussian":
        """Add items, and return this.

        Args:
            latents: Normalised latents, (N, C, T), T at least 2.

        Raises:
            InputError: There is no frame that has a next one, a latent is not finite, or C is another.
        """
        if latents.ndim != 3 or latents.shape[1] != self.channels:
            raise InputError(
                f"latents of shape {tuple(latents.shape)}; {self.channels} channels were expected"
            )
        if latents.shape[0] == 0 or latents.shape[-1] < 2:
            raise InputError(f"latents of shape {tuple(latents.shape)} hold no two frames in a row")
        if not latents.isfinite().all():  # which would end the whole process inside LAPACK
            raise InputError(
                "the latents hold NaN or infinite numbers; another model or setting must draw them"
            )
        for points in _points(latents):
            self._sum += points.sum(dim=0)
            self._products += points.T @ points
        self.items += len(latents)
        self.points += len(latents) * (latents.shape[-1] - 1)
        return self


@dataclass(frozen=True)
class Floor:
    """How far true latents are from true latents of other songs.

    Attributes:
        mean: Of the distances over the splits.
        low: The least of them.
        high: The greatest.
        splits: How many random splits there were.
        items: Items on the smaller side, the least over the splits.
    """

    mean: float
    low: float
    high: float
    splits: int
    items: int


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
    return gaussian_distance(Gaussian.of(generated), Gaussian.of(true))


def gaussian_distance(first: Gaussian, second: Gaussian) -> float:
    """`frechet_distance` of sets that were added up.

    Raises:
        InputError: One holds less than two points, or they differ in channels.
    """
    from torchaudio.functional import frechet_distance as of_gaussians

    if first.channels != second.channels:
        raise InputError(f"latents of {first.channels} and of {second.channels} channels cannot be compared")
    distance = of_gaussians(first.mean, first.covariance, second.mean, second.covariance)
    return float(distance.clamp(min=0.0))  # rounding may leave -1e-12 for equal sets


def halves_distance(true: Tensor, songs: Sequence[str], splits: int, seed: int) -> Floor:
    """Distance between two halves of a true set: the floor of a generated set of half its size.

    All items of a song are in one half. Each half gets as nearly half of the items as the songs allow.

    Args:
        true: Normalised latents, (N, C, T), T at least 2.
        songs: The song of each item.
        splits: How many random halvings.
        seed: Which.

    Raises:
        InputError: There are not two songs, or what `frechet_distance` raises.
    """
    members = _members(true, songs)
    parts = {song: Gaussian.of(true[places]) for song, places in members.items()}
    sides = [_halves(order, members) for order in _orders(members, splits, seed)]
    return _floor((Gaussian.sum(parts[song] for song in side) for side in both) for both in sides)


def floor(true: Tensor, songs: Sequence[str], items: int, splits: int, seed: int) -> Floor:
    """Distance of `items` true items to the items of other songs: the floor of a generated set of that size.

    What a perfect generator would come to, had its items been drawn like these. They come from as many songs
    as there are items, as in an evaluation that generates one item a song, but from no more than half of the
    songs, so that the rest is still a set to be compared with; then the songs take turns. It is slightly too
    high as a floor: the rest is smaller than the whole true set, and holds none of the drawn songs.

    Args:
        true: Normalised latents, (N, C, T), T at least 2.
        songs: The song of each item.
        items: Size of the generated set. Where half of the songs hold fewer, all of theirs are drawn, and
            `Floor.items` says how many.
        splits: How many random draws.
        seed: Which.

    Raises:
        InputError: There are not two songs, `items` is below 1, or what `frechet_distance` raises.
    """
    if items < 1:
        raise InputError(f"items = {items}: a set has at least one")
    members = _members(true, songs)
    parts = {song: Gaussian.of(true[places]) for song, places in members.items()}
    generator = np.random.default_rng(seed + 1)
    sides = []
    for order in _orders(members, splits, seed):
        chosen = order[: min(items, len(order) // 2)]
        drawn = _in_turns([generator.permutation(members[song]) for song in chosen])[:items]
        rest = Gaussian.sum(parts[song] for song in order[len(chosen) :])
        sides.append((Gaussian.of(true[drawn]), rest))
    return _floor(sides)


def _points(latents: Tensor) -> Iterator[Tensor]:
    """Frames beside their successors, float64 (at most about `AT_A_TIME`, 2C)."""
    for part in latents.split(max(1, AT_A_TIME // latents.shape[-1])):
        both = torch.cat((part[..., :-1], part[..., 1:]), dim=1).cpu()
        for points in both.transpose(1, 2).flatten(0, 1).split(AT_A_TIME):
            yield points.double()


def _members(true: Tensor, songs: Sequence[str]) -> dict[str, list[int]]:
    """The places of each song's items, in the order of the songs' names."""
    if len(songs) != len(true):
        raise InputError(f"{len(true)} items, but the songs of {len(songs)} are named")
    members: dict[str, list[int]] = {}
    for place, song in sorted(enumerate(songs), key=lambda found: (found[1], found[0])):
        members.setdefault(song, []).append(place)
    if len(members) < 2:
        raise InputError(
            f"the true set has items of {len(members)} songs: a floor needs two, which the split keeps apart"
        )
    return members


def _orders(members: dict[str, list[int]], splits: int, seed: int) -> Iterator[list[str]]:
    if splits < 1:
        raise InputError(f"splits = {splits}: there must be one")
    names, generator = list(members), np.random.default_rng(seed)
    for _ in range(splits):
        yield [names[place] for place in generator.permutation(len(names))]


def _halves(order: list[str], members: dict[str, list[int]]) -> tuple[list[str], list[str]]:
    """Song after song to the side that has fewer items."""
    sides: tuple[list[str], list[str]] = ([], [])
    items = [0, 0]
    for song in order:
        smaller = int(items[1] < items[0])
        sides[smaller].append(song)
        items[smaller] += len(members[song])
    return sides


def _in_turns(lists: Sequence[np.ndarray]) -> list[int]:
    rounds = zip_longest(*(places.tolist() for places in lists))
    return [place for round_ in rounds for place in round_ if place is not None]


def _floor(sides: Iterable[Iterable[Gaussian]]) -> Floor:
    pairs = [(first, second) for first, second in sides]
    distances = [gaussian_distance(first, second) for first, second in pairs]
    items = min(min(first.items, second.items) for first, second in pairs)
    return Floor(mean(distances), min(distances), max(distances), len(pairs), items)
