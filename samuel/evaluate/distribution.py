"""What is compared in latent space: how far from true accompaniments, how near to training ones, how diverse.

Shapes: N tracks, K takes, C channels, T frames; all that is compared is normalised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from samuel.artifacts import Artifact, digest
from samuel.audio import SAMPLE_RATE
from samuel.codecs.base import HOP, Codec, made_by
from samuel.errors import SamuelError
from samuel.evaluate.diversity import diversity
from samuel.evaluate.following import crossed_distances
from samuel.evaluate.frechet import Gaussian, floor, gaussian_distance
from samuel.evaluate.nearest import (
    Nearest,
    held_out_tracks,
    nearest_pairs,
    suspicious,
    yardstick,
)
from samuel.evaluate.systems import CEILING, OURS, REAL
from samuel.evaluate.tracks import latents_of
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser

VERSION = 1
TRUE_PAIRS = 512
"""Held-out pairs that are compared with: 128 MiB of 1024 frames."""
SLICE = 256
"""Frames of a slice, 11.9 s, where recordings of any length are compared."""
SPLITS, SEED = 10, 0
LEAST_DEVIATION = 1e-3
TRUE = (REAL, CEILING)
HELD_OUT_DESIGN = (
    "What was generated is held to true accompaniments of held-out songs; the floor is as many true items, "
    "of some of these songs, against those of the others."
)
CROSSED_DESIGN = (
    "Every system was given the same songs, so its items of one half of them are held to the true items of "
    "the other half, in the mean over random halvings; the floor is the same with true items on both sides."
)
UNIT = "squared deviations of the latents"

Latents = Mapping[str, Mapping[str, Tensor]]
"""Codec latents (C, T) by system and track."""


class Space(Protocol):
    """What of a lineup is compared in latent space."""

    @property
    def identity(self) -> Any:
        """What determines the answer beside the lineup, as JSON."""
        ...

    @property
    def codec(self) -> Codec | None:
        """Encodes what is heard; None where the latents are known."""
        ...

    @property
    def described(self) -> dict[str, str]:
        """`codec`, and `dataset` where there is one, for people who compare runs."""
        ...

    def look(self, latents: Latents) -> "tuple[dict[str, Any], dict[str, str]]":
        """The summary's `distribution`, and why what is not in it was not measured."""
        ...


@dataclass(frozen=True)
class DatasetSpace:
    """The tracks of `make_track` beside the dataset that their model learned, by the latents themselves."""

    popdb: Popdb
    tracks: Sequence[Artifact]
    model: str = ""
    """Digest of its weights, for people who compare runs."""

    codec: None = None

    @property
    def identity(self) -> Any:
        """Dataset and tracks."""
        return ["dataset", VERSION, self.popdb.info, [track.sha256 for track in self.tracks]]

    @property
    def described(self) -> dict[str, str]:
        """Both, of the dataset, and the model."""
        known = {"codec": self.popdb.info["codec"], "dataset": digest(self.popdb.info)}
        return known | ({"model": self.model} if self.model else {})

    def look(self, latents: Latents) -> "tuple[dict[str, Any], dict[str, str]]":
        """Compare what was generated with held-out and with training accompaniments."""
        normaliser, generated = Normaliser.of(self.popdb.stats), latents_of(self.tracks)
        takes = _normalised_takes(generated["takes"], normaliser)
        names = [track.record["pair_id"] for track in self.tracks]
        found = _Findings()
        found.attempt("frechet", lambda: self._frechet(takes[:, 0], normaliser))
        owners = [(OURS, name) for name in names]
        found.attempt("nearest", lambda: _nearest(takes[:, 0], owners, self.popdb, normaliser))
        found.attempt("diversity", lambda: {"diversity": _diversity(takes, names)})
        return found.summary, found.missing

    def _frechet(self, generated: Tensor, normaliser: Normaliser) -> dict[str, Any]:
        rows = self.popdb.pairs("validation")[:TRUE_PAIRS]
        if not rows:
            raise _NotMeasuredError("no song is held out")
        true = normaliser.accompaniment(self.popdb.read(rows)[1])
        return _distances(generated, true, [row["song_id"] for row in rows])


@dataclass(frozen=True)
class FolderSpace:
    """Recordings of any length, encoded by a codec; the true ones among them are what others are held to.

    Attributes:
        encoder: The codec.
        popdb: A training set of the same codec, in which copies are looked for.
    """

    encoder: Codec
    popdb: Popdb | None = None

    @property
    def codec(self) -> Codec:
        """Encodes what is heard."""
        return self.encoder

    @property
    def identity(self) -> Any:
        """Codec and training set."""
        return ["folders", VERSION, self.encoder.identity, self.popdb and self.popdb.info]

    @property
    def described(self) -> dict[str, str]:
        """The codec, and the training set where there is one."""
        known = {"dataset": digest(self.popdb.info)} if self.popdb else {}
        return {"codec": self.encoder.identity, **known}

    def look(self, latents: Latents) -> "tuple[dict[str, Any], dict[str, str]]":
        """Compare every system with the true accompaniments, and with the training set where there is one."""
        found = _Findings()
        found.attempt("frechet", lambda: _frechet_of(latents))
        found.attempt("nearest", lambda: self._nearest(latents))
        found.missing["diversity"] = "a folder holds one accompaniment of each vocal"
        return found.summary, found.missing

    def _nearest(self, latents: Latents) -> dict[str, Any]:
        if self.popdb is None:
            raise _NotMeasuredError("no training set was given (--dataset)")
        if not made_by(self.popdb.info["codec"], self.encoder):
            raise _NotMeasuredError(f"the training set holds latents of {self.popdb.info['codec']!r}")
        frames, normaliser = self.popdb.info["chunk_frames"], Normaliser.of(self.popdb.stats)
        names, windows = [], []
        for system, tracks in latents.items():
            for track, part in tracks.items() if system not in TRUE else ():
                found = _windows(normaliser.accompaniment(part[None])[0], frames)
                names += [(system, track)] * len(found)
                windows += found
        if not windows:
            raise _NotMeasuredError(
                f"every track is shorter than half a pair of the training set, {frames} frames"
            )
        return _nearest(torch.stack(windows), names, self.popdb, normaliser)


class _NotMeasuredError(SamuelError):
    """Why a part of the comparison cannot be made."""


class _Findings:
    """What was found, and why the rest was not."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def attempt(self, part: str, compare: Any) -> None:
        """Add what `compare` finds, or the reason why it cannot."""
        try:
            self.summary |= compare()
        except SamuelError as error:
            self.missing[part] = str(error)


def _distances(generated: Tensor, true: Tensor, songs: Sequence[str]) -> dict[str, Any]:
    """Fréchet distance of what our model made, (N, C, T), to a true set, beside its floor."""
    distance = gaussian_distance(Gaussian.of(generated), Gaussian.of(true))
    known = {}
    if len(set(songs)) > 1:
        known = {"floor": {OURS: asdict(floor(true, songs, len(generated), SPLITS, SEED))}}
    return {
        "frechet": {OURS: distance},
        "frechet_items": {OURS: len(generated)},
        "frechet_design": HELD_OUT_DESIGN,
        "true_items": len(true),
        "unit": UNIT,
        **known,
    }


def _frechet_of(latents: Latents) -> dict[str, Any]:
    """The same for recordings of any length, cut into slices and normalised as the true ones are spread."""
    if not latents.get(REAL):
        raise _NotMeasuredError("no true accompaniments were given (--references)")
    sliced = {name: {song: _slices(part) for song, part in found.items()} for name, found in latents.items()}
    whole = torch.cat(list(sliced[REAL].values()))
    if not len(whole):
        slice_s = SLICE * HOP / SAMPLE_RATE
        raise _NotMeasuredError(f"no true accompaniment is as long as a slice, {slice_s:.1f} s")
    mean, deviation = whole.mean(dim=(0, 2), keepdim=True), whole.std(dim=(0, 2), keepdim=True)
    if float(deviation.max()) < LEAST_DEVIATION:
        raise _NotMeasuredError("the true accompaniments never change")
    parts = {
        name: {
            song: Gaussian.of((slices - mean) / deviation.clamp(min=LEAST_DEVIATION))
            for song, slices in songs.items()
            if len(slices)
        }
        for name, songs in sliced.items()
    }
    systems = {name: found for name, found in parts.items() if name != REAL}
    distances, floors = crossed_distances(parts[REAL], systems, SPLITS, SEED)
    return {
        "frechet": distances,
        "frechet_items": {name: found.items for name, found in floors.items()},
        "frechet_design": CROSSED_DESIGN,
        "true_items": len(whole),
        "unit": UNIT,
        "floor": {name: asdict(found) for name, found in floors.items()},
    }


def _slices(latents: Tensor) -> Tensor:
    """(C, T) → (T // SLICE, C, SLICE), float32."""
    count = latents.shape[1] // SLICE
    return latents.float()[:, : count * SLICE].unflatten(1, (count, SLICE)).transpose(0, 1)


def _windows(latents: Tensor, frames: int) -> list[Tensor]:
    """(C, T) → all of it in windows (C, frames), the last one at its end; nothing of less than half of one.

    What is a little short is filled with zeros, the mean.
    """
    length = latents.shape[1]
    if length < frames:
        return [functional.pad(latents, (0, frames - length))] if 2 * length >= frames else []
    starts = dict.fromkeys([*range(0, length - frames, frames), length - frames])
    return [latents[:, start : start + frames] for start in starts]


def _nearest(
    generated: Tensor, names: Sequence[tuple[str, str]], popdb: Popdb, normaliser: Normaliser
) -> dict[str, Any]:
    """Every track's nearest training pair, and the yardstick, in one pass over the shards.

    Args:
        generated: (N, C, T), perhaps several windows of a track.
        names: System and track of each.
        popdb: The training set.
        normaliser: Its maps.
    """
    held_out = held_out_tracks(popdb, normaliser, generated.shape[-1])
    found = nearest_pairs(torch.cat((generated, held_out)), popdb, normaliser)
    measure = yardstick(found[len(generated) :])
    best: dict[tuple[str, str], Nearest] = {}
    for name, near in zip(names, found, strict=False):
        if name not in best or near.similarity > best[name].similarity:
            best[name] = near
    rows = [
        {
            "system": system, "track": track, "pair_id": near.pair_id, "title": near.title,
            "similarity": near.similarity, "lag_s": near.lag_frames * HOP / SAMPLE_RATE,
            "suspicious": suspicious(near.similarity, measure),
        }
        for (system, track), near in best.items()
    ]  # fmt: skip
    return {"nearest": rows, "nearest_held_out": asdict(measure)}


def _diversity(takes: Tensor, names: Sequence[str]) -> dict[str, Any]:
    found = diversity(takes)
    return {
        "takes": takes.shape[1],
        "between_takes": found.between_takes,
        "between_songs": found.between_songs,
        "tracks": [
            {"track": name, "between_takes": value} for name, value in zip(names, found.tracks, strict=True)
        ],
    }


def _normalised_takes(takes: Tensor, normaliser: Normaliser) -> Tensor:
    """(N, K, C, T)."""
    return normaliser.accompaniment(takes.flatten(0, 1)).unflatten(0, takes.shape[:2])
