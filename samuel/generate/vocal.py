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

from samuel.audio import MOST_PEAK, SAMPLE_RATE, SILENCE_DBFS, Audio, decode_to_wav, read_blocks, read_wav
from samuel.codecs.base import Codec, encode_windows
from samuel.errors import InputError
from samuel.generate.output import explain_no_space, level_db, write_stream
from samuel.separators import Separator

logger = logging.getLogger(__name__)

MOST_IN_MEMORY_S = 15 * 60.0  # 0.3 GB for each copy
MAX_CHANNELS = 8  # of an array: 7.1
MAX_SAMPLES = 2**30 - 2**8  # of all channels, in a float WAV
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

    def read_all(self) -> Audio:
        """Read all of it, (2, S); an InputError where it is over 15 minutes: memory may not do."""
        if self.duration_s > MOST_IN_MEMORY_S:
            most = f"more than the {MOST_IN_MEMORY_S / 60:g} minutes that can be taken as a whole"
            raise InputError(f"lasts {self.duration_s / 60:.1f} minutes, {most}; give a part of it")
        return read_wav(self.path)

    def encode(
        self, codec: Codec, min_frames: int, on_read: Callable[[int, int], object] = lambda *_: None
    ) -> Tensor:
        """Encode it by stretches, (1, C, T) on the CPU; `on_read` gets (samples read, samples in all)."""
        samples = max(self.samples, codec.info.samples(min_frames))

        def read(start: int, stop: int) -> Audio:
            on_read(stop, samples)
            return self.read(start, stop)

        return encode_windows(codec, read, samples)


def vocal_of(
    source: Path | NDArray[Any], workspace: Path, *,
    sample_rate: int = SAMPLE_RATE, length_s: float | None = None,
) -> Vocal:  # fmt: skip
    """Bring any vocal to `workspace` / vocal.wav, whatever its length in little memory.

    It is an audio file, or an array at `sample_rate`: (S,), or (C', S) or (S, C'), where the axis of at most
    8 entries holds the channels; float has full scale at 1. `length_s` takes so much from the beginning.
    A silent vocal is logged as a warning; what is no audio, empty, longer than three hours, not finite or not
    scaled to [-1, 1] is an InputError.
    """
    if length_s is not None and not 1 / SAMPLE_RATE <= length_s < math.inf:
        raise InputError(f"length_s = {length_s}: give the seconds to take from the beginning, more than 0")
    target, given = workspace / "vocal.wav", workspace / "array.wav"
    file = source if isinstance(source, Path) else given
    with explain_no_space(target):
        if not isinstance(source, Path):
            write_stream(given, [_samples_of(source, sample_rate, length_s)], int(sample_rate))
        decode_to_wav(file, target, length_s or math.inf, cut=length_s is not None)
        given.unlink(missing_ok=True)
    return _checked(target, str(file) if file is source else ARRAY)


def vocal_from_mix(vocal: Vocal, separator: Separator, workspace: Path) -> Vocal:
    """Separate the vocals of what is a mix into `workspace` / vocals.wav; the whole is held in memory."""
    target = workspace / "vocals.wav"
    write_stream(target, [separator.vocals(vocal.read_all())])
    return _checked(target, f"the vocals of the mix, by {separator.identity}")


def _samples_of(array: NDArray[Any], sample_rate: int, length_s: float | None) -> Audio:
    """(C', S) float32 of samples of any type and layout, at most a second more than is wanted of them."""
    if not 1_000 <= sample_rate <= 768_000 or sample_rate != int(sample_rate):
        raise InputError(f"sample_rate = {sample_rate}: give a whole number from 1000 to 768000 Hz")
    frames = np.atleast_2d(np.asarray(array))
    if frames.dtype not in (np.int16, np.int32) and frames.dtype.kind != "f":
        raise InputError(f"{ARRAY} is of type {frames.dtype}; give float in [-1, 1], int16 or int32")
    if frames.ndim != 2 or not 0 < min(frames.shape) <= MAX_CHANNELS < max(frames.shape):
        raise InputError(f"{ARRAY} has shape {frames.shape}; give (samples,) or (channels, samples)")
    samples = frames.T if frames.shape[1] <= MAX_CHANNELS else frames
    samples = samples[:, : math.ceil((length_s + 1.0) * sample_rate) if length_s else None]
    if samples.size >= MAX_SAMPLES:
        raise InputError(f"{ARRAY} takes {4 * samples.size / 1e9:.1f} GB; give it as a file")
    if frames.dtype.kind == "i":
        return samples.astype(np.float32) / -float(np.iinfo(frames.dtype).min)
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
        return samples.astype(np.float32)


def _checked(path: Path, name: str) -> Vocal:
    """A vocal whose samples can be one; silence is warned of."""
    vocal = Vocal(path, soundfile.info(path).frames)
    if vocal.samples == 0:
        raise InputError(f"{name}: holds no samples; give a vocal of at least a second")
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
