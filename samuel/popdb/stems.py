"""The two stems of a song on disk: 24-bit FLAC, whose sum is the song to the last bit.

Song and vocals are rounded to one grid, and the accompaniment is the difference of the two on that grid. What
overshoots full scale is stored at a half, a quarter, …: `stems_scale` of the entry's record.
"""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from samuel.audio import CHANNELS, SAMPLE_RATE, Audio
from samuel.errors import InputError

VOCALS = "vocals.flac"
ACCOMPANIMENT = "accompaniment.flac"
FULL_SCALE = 2**23
"""Of 24 bits."""

Grid = NDArray[np.int32]


def write_stems(mix: Audio, vocals: Audio, folder: Path) -> float:
    """Write `vocals.flac` and `accompaniment.flac`, the mix less the vocals; the scale they are stored at.

    Args:
        mix: (2, S) float32, finite.
        vocals: (2, S) float32, finite.
        folder: Where they go.
    """
    highest = max(float(np.abs(signal).max()) for signal in (mix, vocals, mix - vocals))
    scale = 1.0
    while highest * scale * FULL_SCALE > FULL_SCALE - 2:  # two roundings meet in the difference
        scale /= 2
    sung = _on_grid(vocals, scale)
    _write(folder / VOCALS, sung)
    _write(folder / ACCOMPANIMENT, _on_grid(mix, scale) - sung)
    return scale


def read_stems(folder: Path, scale: float) -> tuple[Audio, Audio]:
    """Vocals and accompaniment, each (2, S) float32; their sum is exact in float32.

    Args:
        folder: Where `write_stems` wrote them.
        scale: What it returned.

    Raises:
        InputError: A file is absent or damaged, or they are no pair.
    """
    vocals, accompaniment = _read(folder / VOCALS, scale), _read(folder / ACCOMPANIMENT, scale)
    if vocals.shape != accompaniment.shape:
        raise InputError(f"{folder}: stems of different length; remove the folder, and they are made again")
    return vocals, accompaniment


def _on_grid(audio: Audio, scale: float) -> Grid:
    return np.rint(audio * np.float32(scale * FULL_SCALE)).astype(np.int32)


def _write(path: Path, grid: Grid) -> None:
    # libsndfile takes the upper 24 of 32 bits.
    soundfile.write(path, grid.T << 8, SAMPLE_RATE, format="FLAC", subtype="PCM_24")


def _read(path: Path, scale: float) -> Audio:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path}: not readable ({error}); remove its folder to have it made again"
        ) from error
    if rate != SAMPLE_RATE or samples.shape[1] != CHANNELS:
        raise InputError(f"{path}: {rate} Hz, {samples.shape[1]} channels; expected {SAMPLE_RATE} Hz stereo")
    return np.ascontiguousarray(samples.T) / np.float32(scale)
