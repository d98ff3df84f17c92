"""How alike latents are: has the model learned a training pair by heart, and does the seed matter?

Alike means alike in time. A copy of a training pair is found wherever it lies and however loud it is; what
was transposed, played faster or only sounds similar is not.

Shapes: N tracks, K takes of each, P pairs, C channels, T frames of a track, T' frames of a pair, L lags, F
frequencies. Lags and frequencies come first where channels are summed: in batches of small matrix products.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import ceil
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from samuel.errors import DatasetError, InputError
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser

TRACKS = 32  # compared with a batch of pairs at a time, which bounds the memory of their correlations
PAIRS = 8  # compared at a time: more do not fit the caches, fewer cost more in calls than in sums
HELD_OUT = 32  # held-out songs of the yardstick
LEAST_SHARE = 0.1  # of an item's mean energy: with less in the overlap, what is alike there counts for less
LEAST_VARIANCE = 0.01  # of the training set's: an overlap that is steadier is nearly silent, and counts less
CONSTANT = 1e-6  # of normalised latents: a take that varies less correlates with nothing


class Comparison:
    """Tracks, ready to be compared with batches of pairs.

    At a lag they are compared where they overlap, which must be at least half of the shorter one. There the
    mean of each channel is taken away from both, and what remains is correlated over all channels and frames:
    Pearson's correlation, with one scale for all channels. It is 1 for a copy that was shifted, scaled, or
    has a constant added to each channel. What is nearly constant is alike to nothing: in the denominator, the
    energy of either side counts as at least `LEAST_SHARE` of the energy that its whole item has over as many
    frames, and as at least `LEAST_VARIANCE` a value.
    """

    def __init__(self, tracks: Tensor, pair_frames: int) -> None:
        """Take the spectra of normalised tracks (N, C, T), half as much memory again."""
        from scipy.fft import next_fast_len

        track_frames, self._pair_frames = _frames(tracks, "tracks"), pair_frames
        least = ceil(min(track_frames, pair_frames) / 2)
        # At lag l frame t of a track lies beside frame t - l of a pair.
        self._first = least - pair_frames
        lags = torch.arange(self._first, track_frames - least + 1)
        begin, end = lags.clamp(min=0), (lags + pair_frames).clamp(max=track_frames)
        self._tracks, self._of_pair = _Side(tracks, begin, end), (begin - lags, end - lags)
        # So many places a circular correlation needs, for none of these lags to meet another one.
        distinct = track_frames + pair_frames - least
        self._size = next_fast_len(distinct, real=True) or distinct
        # Later by so much, the first lag comes out at place 0 and the others behind it.
        padded = pad(self._tracks.centred, (0, self._size - track_frames))
        spectra = torch.fft.rfft(padded.roll(-self._first, dims=-1))
        self._spectra = spectra.permute(2, 0, 1).contiguous()  # (F, N, C)

    def similarities(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """How alike each track is to each pair (P, C, T') at the lag where they are most alike, (N, P).

        And that lag in frames: so much later is the track. InputError for latents of another kind.
        """
        if _frames(pairs, "pairs") != self._pair_frames or pairs.shape[1] != self._tracks.channels:
            wanted = f"tracks of {self._tracks.channels} channels: both must come from one codec"
            raise InputError(f"pairs of shape {tuple(pairs.shape)} cannot be compared with {wanted}")
        side = _Side(pairs, *self._of_pair)
        spectra = torch.fft.rfft(side.centred, self._size).permute(2, 1, 0).conj_physical().contiguous()
        found = []
        for start in range(0, self._spectra.shape[1], TRACKS):
            group = slice(start, start + TRACKS)
            circular = torch.fft.irfft(self._spectra[:, group] @ spectra, self._size, dim=0)  # (size, n, P)
            # Σ(x - x̄)(y - ȳ) = Σxy - Σx Σy / n
            offsets = self._tracks.means[:, group] @ side.sums.transpose(1, 2)
            alike = circular[: len(offsets)].sub_(offsets)
            alike.mul_(self._tracks.weights[:, group, None]).mul_(side.weights[:, None])
            found.append(alike.max(dim=0))
        values, places = (torch.cat(part) for part in zip(*found, strict=True))
        return values.clamp(-1.0, 1.0), places + self._first


class _Side:
    """Items and, for every lag, what of them overlaps: from frame `begin` to before `end`, each (L,)."""

    def __init__(self, items: Tensor, begin: Tensor, end: Tensor) -> None:
        values = items.detach().cpu().float()
        # Sums over a part are differences of sums over the whole: without the means, little is lost in them.
        self.centred = values - values.mean(dim=-1, keepdim=True)  # (N, C, T)
        self.channels = values.shape[1]
        frames = (end - begin)[:, None]
        self.sums = _between(self.centred, begin, end)  # of each channel over the overlap, (L, N, C)
        self.means = self.sums / frames[..., None]
        squares = self.centred.square().sum(dim=1).double()
        energy = _between(squares, begin, end) - (self.sums * self.means).sum(dim=-1)
        least = (LEAST_SHARE * squares.mean(dim=-1)).clamp(min=LEAST_VARIANCE * self.channels) * frames
        self.weights = torch.maximum(energy, least).rsqrt().float()  # by the energy that counts, (L, N)


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


class Nearest(NamedTuple):
    """The training pair that a track is most alike to."""

    pair_id: str
    title: str  # of its song
    similarity: float  # from -1 to 1, which is a copy
    lag_frames: int  # so much later than in the pair it comes in the track


def suspicious(similarity: float, highest: float | None) -> bool | None:
    """True where a track may hold what its nearest training pair holds; None without a held-out song.

    It may where it is nearer to a copy, 1, than to the held-out song that is most alike to a training pair.
    To be above that song is not enough: of tracks that are as new as the held-out songs, the most alike one
    is so about every second time.
    """
    return None if highest is None else similarity > (1 + highest) / 2


def find_copies(latents: Mapping[tuple[str, str], Tensor], popdb: Popdb) -> dict[str, Any]:
    """`nearest` of the summary, by codec latents (C, T) by system and track, but for those below half a pair.

    `nearest_held_out` is the yardstick: similarities of true accompaniments of held-out songs, which nobody
    can have copied into the training pairs, and which share with them whatever songs share.
    """
    frames, normaliser = popdb.info["chunk_frames"], Normaliser.of(popdb.stats)
    owners, windows = [], []
    for owner, part in latents.items():
        found = cut_windows(normaliser.accompaniment(part[None])[0], frames)
        owners += [owner] * len(found)
        windows += found
    if not windows:
        raise InputError(f"every track is shorter than half a pair of the training set, {frames} frames")
    first: dict[str, dict[str, Any]] = {}  # row of each held-out song, in the order of hashed ids
    for row in popdb.pairs("validation"):
        first.setdefault(row["song_id"], row)
    held_out = _accompaniments(popdb, list(first.values())[:HELD_OUT], normaliser)[..., :frames]
    nearest = nearest_pairs(torch.cat((torch.stack(windows), held_out)), popdb, normaliser)
    usual = [near.similarity for near in nearest[len(windows) :]]
    highest = max(usual, default=None)
    best: dict[tuple[str, str], Nearest] = {}
    for owner, near in zip(owners, nearest, strict=False):
        if owner not in best or near.similarity > best[owner].similarity:
            best[owner] = near
    rows = [
        {
            "system": system, "track": track, "pair_id": near.pair_id, "title": near.title,
            "similarity": near.similarity, "lag_s": popdb.codec.duration_s(near.lag_frames),
            "suspicious": suspicious(near.similarity, highest),
        }
        for (system, track), near in best.items()
    ]  # fmt: skip
    yardstick = {"n": len(usual), "median": median(usual) if usual else None, "highest": highest}
    return {"nearest": rows, "nearest_held_out": yardstick}


def cut_windows(latents: Tensor, frames: int) -> list[Tensor]:
    """Cut (C, T) into windows (C, frames), the last one at its end; half of one is filled with zeros."""
    length = latents.shape[1]
    if length < frames:
        return [pad(latents, (0, frames - length))] if 2 * length >= frames else []
    starts = dict.fromkeys([*range(0, length - frames, frames), length - frames])
    return [latents[:, start : start + frames] for start in starts]


def nearest_pairs(tracks: Tensor, popdb: Popdb, normaliser: Normaliser) -> list[Nearest]:
    """The first nearest training pair of each of some normalised tracks (N, C, T); shards are read once.

    InputError for tracks, DatasetError for training pairs that are absent or not finite.
    """
    rows = popdb.pairs("train")
    if not rows:
        raise DatasetError(f"{popdb.location}: no training pairs to compare with")
    if not len(tracks):
        return []
    comparison = Comparison(tracks, popdb.info["chunk_frames"])
    best = torch.full((len(tracks), 3), -torch.inf, dtype=torch.float64)  # similarity, place, lag
    for start in range(0, len(rows), PAIRS):
        part = _accompaniments(popdb, rows[start : start + PAIRS], normaliser)
        values, lags = comparison.similarities(part)
        value, place = values.max(dim=1)
        lag = lags.gather(1, place[:, None])[:, 0]
        found = torch.stack((value.double(), place.double() + start, lag.double()), dim=1)
        best = torch.where(found[:, :1] > best[:, :1], found, best)
    nearest = [(rows[int(place)], value, int(lag)) for value, place, lag in best.tolist()]
    return [Nearest(row["pair_id"], row["title"], value, lag) for row, value, lag in nearest]


def _accompaniments(popdb: Popdb, rows: Sequence[dict[str, Any]], normaliser: Normaliser) -> Tensor:
    device = normaliser.accompaniment_mean.device
    latents = normaliser.accompaniment(popdb.read(rows)[1].to(device)).cpu()
    for row, finite in zip(rows, latents.isfinite().flatten(1).all(dim=1).tolist(), strict=True):
        if not finite:
            raise DatasetError(f"{popdb.location}: {row['pair_id']}: NaN or infinite; run samuel verify")
    return latents


def diversity(tracks: Tensor | Sequence[Tensor]) -> dict[str, Any]:
    """Unlikeness of takes (K, C, T), by track: 0 for the same but for level, 1 for unrelated ones.

    One minus the correlation of two takes, frame beside frame over all channels, over pairs of takes. The
    mean of each channel is taken away first: what remains is when and how its sound changes, and not that
    every take is as bright as the other. Constant takes are left out. `between_takes` is of one vocal with
    different seeds; `between_songs`, of first takes of different vocals, is as much as takes can differ.
    """
    shapes = [tuple(track.shape) for track in tracks]
    if not shapes or any(len(shape) != 3 or 0 in shape for shape in shapes):
        raise InputError(f"takes of shapes {shapes}; there must be one, and each must be (K, C, T)")
    if not all(track.isfinite().all() for track in tracks):
        raise InputError("the takes hold NaN or infinite numbers")
    unlike = [_unlikeness(track) for track in tracks]
    measured = [value for value in unlike if value is not None]
    return {
        "takes": len(tracks[0]),
        "between_takes": mean(measured) if measured else None,
        "between_songs": _unlikeness(torch.stack([track[0] for track in tracks])),
        "tracks": unlike,
    }


def _unlikeness(items: Tensor) -> float | None:
    """Mean of one minus the correlation, over the pairs of items (n, C, T) that are not constant."""
    values = items.detach().cpu().float()
    centred = (values - values.mean(dim=-1, keepdim=True)).flatten(1)
    energies = [(item, float(torch.vdot(item, item))) for item in centred]
    varied = [found for found in energies if found[1] > CONSTANT * centred.shape[1]]
    pairs = combinations(varied, 2)
    unlike = [
        1 - float(torch.vdot(one, two)) / (energy * other) ** 0.5 for (one, energy), (two, other) in pairs
    ]
    return mean(unlike) if unlike else None
