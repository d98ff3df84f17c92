from functools import cache
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch

from samuel.audio import SAMPLE_RATE, Audio, dbfs, read_wav, write_wav
from samuel.codecs import load_codec
from samuel.config import CodecConfig
from samuel.errors import InputError
from samuel.evaluate import features as module
from samuel.evaluate.features import (
    TONICS,
    Features,
    analyse,
    clipped_share,
    features,
    load_start,
    log_mel_db,
)
from tests.evaluate.songs import band, tune

RATE = 22_050
SECONDS = 15
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


def test_beats_of_a_click_track_are_its_clicks() -> None:
    for bpm in (75.0, 128.0):
        beats = features(clicks(bpm, first_s=0.3)).beats_s
        late = (beats - 0.3 + 0.25) % (60.0 / bpm) - 0.25
        assert np.abs(late).max() < 0.05
        assert np.diff(beats).mean() == pytest.approx(60.0 / bpm, rel=0.01)


def test_the_level_of_a_sine_is_its_rms_and_what_is_sung_no_further_than_40_db_below_the_peak() -> None:
    level_db = features(stereo(tone(69, 2.0, level=0.1))).level_db
    np.testing.assert_allclose(level_db[4:-4], 20 * np.log10(0.1 / np.sqrt(2)), atol=0.01)
    assert features(stereo(tone(69, 2.0, level=0.00141))).silent is True  # -60.02 dB
    assert features(stereo(tone(69, 2.0, level=0.00143))).silent is False
    parts = [tone(69, 1.0, 0.5), tone(69, 1.0, 0.006), tone(69, 1.0, 0.004), np.zeros(SAMPLE_RATE)]
    sung = features(stereo(np.concatenate(parts))).sung
    middles = [round((second + 0.5) * RATE / 512) for second in range(4)]
    assert sung[middles].tolist() == [True, True, False, False]


def test_the_key_of_a_cadence() -> None:
    for tonic, mode in ((0, "major"), (6, "minor")):
        third = 4 if mode == "major" else 3
        steps = [(0, third, 7), (5, 5 + third, 12), (7, 11, 14), (0, third, 7)]
        chords = [sum(tone(57 + (tonic + 3) % 12 + step, 0.7) for step in chord) for chord in steps]
        assert features(stereo(np.concatenate(chords))).key == f"{TONICS[tonic]} {mode}"


def test_silence_a_constant_and_a_snippet_are_measured_too() -> None:
    for samples, level in ((0, 0.0), (1, 0.7), (441, -1.0), (SAMPLE_RATE, 0.0), (SAMPLE_RATE, 0.7)):
        found = features(np.full((2, samples), level, dtype=np.float32))
        assert found.silent
        assert not found.chroma.any()
        assert not found.sung.any()
        assert (found.beats_s.size, found.key, found.duration_s) == (0, None, samples / SAMPLE_RATE)
    for samples in (1, 2, 441, 5000):
        found = features(music()[:, :samples])
        assert found.onsets.shape == (1 + -(-samples // 2) // 512,)
        assert np.isfinite(found.onsets).all()
        assert np.isfinite(found.chroma).all()


def test_what_exceeds_full_scale_is_measured_like_what_reaches_it() -> None:
    peak = np.abs(music().mean(axis=0)).max()
    loud, full = features(music() * np.float32(1e30)), features(music() / peak)
    np.testing.assert_array_equal(loud.beats_s, full.beats_s)
    assert loud.key == measured().key
    assert -30.0 < loud.level_db.max() <= 0.0


def test_what_is_no_number_is_refused() -> None:
    for stray in (np.nan, -np.inf):
        audio = music()[:, :1000].copy()
        audio[1, 500] = stray
        with pytest.raises(InputError, match="NaN or infinite"):
            features(audio)
    with pytest.raises(InputError, match="shape"):
        features(music().T)


def test_a_clipped_file_is_clipped_at_both_ends(tmp_path: Path) -> None:
    # libsndfile cuts integers off at 1 - 2^-15 or 1 - 2^-23, and a float not at all.
    wave = np.array([1.5, -1.5, 0.999, -0.999] * 10)
    for subtype in ("PCM_16", "PCM_24", "FLOAT"):
        soundfile.write(tmp_path / "x.wav", stereo(wave).T, SAMPLE_RATE, subtype=subtype)
        assert clipped_share(read_wav(tmp_path / "x.wav")) == 0.5
    assert clipped_share(np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]], np.float32)) == 3 / 8
    assert clipped_share(np.zeros((2, 0), np.float32)) == 0.0


def test_a_file_is_analysed_as_it_is(tmp_path: Path) -> None:
    audio = band(60, 0.5, 7.0)
    audio[1] *= 0.5
    write_wav(tmp_path / "a.wav", audio)
    codec = load_codec(CodecConfig(), torch.device("cpu"))
    sound = analyse(tmp_path / "a.wav", {"level_dbfs": dbfs}, codec)
    assert sound.features.duration_s == 7.0
    assert (sound.mono, sound.remarks) == (False, ())
    assert sound.latents is not None
    assert torch.equal(sound.latents, codec.encode(torch.from_numpy(audio)[None])[0].half())
    soundfile.write(tmp_path / "a.ogg", tune(60, 0.5, 6.0)[0, ::2], SAMPLE_RATE // 2)
    other = analyse(tmp_path / "a.ogg", {}, None)
    assert (other.mono, other.latents) == (True, None)
    assert other.features.duration_s == pytest.approx(6.0, abs=0.03)
    assert sound.values["level_dbfs"] == pytest.approx(dbfs(audio), abs=1e-3)
    assert sound.log_mel == pytest.approx(log_mel_db(audio), abs=1e-2)


def test_what_is_unusual_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 60)
    audio = tune(60, 0.5, 62.0)
    for samples, remark in (
        (np.zeros((2, 6 * SAMPLE_RATE)), "silent"),
        (1.5 * np.ones((2, 6 * SAMPLE_RATE)), "clipped: 100.0% of its samples are at full scale"),
        (0.1 * np.ones((2, 400)), "0.0 s: too short to tell beats and key"),
        (audio, "longer than 1 minutes: scored over its first 1"),
    ):
        write_wav(tmp_path / "a.wav", samples.astype(np.float32))
        sound = analyse(tmp_path / "a.wav", {}, None)
        assert remark in sound.remarks
        assert sound.mono
    start, cut = load_start(tmp_path / "a.wav")
    assert cut
    assert np.array_equal(start, audio[:, : 60 * SAMPLE_RATE])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), SAMPLE_RATE)
    for name, words in (
        ("text.wav", "not readable as audio"),
        ("empty.wav", r"empty\.wav"),
        ("absent.wav", "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            analyse(tmp_path / name, {}, None)
