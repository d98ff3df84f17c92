"""Scores that need no weights. They describe signals; none of them is an AudioBox axis.

Shapes: (2, S) audio at 44.1 kHz.
"""

import numpy as np
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE, Audio, dbfs

HOP = 2048
N_FFT = 4096


def signal_scores(vocal: Audio, accompaniment: Audio, reference: Audio) -> dict[str, float]:
    """Describe an accompaniment against the vocal it is for and the true accompaniment.

    Returns:
        chroma_likeness: Mean cosine of the chroma of vocal and accompaniment where somebody sings, 0 to 1.
        onset_correlation: Pearson correlation of their onset strengths, -1 to 1.
        log_mel_distance_db: Mean absolute difference to `reference` over 64 mel bands, in dB.
        level_dbfs: RMS level of the accompaniment.
    """
    return {
        "chroma_likeness": chroma_likeness(vocal, accompaniment),
        "onset_correlation": onset_correlation(vocal, accompaniment),
        "log_mel_distance_db": log_mel_distance_db(accompaniment, reference),
        "level_dbfs": dbfs(accompaniment),
    }


def chroma_likeness(vocal: Audio, accompaniment: Audio) -> float:
    """Mean cosine between the chroma of both, over the frames in which the vocal is within 40 dB of its peak.

    Returns NaN where nobody sings.
    """
    first, second = _chroma(vocal), _chroma(accompaniment)
    level = _frame_level_db(vocal)[: first.shape[1]]
    sung = level > max(level.max() - 40.0, -60.0)
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    cosine = np.sum(first * second, axis=0) / np.maximum(norms, 1e-9)
    return float(cosine[sung].mean()) if sung.any() else float("nan")


def onset_correlation(vocal: Audio, accompaniment: Audio) -> float:
    """Pearson correlation of the onset strengths of both; NaN where one of them never changes."""
    first, second = _onsets(vocal), _onsets(accompaniment)
    if first.std() < 1e-9 or second.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def log_mel_distance_db(audio: Audio, reference: Audio) -> float:
    """Mean absolute difference of the log-mel spectrograms, in dB, down to 80 dB below full scale."""
    return float(np.abs(log_mel_db(audio) - log_mel_db(reference)).mean())


def log_mel_db(audio: Audio) -> NDArray[np.float32]:
    """(2, S) → (64, frames) mel power in dB, floored at -80."""
    import librosa

    mel = librosa.feature.melspectrogram(
        y=audio.mean(axis=0), sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, n_mels=64
    )
    return np.maximum(10.0 * np.log10(np.maximum(mel / N_FFT, 1e-12)), -80.0)


def _chroma(audio: Audio) -> NDArray[np.float32]:
    import librosa

    return librosa.feature.chroma_stft(
        y=audio.mean(axis=0), sr=SAMPLE_RATE, n_fft=2 * N_FFT, hop_length=HOP, tuning=0.0
    )


def _onsets(audio: Audio) -> NDArray[np.float32]:
    import librosa

    return librosa.onset.onset_strength(y=audio.mean(axis=0), sr=SAMPLE_RATE, hop_length=512)


def _frame_level_db(audio: Audio) -> NDArray[np.float32]:
    import librosa

    rms = librosa.feature.rms(y=audio.mean(axis=0), frame_length=N_FFT, hop_length=HOP)[0]
    return 20.0 * np.log10(np.maximum(rms, 1e-6))
