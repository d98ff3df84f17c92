"""Fréchet distances where systems made accompaniments for the very songs that they are held to.

A system is then near to the true ones by the songs alone. So its items of one half of the songs are held to
the true items of the other half, as are the true ones: that is the floor, and both are equally large sets.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

import numpy as np

from samuel.errors import InputError
from samuel.evaluate.frechet import Floor, Gaussian, gaussian_distance

BySong = Mapping[str, Gaussian]


def crossed_distances(
    true: BySong, systems: Mapping[str, BySong], splits: int, seed: int
) -> tuple[dict[str, float], dict[str, Floor]]:
    """Mean distance of each system, and its floor, over random halvings of the songs that it has.

    Args:
        true: The true items of each song.
        systems: The items of each system by song.
        splits: How many halvings.
        seed: Which.

    Raises:
        InputError: There are not two songs.
    """
    if len(true) < 2:
        raise InputError("there are true accompaniments of one song alone: two are needed, one for each side")
    distances: dict[str, float] = {}
    floors: dict[str, Floor] = {}
    for name, items in systems.items():
        songs = sorted(true.keys() & items.keys())
        if len(songs) < 2:
            continue
        halves = list(_halves(songs, splits, seed))
        between = [_distance(items, one, true, other) for one, other in halves]
        chance = [_distance(true, one, true, other) for one, other in halves]
        least = min(sum(items[song].items for song in one) for one, _ in halves)
        distances[name] = mean(between)
        floors[name] = Floor(mean(chance), min(chance), max(chance), splits, least)
    return distances, floors


def _halves(songs: Sequence[str], splits: int, seed: int) -> Iterator[tuple[list[str], list[str]]]:
    generator = np.random.default_rng(seed)
    for _ in range(splits):
        order = [songs[int(place)] for place in generator.permutation(len(songs))]
        yield order[: len(songs) // 2], order[len(songs) // 2 :]


def _distance(made: BySong, one: Sequence[str], true: BySong, other: Sequence[str]) -> float:
    return gaussian_distance(
        Gaussian.sum(made[song] for song in one), Gaussian.sum(true[song] for song in other)
    )
