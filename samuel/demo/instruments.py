"""Pitched instruments: a MIDI pitch and a length in seconds give a mono note, (S,), a pure function."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE
from samuel.demo.room import Signal

BRIGHTEST_HZ = 9_000.0
RELEASE_S = 0.08

Instrument = Callable[[int, float], Signal]


def pluck(pitch: int, length_s: float) -> Signal:
    """A steel string plucked at a fifth of its length; high partials die first."""
    n = _harmonics(pitch, 28)
    return _note(pitch, length_s, np.sin(np.pi * n / 5.0) / n**1.2, decay=0.9, damping=0.5)


def nylon(pitch: int, length_s: float) -> Signal:
    """A soft string plucked near its middle."""
    n = _harmonics(pitch, 14)
    return _note(pitch, length_s, np.sin(np.pi * n / 2.6) / n**1.7, decay=1.6, damping=0.8)


def pad(pitch: int, length_s: float) -> Signal:
    """Three detuned saws through a dark filter, slow to speak."""
    n = _harmonics(pitch, 16)
    amplitudes = np.exp(-n * _hertz(pitch) / 1600.0) / n
    voices = [_partials(_time(length_s + 0.3), _hertz(pitch) * d, amplitudes) for d in (0.9965, 1.0, 1.0041)]
    return _shaped(np.sum(voices, axis=0), attack_s=0.18, release_s=0.4)


def strings(pitch: int, length_s: float) -> Signal:
    """Bowed strings: a bright saw with a moderate attack and a light vibrato."""
    n = _harmonics(pitch, 22)
    amplitudes = np.exp(-n * _hertz(pitch) / 3500.0) / n
    t = _time(length_s + 0.2)
    voices = [
        _partials(t + 4e-5 * depth * np.sin(2.0 * np.pi * rate * t), _hertz(pitch) * detune, amplitudes)
        for detune, rate, depth in ((0.998, 5.1, 1.0), (1.0025, 4.6, 1.3))
    ]
    return _shaped(np.sum(voices, axis=0), attack_s=0.09, release_s=0.25)


def electric_piano(pitch: int, length_s: float) -> Signal:
    """Frequency modulation (Chowning 1973): a bark that mellows, and a tine that pings."""
    t, f = _time(length_s + RELEASE_S), _hertz(pitch)
    phase = 2.0 * np.pi * f * t
    body = np.sin(phase + 1.6 * np.exp(-t / 0.35) * np.sin(phase)) * np.exp(-t / 1.4)
    tine = 0.12 * np.sin(phase + 0.8 * np.sin(14.0 * phase)) * np.exp(-t / 0.09) if f < 800 else 0.0
    tremolo = 1.0 + 0.12 * np.sin(2.0 * np.pi * 4.8 * t)
    return _shaped((body + tine) * tremolo, attack_s=0.003, release_s=RELEASE_S)


def organ(pitch: int, length_s: float) -> Signal:
    """Drawbars 888 6 4 through a slow rotor."""
    drawbars = np.array([0.8, 0.8, 0.8, 0.6, 0.0, 0.4, 0.0, 0.3])
    t = _time(length_s + RELEASE_S)
    turning = t + 5e-5 * np.sin(2.0 * np.pi * 1.1 * t)
    sound = _partials(turning, _hertz(pitch), drawbars) * (1.0 + 0.1 * np.sin(2.0 * np.pi * 1.1 * t))
    return _shaped(sound, attack_s=0.008, release_s=0.06)


def flute(pitch: int, length_s: float) -> Signal:
    """A lead with few partials and a vibrato that grows."""
    t = _time(length_s + RELEASE_S)
    wobble = 3e-4 * np.clip(t - 0.2, 0.0, 0.5) * np.sin(2.0 * np.pi * 4.9 * t)
    sound = _partials(t + wobble, _hertz(pitch), np.array([1.0, 0.35, 0.16, 0.05]))
    return _shaped(sound, attack_s=0.05, release_s=0.08)


def synth_lead(pitch: int, length_s: float) -> Signal:
    """A square-like lead, bright at first."""
    n = _harmonics(pitch, 24)
    amplitudes = np.where(n % 2 == 1, 1.0, 0.25) / n
    return _note(pitch, length_s, amplitudes, decay=0.4, damping=0.12)


def finger_bass(pitch: int, length_s: float) -> Signal:
    """An electric bass played with the fingers."""
    n = _harmonics(pitch, 18)
    return _note(pitch, length_s, np.sin(np.pi * n / 3.7) / n**1.3, decay=0.7, damping=0.45)


def sub_bass(pitch: int, length_s: float) -> Signal:
    """A round synthetic bass with a little growl."""
    n = _harmonics(pitch, 10)
    return _note(pitch, length_s, 1.0 / n**2.2, decay=0.25, damping=0.15)


def saw_bass(pitch: int, length_s: float) -> Signal:
    """A plucked saw, its filter closing."""
    n = _harmonics(pitch, 30)
    return _note(pitch, length_s, np.exp(-n * _hertz(pitch) / 1800.0) / n, decay=0.6, damping=0.7)


CHORDS: dict[str, Instrument] = {
    "pluck": pluck, "nylon": nylon, "electric_piano": electric_piano, "organ": organ,
}  # fmt: skip
BEDS: dict[str, Instrument] = {"pad": pad, "strings": strings, "organ": organ}
LEADS: dict[str, Instrument] = {"flute": flute, "synth_lead": synth_lead, "pluck": pluck}
BASSES: dict[str, Instrument] = {"finger": finger_bass, "sub": sub_bass, "saw": saw_bass}


def _note(
    pitch: int, length_s: float, amplitudes: NDArray[np.float64], decay: float, damping: float
) -> Signal:
    """A struck tone: partial n dies at rate `decay` + n `damping`, in 1/s."""
    t = _time(length_s + RELEASE_S)
    sound = _partials(t, _hertz(pitch), amplitudes, damping) * np.exp(-decay * t)
    return _shaped(sound, attack_s=0.004, release_s=RELEASE_S)


def _partials(
    t: NDArray[np.float64], f0_hz: float, amplitudes: NDArray[np.float64], damping: float = 0.0
) -> NDArray[np.float64]:
    """Sum over n of a_n exp(-n damping t) sin(2π n f0 t): by Horner's rule it costs one exponential."""
    step = np.exp((2j * np.pi * f0_hz - damping) * t).astype(np.complex64)
    total = np.zeros_like(step)
    for amplitude in amplitudes[::-1]:
        total += np.complex64(amplitude)
        total *= step
    return total.imag.astype(np.float64)


def _shaped(sound: NDArray[np.float64], attack_s: float, release_s: float) -> Signal:
    t = np.arange(sound.size) / SAMPLE_RATE
    envelope = np.minimum(1.0, t / attack_s) * np.minimum(1.0, (t[-1] - t) / release_s)
    return (sound * envelope).astype(np.float32)


def _harmonics(pitch: int, most: int) -> NDArray[np.float64]:
    return np.arange(1.0, min(most, int(BRIGHTEST_HZ / _hertz(pitch))) + 1)


def _time(length_s: float) -> NDArray[np.float64]:
    return np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE


def _hertz(pitch: int) -> float:
    return 440.0 * 2.0 ** ((pitch - 69) / 12)
