import numpy as np
import pytest

from samuel.audio import SAMPLE_RATE, Audio
from samuel.evaluate.signal import chroma_likeness, log_mel_distance_db, onset_correlation, signal_scores

TRITONE = 2 ** (6 / 12)
TIME = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE


def stereo(mono: np.ndarray) -> Audio:
    return np.stack([mono, mono]).astype(np.float32)


def notes(*hz: float) -> Audio:
    return stereo(sum((0.2 * np.sin(2 * np.pi * f * TIME) for f in hz), np.zeros_like(TIME)))


def clicks(offset_s: float, period_s: float = 0.5) -> Audio:
    phase = (TIME - offset_s) % period_s
    noise = np.random.default_rng(0).normal(size=len(TIME))
    return stereo(0.3 * noise * np.exp(-phase / 0.02))


def test_chroma_tells_the_same_notes_from_notes_a_tritone_away() -> None:
    vocal = notes(261.63)
    same = chroma_likeness(vocal, notes(523.25, 1046.5))
    other = chroma_likeness(vocal, notes(523.25 * TRITONE, 1046.5 * TRITONE))
    assert same > 0.9
    assert other < 0.3


def test_chroma_of_silence_is_not_measured() -> None:
    assert np.isnan(chroma_likeness(stereo(np.zeros_like(TIME)), notes(440.0)))


def test_onsets_tell_the_same_beat_from_the_off_beat() -> None:
    assert onset_correlation(clicks(0.0), clicks(0.0)) == pytest.approx(1.0)
    assert onset_correlation(clicks(0.0), clicks(0.25)) < 0.2


def test_log_mel_distance_is_the_gain_in_decibel() -> None:
    noise = stereo(0.1 * np.random.default_rng(0).normal(size=len(TIME)))
    assert log_mel_distance_db(noise, noise) == 0.0
    assert log_mel_distance_db(noise, noise * 10 ** (-6 / 20)) == pytest.approx(6.0, abs=0.1)


def test_scores_have_their_names() -> None:
    scores = signal_scores(notes(220.0), notes(440.0), notes(440.0))
    assert list(scores) == ["chroma_likeness", "onset_correlation", "log_mel_distance_db", "level_dbfs"]
    assert scores["level_dbfs"] == pytest.approx(-16.99, abs=0.05)
