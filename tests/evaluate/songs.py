"""Small songs with a vocal and an accompaniment that belong together: a tune over chords and clicks."""

from pathlib import Path

import numpy as np

from samuel.audio import SAMPLE_RATE, Audio, write_wav

TUNE = (0, 4, 5, 7, 4, 2, 7, 0)
ROOTS = (0, 0, 5, 0, 0, 7, 7, 0)  # tonic, subdominant and dominant, to go with it


def tune(tonic: int, beat_s: float, seconds: float) -> Audio:
    """A voice: one note a beat, with harmonics and a breath before each."""
    return _notes([[tonic + step] for step in TUNE], beat_s, seconds, harmonics=6)


def band(tonic: int, beat_s: float, seconds: float) -> Audio:
    """Chords an octave below on every beat, with a click."""
    chords = [[tonic - 12 + root + third for third in (0, 4, 7)] for root in ROOTS]
    played = _notes(chords, beat_s, seconds, harmonics=3)
    clicks = np.random.default_rng(0).normal(size=400) * np.exp(-np.arange(400) / 80)
    for start in range(0, played.shape[1] - 400, int(beat_s * SAMPLE_RATE)):
        played[:, start : start + 400] += (0.4 * clicks).astype(np.float32)
    return np.clip(played, -0.95, 0.95)


def write_songs(folder: Path, count: int, seconds: float = 12.0) -> None:
    """`vocals` and `true` with songs of different keys and tempi: a, b, c, …"""
    for name in ("vocals", "true"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        tonic, beat_s = 57 + 3 * number % 10, 0.42 + 0.055 * number
        name = f"{chr(ord('a') + number)}.wav"
        write_wav(folder / "vocals" / name, tune(tonic, beat_s, seconds), "PCM_16")
        write_wav(folder / "true" / name, band(tonic, beat_s, seconds), "PCM_16")


def _notes(steps: list[list[int]], beat_s: float, seconds: float, harmonics: int) -> Audio:
    audio = np.zeros(int(seconds * SAMPLE_RATE))
    length = int(beat_s * SAMPLE_RATE)
    time_s = np.arange(int(0.9 * length)) / SAMPLE_RATE
    envelope = np.minimum(1.0, np.minimum(time_s / 0.01, (time_s[-1] - time_s) / 0.05))
    for beat, start in enumerate(range(0, audio.size - length, length)):
        for pitch in steps[beat % len(steps)]:
            hertz = 440.0 * 2 ** ((pitch - 69) / 12)
            for harmonic in range(1, harmonics + 1):
                wave = np.sin(2 * np.pi * harmonic * hertz * time_s) / harmonic
                audio[start : start + time_s.size] += 0.15 * envelope * wave
    return np.stack([audio, audio]).astype(np.float32)
