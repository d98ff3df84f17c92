import tracemalloc
from functools import cache

import librosa
import numpy as np
import pytest
from scipy.stats import pearsonr

from samuel.audio import SAMPLE_RATE, Audio
from samuel.errors import InputError
from samuel.evaluate.features import (
    PROFILES,
    TONICS,
    Features,
    features,
    key_of,
)

RATE = 22_050
SECONDS = 30  # several blocks
TIME = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE


def stereo(mono: np.ndarray) -> Audio:
    return np.stack([mono, mono]).astype(np.float32)


def tone(midi: float, seconds: float, level: float = 0.1) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return level * np.sin(2 * np.pi * 440.0 * 2 ** ((midi - 69) / 12) * time)


def clicks(bpm: float, first_s: float) -> Audio:
    phase = (TIME - first_s) % (60.0 / bpm)
    return stereo(
        0.5 * np.random.default_rng(0).normal(size=TIME.size) * np.exp(-phase / 0.01) * (phase < 0.1)
    )


@cache
def music() -> Audio:
    """Notes, clicks and noise, other in each channel, with silence at the end."""
    rng = np.random.default_rng(1)
    notes = np.concatenate([tone(midi, 0.5) for midi in rng.integers(48, 80, 2 * SECONDS)])
    left, right = notes + clicks(112.0, 0.1)[0], 0.5 * notes + 0.01 * rng.normal(size=notes.size)
    return (np.stack([left, right]) * (TIME < SECONDS - 3)).astype(np.float32)


@cache
def measured() -> Features:
    return features(music())


def mono(audio: Audio) -> np.ndarray:
    mean = audio.astype(np.float64).mean(axis=0)
    return librosa.resample((mean - mean.mean()).astype(np.float32), orig_sr=SAMPLE_RATE, target_sr=RATE)


def test_onset_strengths_are_librosas() -> None:
    np.testing.assert_allclose(
        measured().onsets, librosa.onset.onset_strength(y=mono(music()), sr=RATE), atol=1e-3
    )


def test_chroma_is_librosas_of_magnitudes_where_there_is_sound() -> None:
    magnitude = np.abs(librosa.stft(mono(music()), n_fft=8192, hop_length=2048))
    expected = librosa.feature.chroma_stft(S=magnitude, sr=RATE, tuning=0.0, ctroct=4.5, octwidth=1.0)
    frames = int((SECONDS - 3.3) * RATE / 2048)
    np.testing.assert_allclose(measured().chroma[:, :frames], expected[:, :frames], atol=1e-4)
    assert not measured().chroma[:, -25:].any()


def test_beats_are_librosas() -> None:
    _, expected = librosa.beat.beat_track(onset_envelope=measured().onsets, sr=RATE, units="time")
    assert len(expected) > 20
    np.testing.assert_array_equal(measured().beats_s, expected)


def test_frames_of_all_kinds_belong_together() -> None:
    frames = 1 + SECONDS * RATE // 512
    assert measured().onsets.shape == measured().level_db.shape == (frames,)
    assert measured().chroma.shape == (12, -(-frames // 4))
    assert measured().duration_s == SECONDS


@pytest.mark.parametrize("bpm", [75.0, 100.0, 128.0])
def test_beats_of_a_click_track_are_its_clicks(bpm: float) -> None:
    beats = features(clicks(bpm, first_s=0.3)).beats_s
    late = (beats - 0.3 + 0.25) % (60.0 / bpm) - 0.25
    assert np.abs(late).max() < 0.05
    assert np.diff(beats).mean() == pytest.approx(60.0 / bpm, rel=0.01)


@pytest.mark.parametrize("pitch_class", range(12))
def test_a_tone_is_its_pitch_class(pitch_class: int) -> None:
    # A class hears as a Gaussian whose deviation is half a semitone: a neighbour gets e^-2, the next e^-8.
    chroma = features(stereo(tone(84 + pitch_class, 3.0))).chroma[:, 3:-3]
    expected = np.zeros(12)
    expected[[pitch_class - 1, pitch_class, (pitch_class + 1) % 12]] = np.exp(-2.0), 1.0, np.exp(-2.0)
    np.testing.assert_allclose(chroma, np.tile(expected[:, None], chroma.shape[1]), atol=0.03)


def test_the_level_of_a_sine_is_its_rms() -> None:
    level_db = features(stereo(tone(69, 2.0, level=0.1))).level_db
    np.testing.assert_allclose(level_db[4:-4], 20 * np.log10(0.1 / np.sqrt(2)), atol=0.01)
    assert features(stereo(tone(69, 2.0, level=0.00141))).silent is True  # -60.02 dB
    assert features(stereo(tone(69, 2.0, level=0.00143))).silent is False


def test_what_is_sung_is_no_further_than_40_db_below_the_peak() -> None:
    parts = [tone(69, 1.0, 0.5), tone(69, 1.0, 0.006), tone(69, 1.0, 0.004), np.zeros(SAMPLE_RATE)]
    sung = features(stereo(np.concatenate(parts))).sung
    middles = [round((second + 0.5) * RATE / 512) for second in range(4)]
    assert sung[middles].tolist() == [True, True, False, False]


@pytest.mark.parametrize("tonic", range(12))
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_the_key_of_a_cadence(tonic: int, mode: str) -> None:
    third = 4 if mode == "major" else 3
    steps = [(0, third, 7), (5, 5 + third, 12), (7, 11, 14), (0, third, 7)]
    chords = [sum(tone(57 + (tonic + 3) % 12 + step, 0.7) for step in chord) for chord in steps]
    assert features(stereo(np.concatenate(chords))).key == f"{TONICS[tonic]} {mode}"


def test_the_key_has_the_highest_correlation() -> None:
    chroma = np.random.default_rng(3).random((12, 50)).astype(np.float32)
    best, best_fit = "", -1.0
    for mode, profile in PROFILES.items():
        for tonic in range(12):
            turned = [profile[(place - tonic) % 12] for place in range(12)]
            fit = float(np.asarray(pearsonr(chroma.mean(axis=1), turned))[0])
            if fit > best_fit:
                best, best_fit = f"{TONICS[tonic]} {mode}", fit
    assert key_of(chroma) == best


@pytest.mark.parametrize("samples", [0, 1, 441, SAMPLE_RATE])
@pytest.mark.parametrize("level", [0.0, 0.7, -1.0])
def test_silence_and_a_constant_hold_nothing(samples: int, level: float) -> None:
    found = features(np.full((2, samples), level, dtype=np.float32))
    assert found.silent
    assert not found.chroma.any()
    assert not found.sung.any()
    assert found.beats_s.size == 0
    assert found.key is None
    assert found.duration_s == samples / SAMPLE_RATE


def test_what_is_too_soft_to_hear_has_no_beats_and_no_key() -> None:
    found = features(clicks(100.0, first_s=0.3) * np.float32(1e-3))
    assert found.silent
    assert found.beats_s.size == 0
    assert found.key is None


@pytest.mark.parametrize("samples", [1, 2, 441, 5000, SAMPLE_RATE])
def test_a_snippet_has_features(samples: int) -> None:
    found = features(music()[:, :samples])
    assert found.onsets.shape == (1 + -(-samples // 2) // 512,)
    assert np.isfinite(found.onsets).all()
    assert np.isfinite(found.chroma).all()


def test_a_constant_and_a_gain_change_nothing_but_the_level() -> None:
    moved = features(0.5 * music() + 0.2)
    np.testing.assert_allclose(moved.chroma, measured().chroma, atol=0.01)
    np.testing.assert_array_equal(moved.beats_s, measured().beats_s)
    np.testing.assert_allclose(moved.level_db[:500], measured().level_db[:500] - 6.02, atol=0.05)


@pytest.mark.parametrize("gain", [20.0, 1e30])
def test_what_exceeds_full_scale_is_measured_like_what_reaches_it(gain: float) -> None:
    loud = features(music() * np.float32(gain))
    np.testing.assert_array_equal(
        loud.beats_s, features(music() / np.abs(music().mean(axis=0)).max()).beats_s
    )
    assert loud.key == measured().key
    assert -30.0 < loud.level_db.max() <= 0.0


@pytest.mark.parametrize("stray", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(stray: float) -> None:
    audio = music()[:, :1000].copy()
    audio[1, 500] = stray
    with pytest.raises(InputError, match="NaN or infinite"):
        features(audio)


@pytest.mark.parametrize("shape", [(1000,), (1, 1000), (1000, 2)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape"):
        features(np.zeros(shape, dtype=np.float32))


def test_five_minutes_take_no_more_memory_than_the_audio() -> None:
    audio = np.tile(music(), (1, 10))
    measured()  # so that filters and compiled code are there
    tracemalloc.start()
    try:
        features(audio)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * audio.nbytes
