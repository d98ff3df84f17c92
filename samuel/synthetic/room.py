"""Placing sounds in a stereo picture: tracks, panning, levels, reverberation. S is a number of samples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, oaconvolve

from samuel.audio import SAMPLE_RATE, Audio

Signal = NDArray[np.float32]  # (S,), one channel


class Track:
    """A stereo canvas on which mono sounds are placed."""

    def __init__(self, duration_s: float) -> None:
        self.audio: Audio = np.zeros((2, round(duration_s * SAMPLE_RATE)), np.float32)

    def add(self, start_s: float, sound: Signal, gain: float = 1.0, pan: float = 0.0) -> None:
        """Add `sound` (S,) from `start_s` on; `pan` from -1 (left) to 1, at constant power."""
        start = max(round(start_s * SAMPLE_RATE), 0)
        stop = max(start, min(start + sound.size, self.audio.shape[1]))
        angle = (pan + 1.0) * np.pi / 4.0
        for channel, weight in enumerate((np.cos(angle), np.sin(angle))):
            self.audio[channel, start:stop] += np.float32(gain * weight) * sound[: stop - start]


def hertz(pitch: Any) -> Any:
    """Frequency of a MIDI pitch, a number or an array of them."""
    return 440.0 * 2.0 ** ((pitch - 69) / 12)


def mono(audio: Audio) -> Signal:
    """Mean of the channels: (2, S) to (S,)."""
    return np.float32(0.5) * (audio[0] + audio[1])


def loudness(audio: Audio) -> float:
    """Root mean square of the frames (50 ms) that are not silent, linear; 0 for silence."""
    hop = SAMPLE_RATE // 20
    frames = mono(audio[:, : audio.shape[1] // hop * hop]).reshape(-1, hop)
    power = np.einsum("ij,ij->i", frames, frames) / hop
    audible = power[power > 1e-4 * power.max(initial=0.0)]
    return float(np.sqrt(audible.mean())) if audible.size else 0.0


def reverberation(rng: np.random.Generator, send: Signal, decay_s: float, predelay_s: float) -> Audio:
    """The diffuse sound of a room at half the rate: `send` (S,) to (2, S); 60 dB fall in `decay_s`."""
    rate = SAMPLE_RATE // 2
    t = np.arange(round(decay_s * rate)) / rate
    echoes = rng.standard_normal((2, t.size)) * np.exp(-np.log(1000.0) * t / decay_s)
    dark = np.asarray(lfilter([0.4], [1.0, -0.6], echoes, axis=1))
    dark /= np.sqrt(np.sum(np.square(echoes), axis=1, keepdims=True))
    impulse = np.pad(dark, ((0, 0), (round(predelay_s * rate), 0))).astype(np.float32)
    halved = np.pad(send, (0, send.size % 2)).reshape(1, -1, 2).mean(axis=2)
    wet = np.asarray(oaconvolve(halved, impulse, axes=1), np.float32)[:, : halved.size + 1]
    between = np.float32(0.5) * (wet[:, :-1] + wet[:, 1:])
    return np.stack([wet[:, :-1], between], axis=2).reshape(2, -1)[:, : send.size]
