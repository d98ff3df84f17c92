"""The training pair that each generated accompaniment is most alike to: has the model learned one by heart?

Alike means alike in time: a copy is found wherever it lies and however loud it is. What was transposed,
played faster or only sounds similar is not.

Shapes: N tracks, C channels, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from samuel.dataset import Normaliser
from samuel.errors import DatasetError
from samuel.evaluate.likeness import Comparison
from samuel.popdb.shards import Popdb

PAIRS = 8
"""Pairs compared at a time: more of them do not fit the caches, fewer cost more in calls than in sums."""
HELD_OUT = 32
"""Held-out songs of the yardstick, unless others are asked for."""

OnPair = Callable[[int, int], object]


@dataclass(frozen=True)
class Nearest:
    """The training pair that a track is most alike to.

    Attributes:
        pair_id: Which pair.
        title: Of its song.
        song_id: Its song.
        similarity: From -1 to 1, which is a copy.
        lag_frames: So many frames later than in the pair it comes in the track.
    """

    pair_id: str
    title: str
    song_id: str
    similarity: float
    lag_frames: int


@dataclass(frozen=True)
class Yardstick:
    """How alike true accompaniments of songs that were held out are to the training pairs.

    Attributes:
        n: How many accompaniments, each of a song of its own; 0 where the dataset holds no songs out.
        median: Of their similarities to their nearest pair; None for none.
        highest: The greatest; None for none.
    """

    n: int
    median: float | None
    highest: float | None


def nearest_pairs(
    tracks: Tensor,
    popdb: Popdb,
    normaliser: Normaliser,
    split: str = "train",
    on_pair: OnPair | None = None,
) -> list[Nearest]:
    """Compare tracks with the accompaniments of all pairs, by `samuel.evaluate.likeness.similarities`.

    The shards are read once, whatever the number of tracks; a track takes half as much memory again as its
    latents.

    Args:
        tracks: Normalised latents, (N, C, T), of any length.
        popdb: The training pairs.
        normaliser: Of the dataset.
        split: Which of its pairs.
        on_pair: Called with (pairs done, pairs in all) after every few pairs.

    Returns:
        The nearest pair of each track; the first one in the index where several are as near.

    Raises:
        InputError: A track is not finite, has other channels or no two frames.
        DatasetError: The split is empty, or its latents are not finite.
    """
    rows = popdb.pairs(split)
    if not rows:
        raise DatasetError(f"{popdb.location}: no {split} pairs to compare with")
    if not len(tracks):
        return []
    comparison = Comparison(tracks, popdb.info["chunk_frames"])
    best = torch.full((len(tracks), 3), -torch.inf, dtype=torch.float64)  # similarity, place, lag
    for start in range(0, len(rows), PAIRS):
        part = rows[start : start + PAIRS]
        found = comparison.nearest(_accompaniments(popdb, part, normaliser))
        best = torch.where(found[:, :1] > best[:, :1], found + torch.tensor([0.0, start, 0.0]), best)
        if on_pair:
            on_pair(start + len(part), len(rows))
    return [_nearest(rows[int(place)], value, int(lag)) for value, place, lag in best.tolist()]


def nearest_held_out(
    popdb: Popdb,
    normaliser: Normaliser,
    frames: int | None = None,
    most: int = HELD_OUT,
    on_pair: OnPair | None = None,
) -> Yardstick:
    """The yardstick for `nearest_pairs`: the same for true accompaniments of songs that were held out.

    They are songs that nobody can have copied into the training pairs, and share with them whatever songs
    share. To save a pass over the shards, put `held_out_tracks` beside the generated tracks instead.

    Args:
        popdb: Held-out and training pairs.
        normaliser: Of the dataset.
        frames: Length of the generated tracks, as a shorter one has more chances to be alike; none: a pair's.
        most: Held-out songs at most.
        on_pair: As for `nearest_pairs`.
    """
    tracks = held_out_tracks(popdb, normaliser, frames, most)
    return (
        yardstick(nearest_pairs(tracks, popdb, normaliser, on_pair=on_pair)) if len(tracks) else yardstick([])
    )


def held_out_tracks(
    popdb: Popdb, normaliser: Normaliser, frames: int | None = None, most: int = HELD_OUT
) -> Tensor:
    """The beginning of one true accompaniment of each of at most `most` held-out songs.

    Songs are taken in the order of the index, which is that of hashed ids.

    Returns:
        Normalised latents, (N, C, `frames` or what a pair has), N = 0 where no song is held out.
    """
    first: dict[str, dict[str, Any]] = {}
    for row in popdb.pairs("validation"):
        first.setdefault(row["song_id"], row)
    return _accompaniments(popdb, list(first.values())[:most], normaliser)[..., :frames]


def yardstick(held_out: Sequence[Nearest]) -> Yardstick:
    """What the nearest pairs of held-out accompaniments come to."""
    found = [nearest.similarity for nearest in held_out]
    return Yardstick(len(found), median(found) if found else None, max(found, default=None))


def suspicious(similarity: float, held_out: Yardstick) -> bool | None:
    """Whether a track may hold what its nearest training pair holds: one should listen to both.

    It may where it is nearer to a copy, 1, than to the most alike held-out song. To be above that song is not
    enough: of tracks that are as new as the held-out songs, the most alike one is so about every second time.

    Returns:
        None where there is no held-out song to compare with.
    """
    return None if held_out.highest is None else similarity > (1 + held_out.highest) / 2


def _accompaniments(popdb: Popdb, rows: Sequence[dict[str, Any]], normaliser: Normaliser) -> Tensor:
    device = normaliser.accompaniment_mean.device
    latents = normaliser.accompaniment(popdb.read(rows)[1].to(device)).cpu()
    for row, finite in zip(rows, latents.isfinite().flatten(1).all(dim=1).tolist(), strict=True):
        if not finite:
            raise DatasetError(f"{popdb.location}: {row['pair_id']}: NaN or infinite; run samuel verify")
    return latents


def _nearest(row: dict[str, Any], similarity: float, lag: int) -> Nearest:
    return Nearest(row["pair_id"], row["title"], row["song_id"], similarity, lag)
