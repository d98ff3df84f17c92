"""What is compared in latent space: how far latents are from true ones, and how alike they are.

The Fréchet distance depends on how many items there are: two small sets of the same songs' latents are far
apart by chance alone. So it is given beside its floor, with true latents on both sides. A copy of a training
pair is found wherever it lies and however loud it is; what was transposed or played faster is not.

Shapes: N items or tracks, K takes of each, P pairs, C channels, T frames, T' of a pair, D = 2C, L lags, F
frequencies; all that is compared is normalised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from samuel.artifacts import Artifact, digest
from samuel.codecs.base import Codec, CodecInfo, same_codec
from samuel.errors import DatasetError, InputError
from samuel.evaluate.systems import CEILING, OURS, REAL
from samuel.evaluate.tracks import latents_of
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser

VERSION = 2
SPLITS, SEED = 10, 0  # of the songs, for the Fréchet distance
TRACKS = 32  # compared with a batch of pairs at a time, which bounds the memory of their correlations
PAIRS = 8  # compared at a time: more do not fit the caches, fewer cost more in calls than in sums
HELD_OUT = 32  # held-out songs of the yardstick
LEAST_SHARE = 0.1  # of an item's mean energy: with less in the overlap, what is alike there counts for less
LEAST_VARIANCE = 0.01  # of the training set's: an overlap that is steadier is nearly silent, and counts less
CONSTANT = 1e-6  # of normalised latents: a take that varies less correlates with nothing
LEAST_DEVIATION = 1e-3
DESIGN = (
    "Every system was given the same songs, so its items of one half of them are held to the true items of "
    "the other half, in the mean over random halvings; the floor is the same with true items on both sides."
)

Latents = Mapping[str, Mapping[str, Tensor]]  # codec latents (C, T) by system and track


def moments(latents: Tensor) -> Tensor:
    """Sums that hold count, mean and covariance of frames with their successors; those of sets can be added.

    Normalised latents (N, C, T), T at least 2, → the sum over all such points x of (x, 1) (x, 1)ᵀ, float64
    (D + 1, D + 1). InputError for other shapes, NaN and infinite numbers.
    """
    if latents.ndim != 3 or 0 in latents.shape or latents.shape[-1] < 2:
        raise InputError(f"latents of shape {tuple(latents.shape)}; they must be (N, C, T), T at least 2")
    if not latents.isfinite().all():  # which would end the whole process inside LAPACK
        raise InputError("the latents hold NaN or infinite numbers; another model or setting must draw them")
    total = torch.zeros(2 * latents.shape[1] + 1, 2 * latents.shape[1] + 1, dtype=torch.float64)
    for item in latents.cpu():
        exact = item.double()
        points = torch.cat((exact[:, :-1], exact[:, 1:], torch.ones_like(exact[:1, 1:])))
        total += points @ points.T
    return total


def frechet_distance(generated: Tensor, true: Tensor) -> float:
    """Squared distance of the Gaussians fitted to both sets (Dowson and Landau, 1982), 0 for equal ones.

        d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)

    Fitted is every frame of normalised latents (N, C, T) and (N', C, T') together with the next one, 2C
    numbers: which sounds there are and how they follow each other. InputError where they cannot be compared.
    """
    return moments_distance(moments(generated), moments(true))


def moments_distance(first: Tensor, second: Tensor) -> float:
    """`frechet_distance` of sets by their `moments`."""
    from torchaudio.functional import frechet_distance as of_gaussians

    if first.shape != second.shape:
        channels = " and of ".join(str(len(side) // 2) for side in (first, second))
        raise InputError(f"latents of {channels} channels cannot be compared")
    gaussians = []
    for sums in (first, second):
        points, total = sums[-1, -1], sums[-1, :-1]
        if points < 2:
            raise InputError("one frame with its successor has no covariance; add items, or longer ones")
        covariance = (sums[:-1, :-1] - torch.outer(total, total) / points) / (points - 1)
        gaussians += [total / points, covariance]
    return float(of_gaussians(*gaussians).clamp(min=0.0))  # rounding may leave -1e-12 for equal sets


def crossed_distances(
    true: Mapping[str, Tensor], systems: Mapping[str, Mapping[str, Tensor]], splits: int, seed: int
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Mean distance of each system, and its floor, over random halvings of its songs, by `moments`.

    A system's items of one half of the songs are held to the true items of the other half: those of the same
    songs would be near by the songs alone. As are the true ones: that is the floor, of equally large sets.
    """
    if len(true) < 2:
        raise InputError("there are true accompaniments of one song alone: two are needed, one for each side")
    distances: dict[str, float] = {}
    floors: dict[str, dict[str, Any]] = {}
    for name, items in systems.items():
        songs, generator = sorted(true.keys() & items.keys()), np.random.default_rng(seed)
        if (half := len(songs) // 2) == 0:
            continue
        found = []
        for _ in range(splits):
            order = [songs[place] for place in generator.permutation(len(songs))]
            others = torch.stack([true[song] for song in order[half:]]).sum(dim=0)
            sides = [torch.stack([of[song] for song in order[:half]]).sum(dim=0) for of in (items, true)]
            found.append([moments_distance(side, others) for side in sides])
        made, by_chance = zip(*found, strict=True)
        bounds = {"mean": mean(by_chance), "low": min(by_chance), "high": max(by_chance)}
        distances[name], floors[name] = mean(made), bounds | {"splits": splits, "items": half}
    return distances, floors


class Comparison:
    """Tracks, ready to be compared with batches of pairs.

    At a lag they are compared where they overlap, at least half of the shorter one: by Pearson's correlation
    over all channels and frames, the mean of each channel taken away. It is 1 for a copy that was shifted or
    scaled. What is nearly constant is alike to nothing: the energy of either side counts as at least
    `LEAST_SHARE` of what its whole item has over as many frames, and `LEAST_VARIANCE` a value.
    """

    def __init__(self, tracks: Tensor, pair_frames: int) -> None:
        """Take the spectra of normalised tracks (N, C, T), half as much memory again."""
        from scipy.fft import next_fast_len

        track_frames = _frames(tracks, "tracks")
        self._kind = (tracks.shape[1], pair_frames)
        least = ceil(min(track_frames, pair_frames) / 2)
        # At lag l frame t of a track lies beside frame t - l of a pair.
        self._first = least - pair_frames
        lags = torch.arange(self._first, track_frames - least + 1)
        begin, end = lags.clamp(min=0), (lags + pair_frames).clamp(max=track_frames)
        centred, sums, self._weights = _overlaps(tracks, begin, end)
        self._means, self._of_pair = sums / (end - begin)[:, None, None], (begin - lags, end - lags)
        # So many places a circular correlation needs, for none of these lags to meet another one.
        distinct = track_frames + pair_frames - least
        self._size = next_fast_len(distinct, real=True) or distinct
        # Later by so much, the first lag comes out at place 0 and the others behind it.
        padded = pad(centred, (0, self._size - track_frames)).roll(-self._first, dims=-1)
        self._spectra = torch.fft.rfft(padded).permute(2, 0, 1).contiguous()  # (F, N, C)

    def similarities(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """How alike each track is to each pair (P, C, T') at the lag where they are most alike, (N, P).

        And that lag in frames: so much later is the track. InputError for latents of another kind.
        """
        if (pairs.shape[1], _frames(pairs, "pairs")) != self._kind:
            wanted = "tracks of {} channels and pairs of {} frames".format(*self._kind)
            raise InputError(f"pairs of shape {tuple(pairs.shape)} cannot be compared with {wanted}")
        centred, sums, weights = _overlaps(pairs, *self._of_pair)
        spectra = torch.fft.rfft(centred, self._size).permute(2, 1, 0).conj_physical().contiguous()
        found = []
        for start in range(0, self._spectra.shape[1], TRACKS):
            group = slice(start, start + TRACKS)
            circular = torch.fft.irfft(self._spectra[:, group] @ spectra, self._size, dim=0)  # (size, n, P)
            # Σ(x - x̄)(y - ȳ) = Σxy - Σx Σy / n
            offsets = self._means[:, group] @ sums.transpose(1, 2)
            alike = circular[: len(offsets)].sub_(offsets)
            alike.mul_(self._weights[:, group, None]).mul_(weights[:, None])
            found.append(alike.max(dim=0))
        values, places = (torch.cat(part) for part in zip(*found, strict=True))
        return values.clamp(-1.0, 1.0), places + self._first


def _overlaps(items: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of items (N, C, T) and what overlaps at each lag, from frame `begin` to before `end`, each (L,).

    They less their means; sums over the overlap (L, N, C); 1 / √(the energy that counts), (L, N).
    """

    def between(values: Tensor) -> Tensor:  # (..., T) → (L, ...)
        cumulative = pad(values.cumsum(dim=-1), (1, 0)).movedim(-1, 0).contiguous()
        return cumulative.index_select(0, end) - cumulative.index_select(0, begin)

    values = items.detach().cpu().float()
    # Sums over a part are differences of sums over the whole: without the means, little is lost in them.
    centred = values - values.mean(dim=-1, keepdim=True)
    frames, squares = (end - begin)[:, None], centred.square().sum(dim=1).double()
    sums = between(centred)
    energy = between(squares) - sums.square().sum(dim=-1) / frames
    least = (LEAST_SHARE * squares.mean(dim=-1)).clamp(min=LEAST_VARIANCE * items.shape[1]) * frames
    return centred, sums, torch.maximum(energy, least).rsqrt().float()


def _frames(items: Tensor, what: str) -> int:
    if items.ndim != 3 or 0 in items.shape or items.shape[-1] < 2:
        raise InputError(f"{what} of shape {tuple(items.shape)}; they must be (N, C, T), T at least 2")
    if not items.isfinite().all():
        raise InputError(f"{what} hold NaN or infinite numbers")
    return items.shape[-1]


def find_copies(latents: Mapping[tuple[str, str], Tensor], popdb: Popdb) -> dict[str, Any]:
    """`nearest` of the summary, by codec latents (C, T) by system and track, but for those below half a pair.

    `nearest_held_out` is the yardstick: similarities of true accompaniments of held-out songs, which share
    with the training pairs whatever songs share. A track is suspicious where it is nearer to a copy, 1, than
    to the highest of them: of tracks that are as new, the most alike is above that every second time.
    """
    frames, normaliser = popdb.info["chunk_frames"], Normaliser.of(popdb.stats)
    owners, windows = [], []
    for owner, part in latents.items():
        whole, length = normaliser.accompaniment(part[None])[0], part.shape[1]
        if length < frames:  # half a pair is filled with zeros
            found = [pad(whole, (0, frames - length))] if 2 * length >= frames else []
        else:  # the last one at its end
            starts = dict.fromkeys([*range(0, length - frames, frames), length - frames])
            found = [whole[:, start : start + frames] for start in starts]
        owners += [owner] * len(found)
        windows += found
    if not windows:
        raise InputError(f"every track is shorter than half a pair of the training set, {frames} frames")
    first: dict[str, dict[str, Any]] = {}  # row of each held-out song, in the order of hashed ids
    for row in popdb.pairs("validation"):
        first.setdefault(row["song_id"], row)
    held_out = _accompaniments(popdb, list(first.values())[:HELD_OUT], normaliser)[..., :frames]
    nearest = nearest_pairs(torch.cat((torch.stack(windows), held_out)), popdb, normaliser)
    usual = [similarity for _, similarity, _ in nearest[len(windows) :]]
    highest, rows = max(usual, default=None), dict[tuple[str, str], dict[str, Any]]()
    for owner, (pair, similarity, lag) in zip(owners, nearest, strict=False):
        if owner not in rows or similarity > rows[owner]["similarity"]:
            rows[owner] = {
                "system": owner[0], "track": owner[1], "pair_id": pair["pair_id"], "title": pair["title"],
                "similarity": similarity, "lag_s": popdb.codec.duration_s(lag),
                "suspicious": None if highest is None else similarity > (1 + highest) / 2,
            }  # fmt: skip
    yardstick = {"n": len(usual), "median": median(usual) if usual else None, "highest": highest}
    return {"nearest": list(rows.values()), "nearest_held_out": yardstick}


def nearest_pairs(
    tracks: Tensor, popdb: Popdb, normaliser: Normaliser
) -> list[tuple[dict[str, Any], float, int]]:
    """Row, similarity and lag in frames of the first nearest training pair of normalised tracks (N, C, T).

    Shards are read once. InputError for tracks, DatasetError for pairs that are absent or not finite.
    """
    rows = popdb.pairs("train")
    if not rows:
        raise DatasetError(f"{popdb.location}: no training pairs to compare with")
    comparison = Comparison(tracks, popdb.info["chunk_frames"])
    best = torch.full((len(tracks), 3), -torch.inf, dtype=torch.float64)  # similarity, place, lag
    for start in range(0, len(rows), PAIRS):
        part = _accompaniments(popdb, rows[start : start + PAIRS], normaliser)
        values, lags = comparison.similarities(part)
        value, place = values.max(dim=1)
        lag = lags.gather(1, place[:, None])[:, 0]
        found = torch.stack((value.double(), place.double() + start, lag.double()), dim=1)
        best = torch.where(found[:, :1] > best[:, :1], found, best)
    return [(rows[int(place)], value, int(lag)) for value, place, lag in best.tolist()]


def _accompaniments(popdb: Popdb, rows: Sequence[dict[str, Any]], normaliser: Normaliser) -> Tensor:
    latents = normaliser.accompaniment(popdb.read(rows)[1])
    for row, item in zip(rows, latents, strict=True):
        if not item.isfinite().all():
            raise DatasetError(f"{popdb.location}: {row['pair_id']}: NaN or infinite; run samuel verify")
    return latents


def diversity(tracks: Sequence[Tensor]) -> dict[str, Any]:
    """Unlikeness of takes (K, C, T), by track: 0 for the same but for level, 1 for unrelated ones.

    One minus the correlation over all channels and frames, the mean of each channel taken away, of pairs of
    takes that are not constant. `between_takes` is of one vocal with different seeds; `between_songs`, of
    first takes of different vocals, is as much as takes can differ.
    """

    def unlikeness(items: Tensor) -> float | None:
        if not items.isfinite().all():
            raise InputError("the takes hold NaN or infinite numbers")
        flat = (items.float() - items.float().mean(dim=-1, keepdim=True)).flatten(1)
        varied = flat[flat.square().mean(dim=1) > CONSTANT]
        pairs = torch.triu_indices(len(varied), len(varied), 1)
        return float(1 - torch.corrcoef(varied)[*pairs].mean()) if len(varied) > 1 else None

    unlike = [unlikeness(track) for track in tracks]
    measured = [value for value in unlike if value is not None]
    between_songs = unlikeness(torch.stack([track[0] for track in tracks]))
    between_takes = mean(measured) if measured else None
    between = {"between_takes": between_takes, "between_songs": between_songs}
    return {"takes": len(tracks[0]), "tracks": unlike} | between


@dataclass(frozen=True)
class Space:
    """Where latents are compared: recordings through a codec, or what a model drew, beside a training set."""

    info: CodecInfo  # of all latents
    codec: Codec | None = None  # encodes the files of a lineup; None where a model drew the tracks
    popdb: Popdb | None = None  # a training set of the same codec, in which copies are looked for
    tracks: Sequence[Artifact] = ()  # made by `make_track`, of a model that learned `popdb`
    model: str = ""  # digest of its weights, for people who compare runs

    @property
    def identity(self) -> Any:
        """What determines the answer beside the lineup, as JSON."""
        return [VERSION, self.info, self.popdb and self.popdb.info, [track.sha256 for track in self.tracks]]

    @property
    def described(self) -> dict[str, str]:
        """Codec, dataset and model, for people who compare runs."""
        dataset = digest(self.popdb.info) if self.popdb else ""
        known = {"codec": str(self.info), "dataset": dataset, "model": self.model}
        return {name: value for name, value in known.items() if value}

    @cached_property
    def drawn(self) -> dict[str, dict[str, Tensor]]:
        """By track, codec latents that a model drew, `takes` (K, C, T), and of its `reference` (C, T)."""
        return {track.record["pair_id"]: latents_of(track) for track in self.tracks}

    def latents(self, encoded: Latents) -> Latents:
        """What is compared: the first takes of a model and their references, or else what was encoded."""
        if not self.tracks:
            return encoded
        references = {name: found["reference"] for name, found in self.drawn.items()}
        return {CEILING: references, OURS: {name: found["takes"][0] for name, found in self.drawn.items()}}

    def frechet(self, latents: Latents) -> dict[str, Any]:
        """Hold every system to the true accompaniments, normalised as those are spread."""
        of = REAL if latents.get(REAL) else CEILING
        if not latents.get(of):
            raise InputError("no true accompaniments were given (--references)")
        true = torch.cat([part.float() for part in latents[of].values()], dim=1)
        centre, deviation = true.mean(dim=1, keepdim=True), true.std(dim=1, keepdim=True)
        if float(deviation.max()) < LEAST_DEVIATION:
            raise InputError("the true accompaniments never change")
        scale = deviation.clamp(min=LEAST_DEVIATION)
        sets = {
            name: {n: moments((p.float() - centre)[None] / scale) for n, p in songs.items() if p.shape[1] > 1}
            for name, songs in latents.items()
        }
        distances, floors = crossed_distances(sets.pop(of), sets, SPLITS, SEED)
        items = {name: found["items"] for name, found in floors.items()}
        return {
            "frechet": distances, "frechet_items": items, "frechet_design": DESIGN, "floor": floors,
            "true_items": len(latents[of]), "unit": "squared deviations of the latents",
        }  # fmt: skip

    def nearest(self, latents: Latents) -> dict[str, Any]:
        """Look for every track in the training accompaniments."""
        if self.popdb is None:
            raise InputError("no training set was given (--dataset)")
        if not same_codec(self.popdb.codec, self.info):
            raise InputError(f"the training set holds latents of {self.popdb.codec}")
        judged = {name: tracks for name, tracks in latents.items() if name not in (REAL, CEILING)}
        every = {(name, track): part for name, tracks in judged.items() for track, part in tracks.items()}
        return find_copies(every, self.popdb)

    def diversity(self) -> dict[str, Any]:
        """Compare the takes of each track."""
        if not self.popdb or not self.drawn:
            raise InputError("a folder holds one accompaniment of each vocal")
        normaliser = Normaliser.of(self.popdb.stats)
        found = diversity([normaliser.accompaniment(of_track["takes"]) for of_track in self.drawn.values()])
        rows = [{"track": n, "between_takes": v} for n, v in zip(self.drawn, found["tracks"], strict=True)]
        return {"diversity": found | {"tracks": rows}}
