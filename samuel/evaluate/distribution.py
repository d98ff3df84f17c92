"""What is compared in latent space: how far from true accompaniments, how near to training ones, how diverse.

Shapes: N tracks, K takes, C channels, T frames; all that is compared is normalised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from samuel.audio import SAMPLE_RATE
from samuel.codec import HOP, Codec
from samuel.codec.identity import made_by
from samuel.dataset import Normaliser
from samuel.errors import SamuelError
from samuel.evaluate.diversity import diversity
from samuel.evaluate.frechet import Gaussian, floor, gaussian_distance
from samuel.evaluate.nearest import held_out_tracks, nearest_pairs, suspicious, yardstick
from samuel.evaluate.systems import CEILING, OURS, REAL
from samuel.evaluate.tracks import latents_of
from samuel.files import Entry, digest
from samuel.popdb.shards import Popdb

VERSION = 1
TRUE_PAIRS = 512
"""Held-out pairs that are compared with: 128 MiB of 1024 frames."""
SLICE = 256
"""Frames of a slice, 11.9 s, where recordings of any length are compared."""
SPLITS, SEED = 10, 0
LEAST_DEVIATION = 1e-3
TRUE = (REAL, CEILING)
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
    tracks: Sequence[Entry]

    codec: None = None

    @property
    def identity(self) -> Any:
        """Dataset and tracks."""
        return ["dataset", VERSION, self.popdb.info, [track.sha256 for track in self.tracks]]

    @property
    def described(self) -> dict[str, str]:
        """Both, of the dataset."""
        return {"codec": self.popdb.info["codec"], "dataset": digest(self.popdb.info)}

    def look(self, latents: Latents) -> "tuple[dict[str, Any], dict[str, str]]":
        """Compare what was generated with held-out and with training accompaniments."""
        normaliser, generated = Normaliser.of(self.popdb.stats), latents_of(self.tracks)
        takes = _normalised_takes(generated["takes"], normaliser)
        names = [track.record["pair_id"] for track in self.tracks]
        found = _Findings()
        found.attempt("frechet", lambda: self._frechet(takes[:, 0], normaliser))
        found.attempt("nearest", lambda: _nearest({OURS: takes[:, 0]}, {OURS: names}, self.popdb, normaliser))
        found.attempt("diversity", lambda: {"diversity": _diversity(takes, names)})
        return found.summary, found.missing

    def _frechet(self, generated: Tensor, normaliser: Normaliser) -> dict[str, Any]:
        rows = self.popdb.pairs("validation")[:TRUE_PAIRS]
        if not rows:
            raise _NotMeasuredError("no song is held out")
        true = normaliser.accompaniment(self.popdb.read(rows)[1])
        return _distances({OURS: generated}, true, [row["song_id"] for row in rows])


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
        found.missing["distribution.diversity"] = "a folder holds one accompaniment of each vocal"
        return found.summary, found.missing

    def _nearest(self, latents: Latents) -> dict[str, Any]:
        if self.popdb is None:
            raise _NotMeasuredError("no training set was given (--dataset)")
        if not made_by(self.popdb.info["codec"], self.encoder):
            raise _NotMeasuredError(f"the training set holds latents of {self.popdb.info['codec']!r}")
        frames, normaliser = self.popdb.info["chunk_frames"], Normaliser.of(self.popdb.stats)
        cut = {
            system: {name: part[:, :frames] for name, part in tracks.items() if part.shape[1] >= frames}
            for system, tracks in latents.items()
            if system not in TRUE
        }
        stacked = {
            system: normaliser.accompaniment(torch.stack(list(tracks.values())))
            for system, tracks in cut.items()
            if tracks
        }
        if not stacked:
            raise _NotMeasuredError(f"no track is as long as a pair of the training set, {frames} frames")
        names = {system: list(tracks) for system, tracks in cut.items()}
        return _nearest(stacked, names, self.popdb, normaliser)


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
            self.missing[f"distribution.{part}"] = str(error)


def _distances(systems: Mapping[str, Tensor], true: Tensor, songs: Sequence[str]) -> dict[str, Any]:
    """Fréchet distances of systems (N, C, T) to the true set, each beside its floor."""
    whole = Gaussian.of(true)
    items = {name: len(latents) for name, latents in systems.items()}
    found = {name: gaussian_distance(Gaussian.of(latents), whole) for name, latents in systems.items()}
    return {
        "frechet": found,
        "frechet_items": items,
        "true_items": len(true),
        "unit": UNIT,
        **_floors(true, songs, items),
    }


def _floors(true: Tensor, songs: Sequence[str], items: Mapping[str, int]) -> dict[str, Any]:
    """The floor of each system: fewer items are further away by chance."""
    if len(set(songs)) < 2:
        return {}
    by_size = {size: asdict(floor(true, songs, size, SPLITS, SEED)) for size in set(items.values())}
    return {"floor": {name: by_size[size] for name, size in items.items()}}


def _frechet_of(latents: Latents) -> dict[str, Any]:
    """The same for recordings of any length, cut into slices and normalised as the true ones are spread."""
    if not (true := {name: _slices(found) for name, found in latents.get(REAL, {}).items()}):
        raise _NotMeasuredError("no true accompaniments were given (--references)")
    songs = [name for name, parts in true.items() for _ in parts]
    whole = torch.cat(list(true.values()))
    if not len(whole):
        raise _NotMeasuredError(
            f"no true accompaniment is as long as a slice, {SLICE * HOP / SAMPLE_RATE:.1f} s"
        )
    mean = whole.mean(dim=(0, 2), keepdim=True)
    deviation = whole.std(dim=(0, 2), keepdim=True).clamp(min=LEAST_DEVIATION)
    sliced = {name: torch.cat([_slices(part) for part in found.values()]) for name, found in latents.items()}
    systems = {n: (parts - mean) / deviation for n, parts in sliced.items() if n != REAL and len(parts)}
    return _distances(systems, (whole - mean) / deviation, songs)


def _slices(latents: Tensor) -> Tensor:
    """(C, T) → (T // SLICE, C, SLICE), float32."""
    count = latents.shape[1] // SLICE
    return latents.float()[:, : count * SLICE].unflatten(1, (count, SLICE)).transpose(0, 1)


def _nearest(
    systems: Mapping[str, Tensor], names: Mapping[str, Sequence[str]], popdb: Popdb, normaliser: Normaliser
) -> dict[str, Any]:
    """Every track's nearest training pair, and the yardstick, in one pass over the shards."""
    generated = torch.cat(list(systems.values()))
    held_out = held_out_tracks(popdb, normaliser, generated.shape[-1])
    found = nearest_pairs(torch.cat((generated, held_out)), popdb, normaliser)
    measure = yardstick(found[len(generated) :])
    owners = [(system, name) for system in systems for name in names[system]]
    rows = [
        {
            "system": system, "track": track, "pair_id": near.pair_id, "title": near.title,
            "similarity": near.similarity, "lag_s": near.lag_frames * HOP / SAMPLE_RATE,
            "suspicious": suspicious(near.similarity, measure),
        }
        for (system, track), near in zip(owners, found, strict=False)
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
