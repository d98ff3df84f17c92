"""What is compared in latent space, and the Fréchet distance: how far latents as a whole are from true ones.

The distance depends on how many items there are: two small sets of the same songs' latents are far apart by
chance alone. So it is given beside its floor, with true latents on both sides.

Shapes: N items or tracks, K takes of each, C channels, T frames, D = 2C; all that is compared is normalised.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samuel.artifacts import Artifact, digest
from samuel.codecs.base import Codec, same_codec
from samuel.errors import InputError
from samuel.evaluate.likeness import diversity, find_copies
from samuel.evaluate.systems import CEILING, OURS, REAL
from samuel.evaluate.tracks import latents_of
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser

VERSION = 1
TRUE_PAIRS = 512  # held-out pairs that are compared with: 128 MiB of 1024 frames
SLICE_S = 11.9  # of recordings of any length: 256 frames of 2048 samples at 44.1 kHz
SPLITS, SEED = 10, 0
LEAST_DEVIATION = 1e-3
AT_A_TIME = 2**15  # frames that stand in memory as float64: 32 MiB of 2 × 64 numbers each
HELD_OUT_DESIGN = (
    "What was generated is held to true accompaniments of held-out songs; the floor is as many true items, "
    "of some of these songs, against those of the others."
)
CROSSED_DESIGN = (
    "Every system was given the same songs, so its items of one half of them are held to the true items of "
    "the other half, in the mean over random halvings; the floor is the same with true items on both sides."
)

Latents = Mapping[str, Mapping[str, Tensor]]
"""Codec latents (C, T) by system and track."""
BySong = Mapping[str, "Gaussian"]


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of frames with their successors, by sums: sets can be added piece by piece.

    The sums are taken about 0 in float64, which suits normalised latents.
    """

    items: int
    points: int  # frames that have a successor
    total: Tensor  # (D,), on the CPU
    products: Tensor  # (D, D)

    @classmethod
    def of(cls, latents: Tensor) -> "Gaussian":
        """That of normalised latents (N, C, T), T at least 2; InputError for others."""
        if latents.ndim != 3 or 0 in latents.shape or latents.shape[-1] < 2:
            raise InputError(f"latents of shape {tuple(latents.shape)}; they must be (N, C, T), T at least 2")
        if not latents.isfinite().all():  # which would end the whole process inside LAPACK
            raise InputError(
                "the latents hold NaN or infinite numbers; another model or setting must draw them"
            )
        items, channels, frames = latents.shape
        total = torch.zeros(2 * channels, dtype=torch.float64)
        products = torch.zeros(2 * channels, 2 * channels, dtype=torch.float64)
        for part in latents.split(max(1, AT_A_TIME // frames)):
            both = torch.cat((part[..., :-1], part[..., 1:]), dim=1).cpu()
            for points in both.transpose(1, 2).flatten(0, 1).split(AT_A_TIME):
                exact = points.double()
                total += exact.sum(dim=0)
                products += exact.T @ exact
        return cls(items, items * (frames - 1), total, products)

    @classmethod
    def sum(cls, parts: Sequence["Gaussian"]) -> "Gaussian":
        """That of several sets together; there must be one."""
        nothing = torch.zeros((), dtype=torch.float64)
        return cls(
            sum(part.items for part in parts),
            sum(part.points for part in parts),
            sum((part.total for part in parts), nothing),
            sum((part.products for part in parts), nothing),
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,), and covariance (D, D) with one degree of freedom taken off."""
        if self.points < 2:
            raise InputError("one frame with its successor has no covariance; add items, or longer ones")
        outer = torch.outer(self.total, self.total) / self.points
        return self.total / self.points, (self.products - outer) / (self.points - 1)


def frechet_distance(generated: Tensor, true: Tensor) -> float:
    """Squared distance of the Gaussians fitted to both sets (Dowson and Landau, 1982), 0 for equal ones.

        d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)

    What is fitted is every frame together with the next one, 2C numbers: both which sounds there are and how
    they follow each other. No network judges, so what it says is about latents and not about listening.
    Both are normalised latents, (N, C, T) and (N', C, T'); InputError where they cannot be compared.
    """
    return gaussian_distance(Gaussian.of(generated), Gaussian.of(true))


def gaussian_distance(first: Gaussian, second: Gaussian) -> float:
    """`frechet_distance` of sets that were added up."""
    from torchaudio.functional import frechet_distance as of_gaussians

    channels = [len(side.total) // 2 for side in (first, second)]
    if channels[0] != channels[1]:
        raise InputError(f"latents of {channels[0]} and of {channels[1]} channels cannot be compared")
    distance = of_gaussians(*first.moments(), *second.moments())
    return float(distance.clamp(min=0.0))  # rounding may leave -1e-12 for equal sets


def floor(true: Tensor, songs: Sequence[str], items: int, splits: int, seed: int) -> dict[str, Any]:
    """Distance of `items` true items to the items of other songs: the floor of a generated set of that size.

    What a perfect generator would come to, had its items been drawn like these. They come from as many songs
    as there are items, as in an evaluation that generates one item a song, but from no more than half of the
    songs, so that the rest is still a set to be compared with; then the songs take turns. It is slightly too
    high as a floor: the rest is smaller than the whole true set, and holds none of the drawn songs.

    `true` are normalised latents (N, C, T), `songs` the song of each. Where half of the songs hold fewer than
    `items`, all of theirs are drawn. InputError without two songs.
    """
    members = {song: [n for n, other in enumerate(songs) if other == song] for song in sorted(set(songs))}
    if len(members) < 2:
        raise InputError(f"items of {len(members)} songs: a floor needs two, which the split keeps apart")
    parts = {song: Gaussian.of(true[places]) for song, places in members.items()}
    generator = np.random.default_rng(seed + 1)
    distances, counts = [], []
    for order in _orders(list(members), splits, seed):
        chosen = order[: min(items, len(order) // 2)]
        turns = zip_longest(*(generator.permutation(members[song]).tolist() for song in chosen))
        drawn = [place for turn in turns for place in turn if place is not None][:items]
        rest = Gaussian.sum([parts[song] for song in order[len(chosen) :]])
        distances.append(gaussian_distance(Gaussian.of(true[drawn]), rest))
        counts.append(min(len(drawn), rest.items))
    return _spread(distances, min(counts))


def crossed_distances(
    true: BySong, systems: Mapping[str, BySong], splits: int, seed: int
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Mean distance of each system, and its floor, over random halvings of the songs that it has.

    For systems that made accompaniments for the very songs that they are held to: those are near to the true
    ones by the songs alone. So a system's items of one half of the songs are held to the true items of the
    other half, as are the true ones: that is the floor, and both are equally large sets.
    """
    if len(true) < 2:
        raise InputError("there are true accompaniments of one song alone: two are needed, one for each side")

    def distance(made: BySong, one: Sequence[str], other: Sequence[str]) -> float:
        return gaussian_distance(Gaussian.sum([made[s] for s in one]), Gaussian.sum([true[s] for s in other]))

    distances: dict[str, float] = {}
    floors: dict[str, dict[str, Any]] = {}
    for name, items in systems.items():
        songs = sorted(true.keys() & items.keys())
        if len(songs) > 1:
            half = len(songs) // 2
            halves = [(order[:half], order[half:]) for order in _orders(songs, splits, seed)]
            distances[name] = mean(distance(items, one, other) for one, other in halves)
            least = min(sum(items[song].items for song in one) for one, _ in halves)
            floors[name] = _spread([distance(true, one, other) for one, other in halves], least)
    return distances, floors


def _spread(distances: Sequence[float], items: int) -> dict[str, Any]:
    """A floor, of the distance of each split; `items` are on the smaller side, the least over the splits."""
    bounds = {"mean": mean(distances), "low": min(distances), "high": max(distances)}
    return bounds | {"splits": len(distances), "items": items}


def _orders(names: Sequence[str], splits: int, seed: int) -> Iterator[list[str]]:
    generator = np.random.default_rng(seed)
    for _ in range(splits):
        yield [names[int(place)] for place in generator.permutation(len(names))]


@dataclass(frozen=True)
class DatasetSpace:
    """The tracks of `make_track` beside the dataset that their model learned, by the latents themselves."""

    popdb: Popdb
    tracks: Sequence[Artifact]
    model: str = ""  # digest of its weights, for people who compare runs
    codec: None = None  # nothing is to be encoded

    @property
    def identity(self) -> Any:
        """What determines the answer beside the lineup, as JSON."""
        return ["dataset", VERSION, self.popdb.info, [track.sha256 for track in self.tracks]]

    @property
    def described(self) -> dict[str, str]:
        """Codec, dataset and model, for people who compare runs."""
        known = {"codec": str(self.popdb.codec), "dataset": digest(self.popdb.info)}
        return known | ({"model": self.model} if self.model else {})

    @cached_property
    def _takes(self) -> dict[str, Tensor]:
        """Codec latents (K, C, T) by track."""
        return {track.record["pair_id"]: latents_of(track)["takes"] for track in self.tracks}

    def frechet(self, _: Latents) -> dict[str, Any]:
        """Hold what was generated to the held-out accompaniments."""
        rows, normaliser = self.popdb.pairs("validation")[:TRUE_PAIRS], Normaliser.of(self.popdb.stats)
        if not rows:
            raise InputError("no song is held out")
        generated = normaliser.accompaniment(torch.stack([takes[0] for takes in self._takes.values()]))
        true, songs = normaliser.accompaniment(self.popdb.read(rows)[1]), [row["song_id"] for row in rows]
        distance = frechet_distance(generated, true)
        floors = {OURS: floor(true, songs, len(generated), SPLITS, SEED)} if len(set(songs)) > 1 else {}
        items = {OURS: len(generated)}
        return _frechet_summary({OURS: distance}, floors, items, len(true), HELD_OUT_DESIGN)

    def nearest(self, _: Latents) -> dict[str, Any]:
        """Look for every track in the training accompaniments."""
        return find_copies({(OURS, name): takes[0] for name, takes in self._takes.items()}, self.popdb)

    def diversity(self) -> dict[str, Any]:
        """Compare the takes of each track."""
        normaliser = Normaliser.of(self.popdb.stats)
        found = diversity([normaliser.accompaniment(takes) for takes in self._takes.values()])
        rows = [{"track": n, "between_takes": v} for n, v in zip(self._takes, found["tracks"], strict=True)]
        return {"diversity": found | {"tracks": rows}}


@dataclass(frozen=True)
class FolderSpace:
    """Recordings of any length, encoded by a codec; the true ones among them are what others are held to."""

    codec: Codec
    popdb: Popdb | None = None  # a training set of the same codec, in which copies are looked for

    @property
    def identity(self) -> Any:
        """What determines the answer beside the lineup, as JSON."""
        return ["folders", VERSION, self.codec.info, self.popdb and self.popdb.info]

    @property
    def described(self) -> dict[str, str]:
        """Codec and training set, for people who compare runs."""
        known = {"dataset": digest(self.popdb.info)} if self.popdb else {}
        return {"codec": str(self.codec.info), **known}

    def frechet(self, latents: Latents) -> dict[str, Any]:
        """Compare slices of every system, normalised as the true ones are spread, with the true ones."""
        info = self.codec.info
        frames = max(2, round(SLICE_S * info.sample_rate / info.hop))
        if not latents.get(REAL):
            raise InputError("no true accompaniments were given (--references)")
        slices: dict[str, dict[str, Tensor]] = {}  # (N, C, frames), float32
        for name, songs in latents.items():
            for song, part in songs.items():
                whole = part.float()[:, : part.shape[1] // frames * frames]
                slices.setdefault(name, {})[song] = whole.unflatten(1, (-1, frames)).transpose(0, 1)
        true = torch.cat(list(slices[REAL].values()))
        if not len(true):
            raise InputError(f"no true accompaniment is as long as a slice, {info.duration_s(frames):.1f} s")
        centre, deviation = true.mean(dim=(0, 2), keepdim=True), true.std(dim=(0, 2), keepdim=True)
        if float(deviation.max()) < LEAST_DEVIATION:
            raise InputError("the true accompaniments never change")
        scale = deviation.clamp(min=LEAST_DEVIATION)
        parts = {
            name: {song: Gaussian.of((part - centre) / scale) for song, part in songs.items() if len(part)}
            for name, songs in slices.items()
        }
        distances, floors = crossed_distances(parts.pop(REAL), parts, SPLITS, SEED)
        items = {name: found["items"] for name, found in floors.items()}
        return _frechet_summary(distances, floors, items, len(true), CROSSED_DESIGN)

    def nearest(self, latents: Latents) -> dict[str, Any]:
        """Look for every track in the training set."""
        if self.popdb is None:
            raise InputError("no training set was given (--dataset)")
        if not same_codec(self.popdb.codec, self.codec.info):
            raise InputError(f"the training set holds latents of {self.popdb.codec}")
        judged = {name: tracks for name, tracks in latents.items() if name not in (REAL, CEILING)}
        every = {(name, track): part for name, tracks in judged.items() for track, part in tracks.items()}
        return find_copies(every, self.popdb)

    def diversity(self) -> dict[str, Any]:
        """Nothing to compare."""
        raise InputError("a folder holds one accompaniment of each vocal")


Space = DatasetSpace | FolderSpace


def _frechet_summary(
    distances: Mapping[str, float], floors: Mapping[str, Any], items: Mapping[str, int], true: int, how: str
) -> dict[str, Any]:
    return {
        "frechet": distances,
        "frechet_items": items,
        "frechet_design": how,
        "true_items": true,
        "unit": "squared deviations of the latents",
        "floor": floors,
    }
