"""What the scores of `following` need to know of one audio, measured once.

Everything is measured on the mean of both channels at 22.05 kHz, every 512 samples (23 ms), the chroma at
every fourth of these frames. Legend: S samples at 44.1 kHz, F frames, G = ceil(F / 4) frames of the chroma.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samuel.audio import CHANNELS, SAMPLE_RATE, Audio
from samuel.errors import InputError

Floats = NDArray[np.float32]

RATE = 22_050
HOP = 512
ONSET_FFT = 2048
CHROMA_EVERY = 4  # of the frames: 93 ms
CHROMA_FFT = 8192
CHROMA_CENTRE, CHROMA_WIDTH = 4.5, 1.0
"""Octaves above 27.5 Hz: a partial an octave away from 622 Hz weighs e^-½. Of twelve choices of centre, width
and power this one told true from shuffled pairs of 40 synthetic songs best."""
MELS = 128
BLOCK = 512  # frames that are in memory as spectra at a time, at most 17 MB
TEMPO_WINDOW_S = 8.0  # librosa's own

SILENCE_DBFS = -60.0
SUNG_BELOW_PEAK_DB = 40.0
"""Somebody sings in a frame that is no further than this below the loudest."""
STILL = 1e-6
"""Onset strengths that deviate by less, in dB, are rounding errors of a signal that never changes."""

TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
"""How well each pitch class fits a key, from the tonic: Krumhansl and Kessler, "Tracing the dynamic changes
in perceived tonal organization in a spatial representation of musical keys" (1982)."""


@dataclass(frozen=True)
class Features:
    """What all scores need to know of one audio: 42 kB for 47.55 s.

    Attributes:
        chroma: (12, G), from C; the strongest pitch class of a frame is 1, a silent frame is 0.
        level_db: (F,) level of each frame in dB relative to full scale.
        onsets: (F,) onset strength: mean rise of 128 mel bands, in dB, as librosa defines it.
        beats_s: Tracked beats, ascending, in seconds.
        key: The key that `key_of` hears, e.g. "A minor"; None where there is no pitch.
        duration_s: Length of the audio.
    """

    chroma: Floats
    level_db: Floats
    onsets: Floats
    beats_s: NDArray[np.float64]
    key: str | None
    duration_s: float

    @property
    def silent(self) -> bool:
        """Whether no frame is above -60 dB relative to full scale."""
        return not bool(np.any(self.level_db > SILENCE_DBFS))

    @property
    def sung(self) -> NDArray[np.bool_]:
        """(F,) frames in which somebody sings, where this is a vocal."""
        return self.level_db > max(float(self.level_db.max()) - SUNG_BELOW_PEAK_DB, SILENCE_DBFS)


def features(audio: Audio) -> Features:
    """Measure one audio of any length, in about as much memory as it takes itself.

    Its mean is taken out first: a constant is silence. The chroma is that of magnitudes, not of powers, on
    the grid of A = 440 Hz: voice and band are held to the same grid, and a song a quarter of a tone off it
    loses an eighth of its likeness. Beats are librosa's (Ellis, "Beat tracking by dynamic programming",
    2007), found in this audio alone.

    Args:
        audio: (2, S) float32 at 44.1 kHz.

    Raises:
        InputError: It is not (2, S), or holds NaN or infinite numbers.
    """
    mono = _mono(audio)
    onsets, level_db = _onsets(mono)
    chroma = _chroma(mono, level_db[::CHROMA_EVERY])
    silent = not np.any(level_db > SILENCE_DBFS)
    beats_s = np.zeros(0) if silent else _beats(onsets)
    return Features(chroma, level_db, onsets, beats_s, key_of(chroma), audio.shape[1] / SAMPLE_RATE)


def key_of(chroma: Floats) -> str | None:
    """The key whose profile correlates best with the mean chroma (Krumhansl and Schmuckler's method).

    Args:
        chroma: (12, G), from C.

    Returns:
        Tonic and mode, e.g. "F# minor"; None where no pitch class stands out.
    """
    mean = chroma.mean(axis=1, dtype=np.float64)
    if np.ptp(mean) < STILL:
        return None
    keys = [(tonic, mode) for mode in PROFILES for tonic in range(12)]
    fits = [np.corrcoef(np.roll(PROFILES[mode], tonic), mean)[0, 1] for tonic, mode in keys]
    tonic, mode = keys[int(np.argmax(fits))]
    return f"{TONICS[tonic]} {mode}"


def _mono(audio: Audio) -> Floats:
    """(2, S) at 44.1 kHz → mean of both channels at 22.05 kHz, without its own mean."""
    import librosa

    if audio.ndim != 2 or audio.shape[0] != CHANNELS:
        raise InputError(f"audio of shape {audio.shape}; (2, samples) is needed")
    if not np.isfinite(audio).all():
        raise InputError("the audio holds NaN or infinite numbers; export it again")
    if not audio.size:
        return np.zeros(0, dtype=np.float32)
    mono = 0.5 * audio[0] + 0.5 * audio[1]
    mono /= max(1.0, float(mono.max()), -float(mono.min()))  # a float file may hold what has no square
    mono -= np.float32(mono.mean(dtype=np.float64))
    return librosa.resample(mono, orig_sr=SAMPLE_RATE, target_sr=RATE)


def _blocks(mono: Floats, n_fft: int, hop: int) -> Iterator[Floats]:
    """Successive magnitude spectra (1 + n_fft / 2, frames): together those of librosa's centred `stft`."""
    import librosa

    padded = np.pad(mono, n_fft // 2)
    frames = 1 + mono.size // hop
    for start in range(0, frames, BLOCK):
        last = min(start + BLOCK, frames) - 1
        part = padded[start * hop : last * hop + n_fft]
        yield np.abs(librosa.stft(part, n_fft=n_fft, hop_length=hop, center=False))


def _gather(mono: Floats, n_fft: int, hop: int, reduce: Callable[[Floats], Floats]) -> Floats:
    """What `reduce` makes of each block, side by side."""
    return np.concatenate([reduce(block) for block in _blocks(mono, n_fft, hop)], axis=-1)


def _onsets(mono: Floats) -> tuple[Floats, Floats]:
    """Onset strengths (F,) and levels in dB (F,)."""
    import librosa

    mels = librosa.filters.mel(sr=RATE, n_fft=ONSET_FFT, n_mels=MELS)
    # Parseval: a spectrum's squares are the frame's power times this; all but the outer bins stand for two.
    scale = ONSET_FFT * float(np.square(librosa.filters.get_window("hann", ONSET_FFT)).sum())

    def reduce(block: Floats) -> Floats:
        power = np.square(block)
        total = 2.0 * power.sum(axis=0) - power[0] - power[-1]
        return np.vstack([mels @ power, total[None] / scale])

    reduced = _gather(mono, ONSET_FFT, HOP, reduce)
    level_db = 10.0 * np.log10(np.maximum(reduced[-1], 1e-12))
    onsets = librosa.onset.onset_strength(S=librosa.power_to_db(reduced[:-1]), sr=RATE, hop_length=HOP)
    return onsets.astype(np.float32), level_db


def _chroma(mono: Floats, level_db: Floats) -> Floats:
    """(12, G), each frame's largest 1 and silent frames 0."""
    import librosa

    classes = librosa.filters.chroma(
        sr=RATE, n_fft=CHROMA_FFT, tuning=0.0, ctroct=CHROMA_CENTRE, octwidth=CHROMA_WIDTH
    )
    chroma = _gather(mono, CHROMA_FFT, CHROMA_EVERY * HOP, lambda block: classes @ block)
    return np.where(level_db > SILENCE_DBFS, librosa.util.normalize(chroma, axis=0), np.float32(0.0))


def _beats(onsets: Floats) -> NDArray[np.float64]:
    """Times of the beats in seconds, by librosa's tracker; none where nothing begins."""
    import librosa

    if onsets.std() < STILL:
        return np.zeros(0)
    tempo = librosa.feature.tempo(tg=_mean_tempogram(onsets), sr=RATE, hop_length=HOP)
    _, beats = librosa.beat.beat_track(
        onset_envelope=onsets, sr=RATE, hop_length=HOP, bpm=tempo, units="time"
    )
    return np.asarray(beats, dtype=np.float64)


def _mean_tempogram(onsets: Floats) -> NDArray[np.float64]:
    """(window, 1), the mean over time of librosa's tempogram, of which 20 minutes would take 1 GB."""
    import librosa

    window = int(librosa.time_to_frames(TEMPO_WINDOW_S, sr=RATE, hop_length=HOP))
    padded = np.pad(onsets, window // 2, mode="linear_ramp", end_values=0.0)
    total = np.zeros(window)
    for start in range(0, onsets.size, BLOCK):
        part = padded[start : min(start + BLOCK, onsets.size) + window - 1]
        total += librosa.feature.tempogram(
            onset_envelope=part, sr=RATE, hop_length=HOP, win_length=window, center=False
        ).sum(axis=1)
    return total[:, None] / onsets.size
