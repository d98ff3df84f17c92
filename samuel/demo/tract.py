"""Source and filter of the singing voice: a glottal wavetable and the resonances of a vocal tract.

Shapes: S samples, F frames of `HOP` samples, B frequency bins, K formants.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft

from samuel.audio import SAMPLE_RATE
from samuel.demo.room import Signal

HOP = 512
WINDOW = 2 * HOP
FFT = 2 * WINDOW  # room for the filter's ringing
FREQUENCIES = np.fft.rfftfreq(FFT, 1.0 / SAMPLE_RATE)

TABLE = 2048
HIGHEST_HZ = 15_000.0  # no harmonic above: nothing folds back
FEWEST_HARMONICS = 16
LEVEL_STEP = 100  # samples between changes of the table

# Formants of an adult male in Hz (Peterson and Barney 1952 for the first three).
VOWELS: dict[str, tuple[float, ...]] = {
    "a": (730, 1090, 2440, 3300, 4200),
    "ae": (660, 1720, 2410, 3400, 4200),
    "e": (530, 1840, 2480, 3500, 4300),
    "i": (300, 2290, 3010, 3600, 4400),
    "o": (570, 840, 2410, 3200, 4100),
    "u": (320, 870, 2240, 3200, 4100),
    "er": (490, 1350, 1750, 3200, 4200),
}
NASAL = (270.0, 1150.0, 2250.0, 3200.0, 4100.0)
NEUTRAL = (500.0, 1500.0, 2500.0, 3500.0, 4500.0)
BANDWIDTHS = (80.0, 95.0, 130.0, 190.0, 260.0)


@dataclass(frozen=True)
class Tract:
    """A vocal tract.

    Attributes:
        scale: Factor on every formant; above 1 for a shorter tract than the male average.
        tilt_hz: Corner of the glottal low-pass; lower is a softer voice.
    """

    scale: float
    tilt_hz: float

    def response(self, formants: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Transfer function of resonators in cascade (Fant 1960): (F, K) formants in Hz to (F, B).

        Each resonator is F² / (F² - f² + i f B). The tract has resonances beyond the K that move; without
        them the treble would fall away far too steeply.
        """
        f = FREQUENCIES.astype(np.float32) / 1000  # kHz: the product of five squares stays within float32
        squares = np.square(formants / 1000).astype(np.float32)
        denominator = np.ones((len(formants), f.size), np.complex64)
        for k, bandwidth in enumerate(BANDWIDTHS):
            denominator *= squares[:, k, np.newaxis] - (f**2 - np.complex64(1j * bandwidth / 1000) * f)
        return self._fixed(formants.shape[1]) * squares.prod(axis=1, keepdims=True) / denominator

    def _fixed(self, first: int) -> NDArray[np.complex64]:
        """Glottal tilt and the resonances above the moving ones, (B,)."""
        f = FREQUENCIES
        response = 1.0 / (1.0 + 1j * f / self.tilt_hz)
        for k in range(first, 16):
            centre = self.scale * (2 * k + 1) * 500.0
            response = response * centre**2 / (centre**2 - f**2 + 1j * f * (0.09 * centre))
        return response.astype(np.complex64)


@cache
def glottal_tables() -> NDArray[np.float64]:
    """The derivative of the glottal flow (Klatt and Klatt 1990), band-limited: (levels, TABLE + 1).

    Each level holds √2 times the harmonics of the one before; its last sample repeats its first.
    """
    open_quotient = 0.62
    x = np.arange(TABLE) / TABLE
    pulse = np.where(x < open_quotient, 2.0 * open_quotient * x - 3.0 * x**2, 0.0)
    spectrum = np.fft.rfft(pulse)
    spectrum[0] = 0.0
    counts = np.round(FEWEST_HARMONICS * 2.0 ** (np.arange(8) / 2.0))
    kept = np.arange(spectrum.size) <= counts[:, np.newaxis]
    tables = np.fft.irfft(np.where(kept, spectrum, 0.0), axis=1)
    tables /= np.sqrt(np.mean(tables[-1] ** 2))
    return np.concatenate([tables, tables[:, :1]], axis=1)


def glottal_source(f0_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """The voiced source, (S,) with root mean square about 1, for a fundamental (S,) in Hz."""
    tables = glottal_tables()
    place = (np.cumsum(f0_hz) / SAMPLE_RATE) % 1.0 * TABLE
    index = place.astype(np.intp)
    harmonics = HIGHEST_HZ / f0_hz[::LEVEL_STEP] / FEWEST_HARMONICS
    level = np.clip(np.floor(2.0 * np.log2(harmonics)), 0, len(tables) - 1).astype(np.intp)
    index += np.repeat(level * (TABLE + 1), LEVEL_STEP)[: index.size]
    left, right = tables.ravel()[index], tables.ravel()[index + 1]
    return left + (right - left) * (place % 1.0)


def frame_count(samples: int) -> int:
    """Frames that `filtered` needs a response for."""
    return -(-samples // HOP) + 1


def filtered(source: NDArray[np.float64], response: NDArray[np.complex64]) -> Signal:
    """Filter (S,) by a response that changes from frame to frame, (F, B), F = `frame_count(S)`.

    Hann windows that overlap by half sum to 1, so a constant response is an ordinary convolution.
    """
    frames = len(response)
    padded = np.zeros((frames + 1) * HOP, np.float32)
    padded[HOP : HOP + source.size] = source
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
    windowed = sliding_window_view(padded, WINDOW)[::HOP] * window
    spectra = np.asarray(fft.rfft(windowed, FFT, axis=1))
    parts = np.asarray(fft.irfft(spectra * response, FFT, axis=1))
    out = np.zeros((frames + FFT // HOP, HOP), np.float32)
    for j in range(FFT // HOP):
        out[j : j + frames] += parts[:, j * HOP : (j + 1) * HOP]
    return out.ravel()[HOP : HOP + source.size]
