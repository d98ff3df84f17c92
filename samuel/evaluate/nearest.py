"""The training pair that each generated accompaniment is most alike to: has the model learned one by heart?

Alike means alike in time: a copy is found wherever it lies and however loud it is. What was transposed,
played faster or only sounds similar is not.

Shapes: N tracks, C channels, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser

# How alike two stretches of latents are at the lag where they are most alike.
#
# Shapes: N tracks, P pairs, C channels, T frames of a track, T' frames of a pair, L lags, F frequencies.
# Lags and frequencies come first in here: sums over channels are then batches of small matrix products.


TRACKS = 32
"""Tracks compared with a batch of pairs at a time, which bounds the memory of their correlations."""
LEAST_SHARE = 0.1
"""Of an item's mean energy: with less in the overlap, what is alike there counts for less."""
LEAST_VARIANCE = 0.01
"""Of the training set's: an overlap that is steadier than this is nearly silent, and counts for less."""


def similarities(tracks: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """How alike each track is to each pair at the lag where they are most alike.

    At a lag they are compared where they overlap, which must be at least half of the shorter one. There the
    mean of each channel is taken away from both, and what remains is correlated over all channels and frames:
    Pearson's correlation, with one scale for all channels. It is 1 for a copy that was shifted, scaled, or
    has a constant added to each channel. What is nearly constant is alike to nothing: in the denominator, the
    energy of either side counts as at least `LEAST_SHARE` of the energy that its whole item has over as many
    frames, and as at least `LEAST_VARIANCE` a value.

    Args:
        tracks: Normalised latents, (N, C, T).
        pairs: Normalised latents, (P, C, T').

    Returns:
        The similarities, float32, and their lags in frames, each (N, P); so much later is the track.

    Raises:
        InputError: Latents are not finite, have different channels, or no two frames.
    """
    return Comparison(tracks, pairs.shape[-1]).similarities(pairs)


class Comparison:
    """Tracks, ready to be compared with batches of pairs.

    Attributes:
        lags: At which they are compared.
        tracks: The tracks; a spectrum of theirs takes half as much memory again.
    """

    def __init__(self, tracks: Tensor, pair_frames: int) -> None:
        from scipy.fft import next_fast_len

        self.lags = _Lags(_frames(tracks, "tracks"), pair_frames)
        self.tracks = _Side(tracks, *self.lags.of_track)
        self._size = next_fast_len(self.lags.distinct, real=True) or self.lags.distinct
        # Later by so much, the first lag comes out at place 0 and the others behind it.
        padded = pad(self.tracks.centred, (0, self._size - tracks.shape[-1]))
        spectra = torch.fft.rfft(padded.roll(-self.lags.first, dims=-1))
        self._spectra = spectra.permute(2, 0, 1).contiguous()  # (F, N, C)

    def nearest(self, pairs: Tensor) -> Tensor:
        """Of each track the most alike of `pairs`: similarity, place and lag, float64 (N, 3)."""
        values, lags = self.similarities(pairs)
        value, place = values.max(dim=1)
        lag = lags.gather(1, place[:, None])[:, 0]
        return torch.stack((value.double(), place.double(), lag.double()), dim=1)

    def similarities(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """What the function of this name gives, for pairs (P, C, T') of the length that was announced."""
        if _frames(pairs, "pairs") != self.lags.pair_frames or pairs.shape[1] != self.tracks.channels:
            raise InputError(
                f"pairs of shape {tuple(pairs.shape)} cannot be compared with tracks of"
                f" {self.tracks.channels} channels: both must come from one codec"
            )
        side = _Side(pairs, *self.lags.of_pair)
        spectra = torch.fft.rfft(side.centred, self._size).permute(2, 1, 0).conj_physical().contiguous()
        starts = range(0, self._spectra.shape[1], TRACKS)
        found = [self._most_alike(slice(start, start + TRACKS), side, spectra) for start in starts]
        values, places = (torch.cat(part) for part in zip(*found, strict=True))
        return values, places + self.lags.first

    def _most_alike(self, group: slice, pairs: "_Side", spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Of a group of n tracks: the greatest similarity over the lags, and the lag's place, each (n, P)."""
        circular = torch.fft.irfft(self._spectra[:, group] @ spectra, self._size, dim=0)  # (size, n, P)
        # Σ(x - x̄)(y - ȳ) = Σxy - Σx Σy / n
        offsets = self.tracks.means[:, group] @ pairs.sums.transpose(1, 2)
        alike = circular[: len(offsets)].sub_(offsets)
        alike.mul_(self.tracks.weights[:, group, None]).mul_(pairs.weights[:, None])
        values, places = alike.max(dim=0)
        return values.clamp(-1.0, 1.0), places


class _Lags:
    """The lags at which tracks and pairs overlap by half of the shorter one.

    At lag l frame t of a track lies beside frame t - l of a pair.
    """

    def __init__(self, track_frames: int, pair_frames: int) -> None:
        least = ceil(min(track_frames, pair_frames) / 2)
        self.pair_frames = pair_frames
        self.first, last = least - pair_frames, track_frames - least
        self.distinct = track_frames + pair_frames - least
        """So many places a circular correlation needs, for none of these lags to meet another one."""
        lags = torch.arange(self.first, last + 1)
        begin, end = lags.clamp(min=0), (lags + pair_frames).clamp(max=track_frames)
        self.of_track, self.of_pair = (begin, end), (begin - lags, end - lags)


class _Side:
    """Items and, for every lag, what of them overlaps: from frame `begin` to before `end`, each (L,).

    Attributes:
        centred: The items without their channels' means, float32 (N, C, T).
        sums: Of each channel over the overlap, float32 (L, N, C).
        means: The same over the number of frames.
        weights: One over the root of the energy that counts, float32 (L, N).
    """

    def __init__(self, items: Tensor, begin: Tensor, end: Tensor) -> None:
        values = items.detach().cpu().float()
        # Sums over a part are differences of sums over the whole: without the means, little is lost in them.
        self.centred = values - values.mean(dim=-1, keepdim=True)
        self.channels = values.shape[1]
        frames = (end - begin)[:, None]
        self.sums = _between(self.centred, begin, end)
        self.means = self.sums / frames[..., None]
        squares = self.centred.square().sum(dim=1).double()
        energy = _between(squares, begin, end) - (self.sums * self.means).sum(dim=-1)
        least = (LEAST_SHARE * squares.mean(dim=-1)).clamp(min=LEAST_VARIANCE * self.channels) * frames
        self.weights = torch.maximum(energy, least).rsqrt().float()


def _between(values: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Sums of (..., T) from `begin` to before `end`: (L, ...)."""
    cumulative = pad(values.cumsum(dim=-1), (1, 0)).movedim(-1, 0).contiguous()
    return cumulative.index_select(0, end) - cumulative.index_select(0, begin)


def _frames(items: Tensor, what: str) -> int:
    if items.ndim != 3 or 0 in items.shape or items.shape[-1] < 2:
        raise InputError(f"{what} of shape {tuple(items.shape)}; they must be (N, C, T), T at least 2")
    if not items.isfinite().all():
        raise InputError(f"{what} hold NaN or infinite numbers")
    return items.shape[-1]


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
    """Compare tracks with the accompaniments of all pairs, by `samuel.evaluate.nearest.similarities`.

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
