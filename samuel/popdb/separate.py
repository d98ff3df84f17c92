"""A song → its vocals and everything else (paper §III-C).

Two separators stand behind `load_separator`: `repet`, which needs no weights, and `demucs`, the paper's. The
accompaniment is always the mix less the vocals, so the two stems sum to the song.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from samuel.audio import CHANNELS, SAMPLE_RATE, Audio, dbfs, read_wav, write_wav
from samuel.config import SeparatorConfig
from samuel.errors import MissingPartError, SongError
from samuel.files import digest
from samuel.popdb.status import Status
from samuel.weights import hub_error, quietly, weights_digest

SILENCE_DBFS = -60.0
"""A song below this level has nothing to separate."""

N_FFT = 2048
HOP = 1024
FRAMES_PER_S = SAMPLE_RATE / HOP
NEIGHBOURS = 11
"""Odd, so that the median is one of them."""
SPACING = round(1.0 * FRAMES_PER_S)
"""Frames of a cell that gives at most one neighbour, and the least distance of a neighbour: 1 s."""
CONTEXT = range(-64, 65, 8)
"""Frames whose bands are compared, ±1.5 s: a passage returns where a single frame would not tell."""
BANDS = 32
COMPRESSION = 0.25
"""Exponent on the bands, so that quiet instruments count beside a loud voice."""
HIGH_PASS_HZ = 100.0
"""Nothing below it is taken for a voice."""

Spectrum = NDArray[np.float32]


class Separator(Protocol):
    """Takes the vocals out of a song."""

    @property
    def identity(self) -> str:
        """Short text that changes whenever the stems of the same song would."""
        ...

    def vocals(self, mix: Audio) -> Audio:
        """(2, S) at 44.1 kHz → its vocals, (2, S) float32."""
        ...


def load_separator(config: SeparatorConfig, device: torch.device) -> Separator:
    """The separator that the settings name; `repet` computes on the CPU whatever the device.

    Raises:
        MissingPartError: Its weights are absent, damaged or out of reach.
    """
    if config.name == "repet":
        return RepetSeparator()
    return DemucsSeparator(config.model, config.repo, device)


def separate(separator: Separator, audio_wav: Path, folder: Path) -> dict[str, Any]:
    """Write `vocals.wav` and `accompaniment.wav` (float32) into `folder`; a maker for `make_entry`.

    Returns:
        vocals_dbfs, accompaniment_dbfs and the peak of the mix.

    Raises:
        SongError: silent, or not_finite where the song or its vocals hold a value that is no number.
    """
    mix = read_wav(audio_wav)
    _require_finite(mix, "the song")
    if dbfs(mix) < SILENCE_DBFS:
        raise SongError(Status.SILENT, f"{dbfs(mix):.1f} dBFS, under {SILENCE_DBFS:.0f}")
    vocals = separator.vocals(mix)
    _require_finite(vocals, f"the vocals by {separator.identity}")
    accompaniment = mix - vocals
    write_wav(folder / "vocals.wav", vocals)
    write_wav(folder / "accompaniment.wav", accompaniment)
    return {
        "vocals_dbfs": round(dbfs(vocals), 4),
        "accompaniment_dbfs": round(dbfs(accompaniment), 4),
        "peak": round(float(np.abs(mix).max()), 4),
    }


class DemucsSeparator:
    """Demucs by its own API, without the random shift, so that a song gives the same stems every time."""

    def __init__(self, model: str, repo: Path | None, device: torch.device) -> None:
        self._separator: Any = _load_demucs(model, repo, device)
        network = self._separator.model
        bag = [getattr(network, "weights", None), str(getattr(network, "segment", None))]
        weights = digest(weights_digest(network.state_dict()), bag)
        self.identity = f"demucs/{version('demucs')} {model} shifts=0 overlap=0.25 weights={weights}"

    def vocals(self, mix: Audio) -> Audio:
        """(2, S) → vocals (2, S); normalised by the song's mean and deviation, as demucs does."""
        _, stems = self._separator.separate_tensor(torch.from_numpy(mix), SAMPLE_RATE)
        return np.ascontiguousarray(stems["vocals"].cpu().numpy(), dtype=np.float32)


class RepetSeparator:
    """REPET-SIM (Rafii and Pardo, 2012): what returns is accompaniment, what does not is voice.

    Differs from the paper: neighbours are sought by compressed mel bands over ±1.5 s instead of single
    spectra, one to a second, because that is fast and gains 6 dB on synthetic songs; one mask serves both
    channels.
    """

    identity = (
        f"repet-sim/1 n_fft={N_FFT} hop={HOP} neighbours={NEIGHBOURS} spacing={SPACING}"
        f" context={CONTEXT.stop - 1}/{CONTEXT.step} bands={BANDS}^{COMPRESSION} high_pass={HIGH_PASS_HZ:.0f}"
    )

    def vocals(self, mix: Audio) -> Audio:
        """(2, S) → what does not repeat, (2, S)."""
        import librosa

        whole = np.pad(mix, ((0, 0), (0, max(N_FFT - mix.shape[1], 0))))
        spectra = librosa.stft(whole, n_fft=N_FFT, hop_length=HOP)
        magnitude = np.ascontiguousarray(np.abs(spectra).mean(axis=0).T)
        repeating = _repeating(magnitude, _neighbours(_passages(magnitude)))
        mask = librosa.util.softmask(magnitude - repeating, repeating, power=2)
        mask[:, : round(HIGH_PASS_HZ * N_FFT / SAMPLE_RATE) + 1] = 0.0
        sung = librosa.istft(spectra * mask.T, hop_length=HOP, length=mix.shape[1])
        return np.ascontiguousarray(sung, dtype=np.float32)


def _load_demucs(model: str, repo: Path | None, device: torch.device) -> Any:
    if repo is not None and not repo.is_dir():
        raise MissingPartError(f"{repo}: no such folder; separator.repo must hold demucs weights")
    # A bare name would fall back to an old address that has no timeout and brings pickles.
    name = model if repo is not None or model.startswith("hf://") else f"hf://{model}"
    try:
        with quietly():
            from demucs.api import Separator as Api

            separator = Api(model=name, repo=repo, device=str(device), shifts=0, overlap=0.25)
    except (Exception, SystemExit) as error:  # demucs exits where the package diffq is missing
        raise _refusal(error, model, repo) from error
    network = separator.model
    if "vocals" not in network.sources or (network.samplerate, network.audio_channels) != (
        SAMPLE_RATE,
        CHANNELS,
    ):
        raise MissingPartError(f"demucs {model}: no 44.1 kHz stereo model with a source named 'vocals'")
    return separator


def _refusal(error: BaseException, model: str, repo: Path | None) -> Exception:
    if repo is None:
        remedy = "or set separator.repo to a folder with its weights, or separator.name to 'repet'"
        fault = error if isinstance(error, Exception) else RuntimeError(f"demucs stopped: {error}")
        return hub_error(fault, f"demucs {model}", remedy)
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return MissingPartError(f"{repo}: demucs cannot load {model!r} ({reason}); fetch its weights again")


def _require_finite(audio: Audio, what: str) -> None:
    if not np.isfinite(audio).all():
        raise SongError(Status.NOT_FINITE, f"{what}: samples that are no numbers")


def _passages(magnitude: Spectrum) -> Spectrum:
    """(T, F) magnitudes → (T, C) unit vectors, each the mel bands of the frames around its own."""
    import librosa

    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=BANDS)
    compressed = (magnitude @ bands.T) ** COMPRESSION
    reach, frames = CONTEXT.stop - 1, len(compressed)
    padded = np.pad(compressed, ((reach, reach), (0, 0)))
    passages = np.concatenate([padded[reach + o : reach + o + frames] for o in CONTEXT], axis=1)
    return passages / (np.linalg.norm(passages, axis=1, keepdims=True) + 1e-6)


def _neighbours(passages: Spectrum) -> NDArray[np.intp]:
    """(T, C) → (T, K): the likest frames elsewhere, at most one in each cell of SPACING frames."""
    frames = len(passages)
    cells = -(-frames // SPACING)
    count = min(NEIGHBOURS, cells)
    found = np.empty((frames, count), dtype=np.intp)
    # In blocks: the whole matrix of likeness takes 6 GB for a song of 15 minutes.
    for start in range(0, frames, 1024):
        rows = np.arange(start, min(start + 1024, frames))
        likeness = np.full((len(rows), cells * SPACING), -2.0, dtype=np.float32)
        likeness[:, :frames] = passages[rows] @ passages.T
        near = np.abs(rows[:, None] - np.arange(frames)) < SPACING
        likeness[:, :frames][near] = -1.0
        in_cells = likeness.reshape(len(rows), cells, SPACING)
        chosen = np.argpartition(-in_cells.max(axis=2), count - 1, axis=1)[:, :count]
        within = np.take_along_axis(in_cells, chosen[..., None], axis=1).argmax(axis=2)
        found[rows] = chosen * SPACING + within
    return found


def _repeating(magnitude: Spectrum, neighbours: NDArray[np.intp]) -> Spectrum:
    """(T, F): the median of each frame's neighbours, and never more than the frame itself."""
    repeating = np.empty_like(magnitude)
    for start in range(0, len(magnitude), 256):
        block = slice(start, start + 256)
        repeating[block] = _median([magnitude[column] for column in neighbours[block].T])
    return np.minimum(repeating, magnitude)


def _median(values: list[Spectrum]) -> Spectrum:
    """Element by element, the middle of equally shaped arrays, which are overwritten.

    By odd-even transposition: whole arrays at a time, ten times as fast as `numpy.median` along an axis.
    """
    for turn in range(len(values)):
        for i in range(turn % 2, len(values) - 1, 2):
            lower = np.minimum(values[i], values[i + 1])
            np.maximum(values[i], values[i + 1], out=values[i + 1])
            values[i] = lower
    return values[len(values) // 2]
