"""How alike two stretches of latents are at the lag where they are most alike.

Shapes: N tracks, P pairs, C channels, T frames of a track, T' frames of a pair, L lags, F frequencies.
Lags and frequencies come first in here: sums over channels are then batches of small matrix products.
"""

from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad

from samuel.errors import InputError

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
