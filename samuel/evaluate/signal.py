"""Scores of the sound alone that need no weights; none of them is an AudioBox axis.

Shapes: (2, S) audio at 44.1 kHz.
"""

import numpy as np
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE, Audio

HOP = 2048
N_FFT = 4096
FULL_SCALE = 1.0 - 2.0**-15
"""The largest positive sample of a 16-bit file."""


def clipped_share(audio: Audio) -> float:
    """Share of samples whose magnitude is at least 32767 / 32768, 0 to 1; 0 where there is no sample.

    A 16-bit file that was cut off is there at either end, and so is a file that was never cut off but brought
    to full scale, with a sample or two. Cut-off sound that was turned down, filtered or compressed with loss
    afterwards is not found.

    Args:
        audio: (2, S) in units of full scale; both channels count.
    """
    return float(np.mean(np.abs(audio) >= FULL_SCALE)) if audio.size else 0.0


def log_mel_distance_db(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean absolute difference of two log-mel spectrograms (64, F) over the frames that both have, in dB."""
    frames = min(one.shape[1], other.shape[1])
    return float(np.abs(one[:, :frames] - other[:, :frames]).mean())


def log_mel_db(audio: Audio) -> NDArray[np.float32]:
    """(2, S) → (64, frames) mel power in dB, floored at -80."""
    import librosa

    mel = librosa.feature.melspectrogram(
        y=audio.mean(axis=0), sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, n_mels=64
    )
    return np.maximum(10.0 * np.log10(np.maximum(mel / N_FFT, 1e-12)), -80.0)
