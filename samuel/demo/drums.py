"""Drums: a kit drawn for the song, and grooves of sixteen steps a bar."""

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfilt

from samuel.audio import SAMPLE_RATE
from samuel.demo.room import Signal

Kit = dict[str, Signal]

PANS = {"kick": 0.0, "snare": 0.05, "hat": 0.3, "open": 0.3, "crash": -0.4, "tom": -0.3, "low_tom": 0.4}


@dataclass(frozen=True)
class Groove:
    """Steps of a bar, 'x' a stroke, 'o' a soft one, for the verse and for the chorus."""

    kick: str
    snare: str
    hat: str
    loud_kick: str
    loud_hat: str


GROOVES = (
    Groove(
        "x.......x.......", "....x.......x...", "x.o.x.o.x.o.x.o.", "x.....x.x.......", "x.x.x.x.x.x.x.x."
    ),
    Groove(
        "x...x...x...x...", "....x.......x...", "..x...x...x...x.", "x...x...x...x...", "o.x.o.x.o.x.o.x."
    ),
    Groove(
        "x.........x.....", "........x.......", "x...o...x...o...", "x.....x...x.....", "x.o.x.o.x.o.x.o."
    ),
    Groove(
        "x..x......x.....", "....x..o.o..x..o", "xoxoxoxoxoxoxoxo", "x..x..x...x..x..", "xoxoxoxoxoxoxoxo"
    ),
    Groove(
        "x......xx.......", "....x.......x...", "x.x.x.x.x.x.x.x.", "x......xx.x.....", "xoxoxoxoxoxoxoxo"
    ),
    Groove(
        "x.....x.....x...", "....o.......x...", "x.ox.ox.x.ox.ox.", "x.....x...x.x...", "x.xx.xx.x.xx.xx."
    ),
)
FILLS = (
    (("snare", "..........x.x.xx"),),
    (("snare", "........xx......"), ("tom", "..........xx...."), ("low_tom", "............x.x.")),
    (("tom", "........x..x...."), ("low_tom", "............x..x")),
    (("snare", "........oooooxxx"),),
)


def draw_kit(rng: np.random.Generator) -> Kit:
    """The hits of a kit, each (S,) with a peak of about 1."""
    return {
        "kick": _drum(rng, f_hz=rng.uniform(44, 58), sweep=rng.uniform(2.0, 4.0), decay_s=0.14, noise=0.05),
        "snare": _snare(rng, f_hz=rng.uniform(165, 230), decay_s=rng.uniform(0.06, 0.13)),
        "hat": _cymbal(rng, decay_s=rng.uniform(0.012, 0.03), low_hz=7000),
        "open": _cymbal(rng, decay_s=0.12, low_hz=6500),
        "crash": _cymbal(rng, decay_s=0.5, low_hz=3500),
        "tom": _drum(rng, f_hz=rng.uniform(120, 150), sweep=0.6, decay_s=0.16, noise=0.04),
        "low_tom": _drum(rng, f_hz=rng.uniform(75, 95), sweep=0.6, decay_s=0.2, noise=0.04),
    }


def _drum(rng: np.random.Generator, f_hz: float, sweep: float, decay_s: float, noise: float) -> Signal:
    """A skin: a sine that falls to `f_hz` from (1 + sweep) times as high, with a click."""
    t = _time(6.0 * decay_s)
    phase = 2.0 * np.pi * f_hz * (t + sweep * 0.03 * (1.0 - np.exp(-t / 0.03)))
    click = noise * rng.standard_normal(t.size) * np.exp(-t / 0.004)
    return _peaked(np.sin(phase) * np.exp(-t / decay_s) + click)


def _snare(rng: np.random.Generator, f_hz: float, decay_s: float) -> Signal:
    t = _time(6.0 * decay_s)
    skin = np.sin(2.0 * np.pi * f_hz * (t + 0.01 * (1.0 - np.exp(-t / 0.01)))) * np.exp(-t / 0.07)
    wires = _band(rng.standard_normal(t.size), 1200.0, 9000.0) * np.exp(-t / decay_s)
    return _peaked(0.7 * skin + wires)


def _cymbal(rng: np.random.Generator, decay_s: float, low_hz: float) -> Signal:
    t = _time(6.0 * decay_s)
    return _peaked(_band(rng.standard_normal(t.size), low_hz, 16_000.0) * np.exp(-t / decay_s))


def _band(sound: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    sections = butter(2, (low_hz, high_hz), btype="bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(sosfilt(sections, sound))


def _peaked(sound: np.ndarray) -> Signal:
    fade = np.minimum(1.0, np.arange(sound.size)[::-1] / 200.0)
    return (sound * fade / np.abs(sound).max()).astype(np.float32)


def _time(length_s: float) -> np.ndarray:
    return np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE
