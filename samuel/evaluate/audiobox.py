"""The AudioBox-Aesthetics of a lineup: each file once, its scores kept by the digests of file and weights.

Where the weights cannot be had there are none, and the reason why.
"""

import math
from collections import deque
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, Protocol

import soundfile
import torch
from torch import Tensor

from samuel.artifacts import (
    digest,
    read_json,
    sha256,
    write_json,
)
from samuel.audio import CHANNELS, SAMPLE_RATE, Audio
from samuel.config import EvaluationConfig
from samuel.errors import InputError, MissingPartError
from samuel.evaluate.systems import Lineup
from samuel.evaluate.tracks import load_start
from samuel.hub import (
    fetch,
    hub_error,
    quietly,
    require_finite,
    verify_blob,
)

# AudioBox-Aesthetics, the paper's scorer (§VI), by its own package.
#
# It hears 16 kHz mono in windows of 10 s and never the vocal: it says nothing about following it.
#
# The package puts all windows of a call into one batch, which takes about 0.2 GiB for each. Here the windows
# of
# all tracks pass in batches of a fixed size, so that memory does not grow with the length of a track.


REPOSITORY = "facebook/audiobox-aesthetics"
HUB_FILES = ("config.json", "model.safetensors")
AXES = ("PQ", "PC", "CE", "CU")
"""Production quality, production complexity, content enjoyment, content usefulness; each from 1 to 10."""
REMEDY = "or set evaluation.audiobox_path to its checkpoint.pt, or leave 'audiobox' out of evaluation.scorers"
MODEL_KEYS = {
    "proj_num_layer", "proj_ln", "proj_act_fn", "proj_dropout", "nth_layer", "use_weighted_layer_sum",
    "precision", "normalize_embed", "output_dim",
}  # fmt: skip
"""What the package reads of a checkpoint's `model_cfg`."""

HEARD_RATE, WINDOW_S = 16_000, 10
WINDOW, HEARD = WINDOW_S * SAMPLE_RATE, WINDOW_S * HEARD_RATE
STEP, HEARD_STEP = 441, 160
"""44,100 : 16,000. Resampling that begins at a multiple of 441 samples falls on the same grid."""
MARGIN = 10 * STEP
"""Samples around a window that its resampling sees; torchaudio's filter reaches 17."""
AT_A_TIME, AT_A_TIME_ON_GPU = 1, 16
"""Windows of a batch. On two CPU cores (AMD EPYC) a window took 2.2 s of processor time by itself, 2.3 s with
another, 2.5 s in fours, 2.9 s in sixteens. No GPU was at hand: sixteen would take 3 GiB of it."""

Track = Audio | Path
"""(2, S) at 44.1 kHz, or a file of such that soundfile reads, of which a window at a time is in memory."""


class Predictor(Protocol):
    """What the package calls `AesPredictor`."""

    device: torch.device

    def audio_resample_mono(self, data_list: list[dict[str, Any]]) -> list[Tensor]:
        """Tracks, each `path` (C, S) and `sample_rate` → (1, S') at 16 kHz."""
        ...

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, float]]:
        """Tracks, each `path` (C, S) and `sample_rate` → a row of scores for each."""
        ...


def load_audiobox(path: Path | None) -> Predictor:
    """The package's predictor; it takes a GPU where there is one.

    Args:
        path: A checkpoint in the package's own layout; None: safetensors from the hub.

    Raises:
        MissingPartError: The checkpoint is absent, damaged or of another layout, or the hub is out of reach.
    """
    fetched = _fetch() if path is None else []
    for file in fetched:
        verify_blob(file)
    if path is not None:
        _check(path)
    with quietly():
        from audiobox_aesthetics.infer import initialize_predictor

        try:
            predictor = initialize_predictor(ckpt=None if path is None else str(path))
        except Exception as error:
            raise _refusal(error, path) from error
    state = predictor.model.state_dict()
    if fetched:
        _require_all(state, fetched[-1])
    require_finite(state, str(path or REPOSITORY))
    return predictor


def identity(path: Path | None) -> str:
    """What tells the weights that `load_audiobox` takes from others, without loading them.

    Args:
        path: A checkpoint: the sha256 of its bytes. None: the hub's revision; weights that the local cache
            does not hold are fetched.

    Raises:
        MissingPartError: There is no such file, or the hub is out of reach.
    """
    if path is not None:
        _require_file(path)
        return sha256(path)
    revisions = sorted({file.parent.name for file in _fetch()})  # two where it changed meanwhile
    return f"{REPOSITORY}@{'+'.join(revisions)}"


def score(
    predictor: Predictor, tracks: Iterable[Track], at_a_time: int | None = None
) -> Iterator[dict[str, float]]:
    """Score tracks: PQ, PC, CE and CU of every one, in their order, as soon as its last window was heard.

    They are what the package gives for a whole track (to about 1e-5): each window counts by its length.
    Silence gets the scores that the network gives it. A track of no samples has no scores: NaN.

    Args:
        predictor: From `load_audiobox`.
        tracks: Each is taken when its turn comes, and let go before the next.
        at_a_time: Windows of a batch; none: as many as are fast where the predictor is.

    Raises:
        InputError: A file cannot be read, or is not 44.1 kHz stereo.
    """
    size = at_a_time or (AT_A_TIME if predictor.device.type == "cpu" else AT_A_TIME_ON_GPU)
    tallies: deque[_Tally] = deque()
    batch: list[_Window] = []
    for track in tracks:
        tally = _Tally()
        tallies.append(tally)
        for heard in _windows(predictor, track):
            batch.append(_Window(heard, tally))
            tally.waiting += 1
            if len(batch) == size:
                _hear(predictor, batch)
                batch = []
        del track  # or it would be there until the next one is
        while tallies and not tallies[0].waiting:
            yield tallies.popleft().scores()
    if batch:
        _hear(predictor, batch)
    yield from (tally.scores() for tally in tallies)


@dataclass
class _Tally:
    """What is known of a track: windows yet to be heard; of the others, their weight and weighted scores."""

    waiting: int = 0
    weight: float = 0.0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(AXES, 0.0))

    def add(self, row: Mapping[str, float], weight: float) -> None:
        self.waiting -= 1
        self.weight += weight
        for axis in AXES:
            self.sums[axis] += weight * row[axis]

    def scores(self) -> dict[str, float]:
        return {axis: total / self.weight if self.weight else math.nan for axis, total in self.sums.items()}


@dataclass(frozen=True)
class _Window:
    heard: Tensor
    """(1, up to 160,000) at 16 kHz."""
    tally: _Tally


def _hear(predictor: Predictor, windows: list[_Window]) -> None:
    """One call of the package; it takes each window for a track, pads it and masks what it padded."""
    tracks = [{"path": window.heard, "sample_rate": HEARD_RATE} for window in windows]
    with quietly():  # the package calls torch's attention in a way torch warns about
        rows = predictor.forward(tracks)
    for window, row in zip(windows, rows, strict=True):
        window.tally.add(row, window.heard.shape[1] / HEARD)


def _windows(predictor: Predictor, track: Track) -> Iterator[Tensor]:
    """The windows that the package would cut from the resampled track, (1, up to 160,000) each.

    Each is resampled for itself with a margin on both sides, which is cut off again.
    """
    samples = _length(track)
    for start in range(0, samples, WINDOW):
        first = max(start - MARGIN, 0)
        piece = _part(track, first, min(start + WINDOW + MARGIN, samples))
        (heard,) = predictor.audio_resample_mono([{"path": piece, "sample_rate": SAMPLE_RATE}])
        lead = (start - first) // STEP * HEARD_STEP
        yield heard[:, lead : lead + HEARD]


def _length(track: Track) -> int:
    if not isinstance(track, Path):
        return track.shape[1]
    try:
        found = soundfile.info(track)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{track}: not readable as audio ({error.error_string})") from error
    if (found.samplerate, found.channels) != (SAMPLE_RATE, CHANNELS):
        raise InputError(
            f"{track}: {found.samplerate} Hz, {found.channels} channels; expected {SAMPLE_RATE} Hz stereo"
        )
    return found.frames


def _part(track: Track, start: int, stop: int) -> Tensor:
    if not isinstance(track, Path):
        return torch.tensor(track[:, start:stop])  # a copy: torch warns of arrays that are read-only
    samples, _ = soundfile.read(track, start=start, stop=stop, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T)


def _fetch() -> list[Path]:
    """The hub's files in the local cache, `snapshots/<revision>/<name>`; the last holds the tensors."""
    return [fetch(REPOSITORY, name, REMEDY) for name in HUB_FILES]


def _require_all(state: Mapping[str, Tensor], file: Path) -> None:
    """The package loads from the hub leniently: a tensor that is not there would stay random."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        absent = sorted(state.keys() - opened.keys())
    if absent:
        raise MissingPartError(f"{file}: lacks {len(absent)} tensors, {absent[0]} among them; fetch it again")


def _require_file(path: Path) -> None:
    if not path.is_file():
        wrong = "a folder" if path.is_dir() else "no such file"
        raise MissingPartError(f"{path}: {wrong}; give its checkpoint.pt (evaluation.audiobox_path)")


def _check(path: Path) -> None:
    """Refuse what is no checkpoint, by a load that can only bring tensors and plain values.

    The package would ask the hub where the file is absent, and trusts torch's default where it is there.
    """
    _require_file(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refusal(error, path) from error
    _require_layout(found, path)


def _require_layout(found: object, path: Path) -> None:
    refused = f"{path}: not a checkpoint of audiobox_aesthetics"
    wanted = {"state_dict": set(), "model_cfg": MODEL_KEYS, "target_transform": set(AXES)}
    for part, keys in wanted.items():
        held = found.get(part) if isinstance(found, dict) else None
        if not isinstance(held, dict):
            raise MissingPartError(f"{refused} (needs {sorted(wanted)})")
        if absent := sorted(keys - held.keys()):
            raise MissingPartError(f"{refused} ({part} lacks {', '.join(absent)})")


def _refusal(error: Exception, path: Path | None) -> Exception:
    if path is None:
        return hub_error(error, REPOSITORY, REMEDY)
    # torch names the tensor that does not fit in its second line
    lines = [line.strip() for line in str(error).splitlines()[:2]]
    return MissingPartError(
        f"{path}: not a usable checkpoint ({type(error).__name__}: {' '.join(lines):.300}); fetch it again"
    )


VERSION = 1
NOT_CHOSEN = "it was not chosen (samuel evaluate --audiobox, or evaluation.scorers)"
Rows = dict[str, dict[str, dict[str, float | None]]]
"""By system, track and axis."""


@dataclass(frozen=True)
class Aesthetics:
    """What AudioBox-Aesthetics says by these weights; `missing` is why it says nothing."""

    rows: Rows = field(default_factory=dict)
    missing: str | None = None
    weights: str | None = None


def aesthetics_of(
    lineup: Lineup,
    config: EvaluationConfig,
    root: Path,
    each: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Aesthetics:
    """PQ, PC, CE and CU of every file that can be read.

    Args:
        lineup: What is compared.
        config: Whether they are wanted, and where the weights are.
        root: Where the scores of a file are kept.
        each: Wraps the loop over files that are not known yet.
    """
    if "audiobox" not in config.scorers:
        return Aesthetics(missing=NOT_CHOSEN)
    try:
        weights = identity(config.audiobox_path)
        kept = _kept(lineup, root, weights)
        fresh = {path: place for path, place in kept.items() if not place.is_file()}
        if fresh:
            _score(fresh, config, each)
    except MissingPartError as error:
        return Aesthetics(missing=str(error))
    return Aesthetics(_rows(lineup, kept), weights=weights)


def _kept(lineup: Lineup, root: Path, weights: str) -> dict[Path, Path]:
    """Where the scores of each file that is there belong."""
    files = {path for system in lineup.systems for path in system.files.values() if path.is_file()}
    return {
        path: root / f"{digest('audiobox', VERSION, sha256(path), weights)}.json" for path in sorted(files)
    }


def _score(
    fresh: Mapping[Path, Path], config: EvaluationConfig, each: Callable[[Iterable[Any]], Iterable[Any]]
) -> None:
    predictor = load_audiobox(config.audiobox_path)
    places: list[Path] = []

    def readable() -> Iterator[Audio]:
        for path, place in each(fresh.items()):
            try:
                audio, _ = load_start(path)
            except InputError:  # the report names it where its other scores are missing
                continue
            places.append(place)
            yield audio

    for number, row in enumerate(score(predictor, readable())):
        write_json(places[number], {axis: None if isnan(value) else value for axis, value in row.items()})


def _rows(lineup: Lineup, kept: Mapping[Path, Path]) -> Rows:
    return {
        system.name: {
            track: read_json(kept[path])
            for track, path in system.files.items()
            if path in kept and kept[path].is_file()
        }
        for system in lineup.systems
    }
