from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.audio import SAMPLE_RATE, Audio, read_wav
from samuel.evaluate.signal import clipped_share, log_mel_db, log_mel_distance_db

TIME = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE


def stereo(mono: np.ndarray) -> Audio:
    return np.stack([mono, mono]).astype(np.float32)


def test_log_mel_distance_is_the_gain_in_decibel() -> None:
    noise = stereo(0.1 * np.random.default_rng(0).normal(size=len(TIME)))
    spectrum = log_mel_db(noise)
    assert log_mel_distance_db(spectrum, spectrum) == 0.0
    assert log_mel_distance_db(spectrum, log_mel_db(noise * 10 ** (-6 / 20))) == pytest.approx(6.0, abs=0.1)


def test_log_mel_of_silence_is_its_floor() -> None:
    assert np.all(log_mel_db(stereo(np.zeros_like(TIME))) == -80.0)


def test_a_sine_that_is_cut_off_is_clipped_for_as_long_as_it_would_exceed_full_scale() -> None:
    # |sin| > 1/2 for two thirds of the time.
    sine = stereo(np.clip(2.0 * np.sin(2 * np.pi * 100.3 * TIME), -1.0, 1.0))
    assert clipped_share(sine) == pytest.approx(2 / 3, abs=1e-3)
    assert clipped_share(0.99 * sine) == 0.0


def test_both_channels_count() -> None:
    assert clipped_share(np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]], dtype=np.float32)) == 3 / 8


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_clipped_file_is_clipped_at_both_ends(tmp_path: Path, subtype: str) -> None:
    # libsndfile cuts integers off at 1 - 2^-15 or 1 - 2^-23, and a float not at all.
    wave = np.array([1.5, -1.5, 0.999, -0.999] * 10)
    soundfile.write(tmp_path / "x.wav", stereo(wave).T, SAMPLE_RATE, subtype=subtype)
    assert clipped_share(read_wav(tmp_path / "x.wav")) == 0.5


def test_silence_and_nothing_are_not_clipped() -> None:
    assert clipped_share(stereo(np.zeros_like(TIME))) == 0.0
    assert clipped_share(np.zeros((2, 0), dtype=np.float32)) == 0.0


def test_spectrograms_are_compared_over_the_frames_both_have() -> None:
    one, other = np.full((64, 5), -20.0, np.float32), np.full((64, 9), -23.0, np.float32)
    other[:, 5:] = 100.0
    assert log_mel_distance_db(one, other) == log_mel_distance_db(other, one) == pytest.approx(3.0)
