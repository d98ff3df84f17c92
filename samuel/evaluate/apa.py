"""The accompaniment prompt adherence (APA) of a lineup: one figure for each system, by the true pairs."""

import contextlib
import errno
import io
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel.artifacts import (
    digest,
    read_json,
    sha256,
    write_json,
)
from samuel.audio import SAMPLE_RATE, Audio
from samuel.config import EvaluationConfig
from samuel.errors import InputError, MissingPartError, SamuelError
from samuel.evaluate.systems import CEILING, REAL, Lineup
from samuel.evaluate.tracks import load_start
from samuel.hub import (
    fetch,
    hub_error,
    quietly,
    require_finite,
)

# Accompaniment prompt adherence (APA): do the accompaniments of a set belong to their vocals?
#
# Grachten and Nistal, "Accompaniment Prompt Adherence" (arXiv 2503.06346), by the authors' own package
# `audio-metrics`. It is under the GPL-3 and no part of the default installation. It hears mixes of vocal and
# accompaniment in windows of 5 s through CLAP, and compares sets of them by their Fréchet distances:
#
#     APA = ½ + (FAD(C, R') - FAD(C, R)) / (2 FAD(R, R'))
#
# with the mixes C of the candidates, those R of true pairs, and those R' of true pairs that were dealt anew.
# 1: as true pairs, 0: as pairs of strangers. It is one figure for a set, and a rough one for a small set: 512
# dimensions are estimated from as many windows as there are.
#
# Shapes: (2, S) audio at 44.1 kHz.


REPOSITORY = "lukewys/laion_clap"
CHECKPOINT = "music_audioset_epoch_15_esc_90.14.pt"
"""CLAP trained on music, which the package takes by default; 2.35 GB."""
TOKENIZERS = "roberta-base, bert-base-uncased and facebook/bart-base"
INSTALL = (
    "in a checkout: uv pip install '.[apa]' (pip alone finds no set of versions: laion-clap asks for NumPy 1,"
    " which pyproject.toml overrides for uv). It is under the GPL-3"
)
REMEDY = "or leave 'apa' out of evaluation.scorers"
RATE = 48_000
WINDOW_S = 5.0
LEAST_PAIRS = 2

Pair = tuple[Audio, Audio]
"""A vocal and an accompaniment, (2, S) each; what one has more is cut off."""


class Embedder(Protocol):
    """What the package asks of a network."""

    @property
    def sr(self) -> int:
        """Samples a second that it wants."""
        ...

    def get_device(self) -> torch.device:
        """Where it computes."""
        ...

    def forward(self, data: dict[str, Any]) -> dict[str, Tensor]:
        """`audio`, float (B, S) → `embedding`, (B, D)."""
        ...


class Apa:
    """True pairs, ready to be compared with sets of candidates.

    Attributes:
        windows: Windows of 5 s in the true pairs.
    """

    def __init__(self, embedder: Embedder, references: Iterable[Pair], seed: int = 0) -> None:
        """Embed the true pairs, and the same dealt anew.

        Args:
            embedder: Of `load_clap`.
            references: True pairs, two at least. The package keeps 100 of them in memory, 18 MB each of
                47.55 s.
            seed: How they are dealt anew: window by window, so that some stay beside their own song.

        Raises:
            MissingPartError: The package is not installed.
            InputError: The pairs are too few or too short, or not finite.
        """
        self._seed = seed
        counted = _Counted(references, "true pairs")
        with _unheard(seed):
            # Without a GPU it wants the name of a device all the same, and compares that with the network's.
            device = embedder.get_device()
            indices = [device.index or 0] if device.type == "cuda" else [None]
            self._metrics = _package().AudioMetrics(
                metrics=["apa"], device_indices=indices, embedder=embedder
            )
            self._metrics.add_reference(counted.checked())
        self.windows = counted.windows

    def score(self, candidates: Iterable[Pair]) -> float:
        """APA of a set of vocals with the accompaniments that were made for them, from 0 to 1.

        Raises:
            InputError: There are too few or too short ones, one is not finite, or the true pairs are no
                nearer to each other than to strangers.
        """
        counted = _Counted(candidates, "candidates")
        with _unheard(self._seed):
            result = self._metrics.evaluate(counted.checked())
        if not self._metrics.apa_d_x_xp > 0:
            raise InputError(
                "the true pairs are all alike, so that none can be told from strangers; give more"
            )
        return float(result["apa"])


def load_clap(path: Path | None) -> Embedder:
    """CLAP as the package loads it, on the GPU where there is one.

    laion-clap unpickles its checkpoint with no restriction, so that is looked through first. It asks the hub
    for the tokenizers of three language models, and for the weights of one, which the checkpoint replaces.

    Args:
        path: A checkpoint in laion-clap's own layout; None: the package's default, from the hub.

    Raises:
        MissingPartError: The package is not installed, the checkpoint is absent, damaged or of another
            layout, or the hub is out of reach.
    """
    _package()
    found = path or fetch(REPOSITORY, CHECKPOINT, f"or set evaluation.apa_path to a copy of it, {REMEDY}")
    _check(found)
    with quietly(), contextlib.redirect_stderr(io.StringIO()):
        clap = _clap_module()
        try:
            clap.load_ckpt(str(found), verbose=False)
        except (RuntimeError, KeyError) as error:
            raise _refusal(error, found) from error
    # Its own constructor would look for the file in another cache, by its name alone, or fetch it unchecked.
    official = import_module("audio_metrics.embedders").LaionCLAP
    embedder = official.__new__(official)
    embedder.clap, embedder.layer = clap, None
    return embedder


class _Counted:
    """Pairs as the package wants them, float32 (S, 2) at 48 kHz, and how many there were."""

    def __init__(self, pairs: Iterable[Pair], what: str) -> None:
        self._pairs, self._what = pairs, what
        self.pairs, self.windows = 0, 0

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for vocal, accompaniment in self._pairs:
            both = _at_48_khz(vocal, accompaniment)
            self.pairs += 1
            self.windows += len(both) // round(WINDOW_S * RATE)
            yield both

    def checked(self) -> Iterator[NDArray[np.float32]]:
        """The pairs, and an error behind the last one where they are too few."""
        yield from self
        self.require_enough()

    def require_enough(self) -> None:
        if self.pairs < LEAST_PAIRS or self.windows < LEAST_PAIRS:
            raise InputError(
                f"{self.pairs} {self._what} with {self.windows} windows of {WINDOW_S:g} s in all: adherence"
                f" is measured between sets, of {LEAST_PAIRS} pairs and windows at least"
            )


def _at_48_khz(vocal: Audio, accompaniment: Audio) -> NDArray[np.float32]:
    """Mono, (S, 2). Here and not in the package, which resamples in threads and so changes the order."""
    import soxr

    samples = min(vocal.shape[-1], accompaniment.shape[-1])
    both = np.stack([audio[:, :samples].mean(axis=0) for audio in (vocal, accompaniment)], axis=1)
    if not np.isfinite(both).all():  # which would end the whole process inside LAPACK
        raise InputError("a vocal or accompaniment holds NaN or infinite numbers")
    return soxr.resample(both.astype(np.float32), SAMPLE_RATE, RATE)


@contextlib.contextmanager
def _unheard(seed: int) -> Iterator[None]:
    """Without the package's bars and warnings, and with its dealing, by the global generator, seeded."""
    state = random.getstate()
    random.seed(seed)
    try:
        with quietly(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        random.setstate(state)


def _package() -> Any:
    try:
        with quietly():
            return import_module("audio_metrics")
    except ImportError as error:
        raise MissingPartError(f"the package audio-metrics is not usable ({error}); {INSTALL}") from error


def _clap_module() -> Any:
    """The network that the package takes, with weights that are still to be loaded."""
    try:
        return import_module("laion_clap").CLAP_Module(enable_fusion=False, amodel="HTSAT-base")
    except ImportError as error:
        raise MissingPartError(f"the package laion-clap is not usable ({error}); {INSTALL}") from error
    except OSError as error:
        raise _untokenized(error) from error


def _untokenized(error: OSError) -> SamuelError:
    if error.errno == errno.ENOSPC:
        return hub_error(error, TOKENIZERS, REMEDY)
    lines = str(error).splitlines() or [""]
    return MissingPartError(
        f"laion-clap asks the hub for {TOKENIZERS}, which could not be had ({lines[0]}); connect to the"
        f" internet once, {REMEDY}"
    )


def _check(path: Path) -> None:
    """Refuse what is no checkpoint, by a load that can only bring tensors and plain values."""
    if not path.is_file():
        raise MissingPartError(
            f"{path}: no such file; evaluation.apa_path must be {CHECKPOINT} of {REPOSITORY}"
        )
    try:
        with torch.serialization.safe_globals(_scalars()):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise _refusal(error, path) from error
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise MissingPartError(f"{path}: not a checkpoint of laion-clap (needs a state_dict of tensors)")
    require_finite(state, str(path))


def _scalars() -> list[Any]:
    """NumPy's numbers, by the names under which both its versions pickle them: losses that training noted."""
    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]


def _refusal(error: Exception, path: Path) -> MissingPartError:
    lines = str(error).splitlines() or [""]
    return MissingPartError(
        f"{path}: not a usable checkpoint of CLAP ({type(error).__name__}: {lines[0]}); fetch {CHECKPOINT} of"
        f" {REPOSITORY} again"
    )


VERSION = 1
NOT_CHOSEN = "it was not chosen (evaluation.scorers)"
NO_REFERENCE = "there are no true accompaniments to compare with"


@dataclass(frozen=True)
class Adherence:
    """APA by system, by these weights; `missing` is why there is none."""

    by_system: dict[str, float] = field(default_factory=dict)
    missing: str | None = None
    weights: str | None = None


def adherence_of(lineup: Lineup, identity: Any, config: EvaluationConfig, root: Path) -> Adherence:
    """APA of every system but the one that it is measured by, measured or found.

    The true pairs are those as recorded, or through the codec where no recordings are known.

    Args:
        lineup: What is compared.
        identity: What determines the lineup, as JSON.
        config: Whether it is wanted, and where the weights are.
        root: Where it is kept.
    """
    if "apa" not in config.scorers:
        return Adherence(missing=NOT_CHOSEN)
    reference = lineup.system(REAL) or lineup.system(CEILING)
    if reference is None:
        return Adherence(missing=NO_REFERENCE)
    path = config.apa_path
    if path and not path.is_file():
        return Adherence(missing=f"{path}: no such file (evaluation.apa_path)")
    weights = sha256(path) if path else CHECKPOINT
    place = root / f"{digest('apa', VERSION, identity, weights)}.json"
    if place.is_file():
        return Adherence(read_json(place), weights=weights)
    try:
        measure = Apa(load_clap(path), _pairs(lineup, reference.files))
        others = [system for system in lineup.systems if system is not reference]
        found = {system.name: measure.score(_pairs(lineup, system.files)) for system in others}
    except (MissingPartError, InputError) as error:
        return Adherence(missing=str(error))
    write_json(place, found)
    return Adherence(found, weights=weights)


def _pairs(lineup: Lineup, files: Mapping[str, Path]) -> Iterator[Pair]:
    """Vocals with accompaniments, one pair at a time; what cannot be read is named by the other scores."""
    for track in lineup.tracks:
        if track.name in files:
            try:
                pair = load_start(track.vocal)[0], load_start(files[track.name])[0]
            except InputError:
                continue
            yield pair
