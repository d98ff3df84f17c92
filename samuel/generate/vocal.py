"""Any vocal, file or array, as a WAV that is read piece by piece, and from there as latents.

Shapes: S samples in C' channels at any rate; what comes out is (2, S) at 44.1 kHz, or (1, C, T) latents.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from torch import Tensor

from samuel.audio import SAMPLE_RATE, Audio, decode_to_wav, read_blocks, read_wav
from samuel.codecs.base import Codec, encode_windows
from samuel.errors import InputError
from samuel.generate.output import explain_no_space, level_db, write_stream
from samuel.popdb.stages import MOST_PEAK, SILENCE_DBFS
from samuel.separators import Separator

logger = logging.getLogger(__name__)

MAX_DURATION_S = 3 * 3600.0
"""So that a float WAV of it stays below the 4 GiB that a WAV can hold, and a slip shows before a night."""
MAX_CHANNELS = 8  # of an array: 7.1
RATES_HZ = (1_000, 768_000)
MAX_ARRAY_BYTES = 2**32 - 2**10  # of a float WAV
ARRAY = "the vocal (an array)"


@dataclass(frozen=True)
class Vocal:
    """A vocal on disk: a 44.1 kHz stereo float32 WAV."""

    path: Path
    samples: int  # in each channel

    @property
    def duration_s(self) -> float:
        """Its length."""
        return self.samples / SAMPLE_RATE

    def read(self, start: int, stop: int) -> Audio:
        """Read the samples from `start` to before `stop`, (2, stop - start); silence follows its end."""
        with soundfile.SoundFile(self.path) as file:
            file.seek(min(start, self.samples))
            samples = file.read(stop - start, dtype="float32", always_2d=True, fill_value=0.0)
        return np.ascontiguousarray(samples.T, dtype=np.float32)

    def encode(
        self, codec: Codec, min_frames: int, on_read: Callable[[int, int], object] = lambda *_: None
    ) -> Tensor:
        """Encode it a stretch at a time, to (1, C, T) codec latents on the CPU; it goes on in silence.

        `on_read` gets (samples read, samples in all) before every stretch is encoded.
        """
        samples = max(self.samples, codec.info.samples(min_frames))

        def read(start: int, stop: int) -> Audio:
            on_read(stop, samples)
            return self.read(start, stop)

        return encode_windows(codec, read, samples)


def vocal_of(
    source: Path | NDArray[Any],
    workspace: Path,
    *,
    sample_rate: int = SAMPLE_RATE,
    length_s: float | None = None,
) -> Vocal:
    """Bring any vocal to `workspace` / vocal.wav, whatever its length in little memory.

    It is an audio file, or an array at `sample_rate`: (S,), or (C', S) or (S, C'), where the axis of at most
    8 entries holds the channels. float has full scale at 1; integers of up to 32 bits are brought to it. Only
    `length_s` from the beginning are taken, where it is given. A silent vocal is logged as a warning.

    Raises:
        InputError: It is no audio, damaged, empty or longer than three hours; its samples are NaN, infinite
            or not scaled to [-1, 1]; `sample_rate` or `length_s` is out of range.
        OperatorError: The disk is full, or ffmpeg was stopped from outside.
    """
    if length_s is not None and not 1 / SAMPLE_RATE <= length_s < math.inf:
        raise InputError(f"length_s = {length_s}: give the seconds to take from the beginning, more than 0")
    target = workspace / "vocal.wav"
    with explain_no_space(target):
        if isinstance(source, Path):
            _decode_file(source, target, length_s)
        else:
            _write_array(source, target, sample_rate, length_s)
    return _checked(target, str(source) if isinstance(source, Path) else ARRAY)


def vocal_from_mix(vocal: Vocal, separator: Separator, workspace: Path) -> Vocal:
    """Separate the vocals of what is a mix into `workspace` / vocals.wav; the whole is held in memory.

    Raises:
        InputError: What the separator gives is NaN, infinite or far above full scale.
    """
    target = workspace / "vocals.wav"
    write_stream(target, [separator.vocals(read_wav(vocal.path))])
    return _checked(target, f"the vocals of the mix, by {separator.identity}")


def _decode_file(source: Path, target: Path, length_s: float | None) -> None:
    if not source.is_file():
        raise InputError(
            f"{source}: {'no regular' if source.exists() else 'no such'} file; give an audio file"
        )
    # A second more, by which to know what is longer.
    decode_to_wav(source, target, min(length_s or math.inf, MAX_DURATION_S + 1.0))


def _write_array(array: NDArray[Any], target: Path, sample_rate: int, length_s: float | None) -> None:
    """Write samples of any type, layout and rate as 44.1 kHz stereo float32."""
    low, high = RATES_HZ
    if not low <= sample_rate <= high or sample_rate != int(sample_rate):
        raise InputError(f"sample_rate = {sample_rate}: give a whole number from {low} to {high} Hz")
    frames = np.atleast_2d(np.asarray(array))
    kind, bits = frames.dtype.kind, 8 * frames.dtype.itemsize
    if kind not in "fiu" or (kind != "f" and bits > 32):
        raise InputError(f"{ARRAY} is of type {frames.dtype}; give float in [-1, 1], or integers")
    if frames.ndim != 2 or not 0 < min(frames.shape) <= MAX_CHANNELS < max(frames.shape):
        raise InputError(f"{ARRAY} has shape {frames.shape}; give (samples,) or (channels, samples)")
    frames = frames if frames.shape[1] <= MAX_CHANNELS else frames.T
    if length_s is not None:  # a second more: who resamples looks ahead
        frames = frames[: math.ceil((length_s + 1.0) * sample_rate)]
    if frames.size * 4 > MAX_ARRAY_BYTES:
        raise InputError(f"{ARRAY} takes {frames.size * 4 / 1e9:.1f} GB; give it as a file")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
        samples = frames.T.astype(np.float32)
    if kind != "f":  # a WAV of unsigned bits has its zero in the middle
        half = np.float32(2 ** (bits - 1))
        samples = (samples - half * (kind == "u")) / half
    given = target.with_name("given.wav")
    try:
        write_stream(given, [samples], int(sample_rate))
        _decode_file(given, target, length_s)
    finally:
        given.unlink(missing_ok=True)


def _checked(path: Path, name: str) -> Vocal:
    """A vocal whose samples can be one; silence is warned of."""
    vocal = Vocal(path, soundfile.info(path).frames)
    if vocal.samples == 0:
        raise InputError(f"{name}: holds no samples; give a vocal of at least a second")
    if vocal.duration_s > MAX_DURATION_S:
        hours = f"{MAX_DURATION_S / 3600:g} hours"
        raise InputError(f"{name}: longer than {hours}; cut it, or take its beginning (length_s)")
    peak = power = 0.0
    for block in read_blocks(path):
        peak = float(np.maximum(peak, np.abs(block).max()))
        power += float(np.square(block, dtype=np.float64).mean(axis=0).sum())
    if not math.isfinite(peak):
        raise InputError(f"{name}: holds NaN or infinite samples; export it again")
    if peak > MOST_PEAK:
        raise InputError(f"{name}: samples of up to {peak:g}, where full scale is 1; divide by their scale")
    level_dbfs = level_db(math.sqrt(power / vocal.samples))
    if level_dbfs < SILENCE_DBFS:
        logger.warning("%s: silent (%.1f dBFS): there is nothing in it to follow", name, level_dbfs)
    return vocal
