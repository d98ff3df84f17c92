import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import samuel.audio
import samuel.generate.vocal
from samuel.audio import SAMPLE_RATE, Audio, dbfs, read_wav, run_ffmpeg
from samuel.errors import InputError
from samuel.generate.vocal import Vocal, vocal_from_mix, vocal_of
from tests.decoding import load_audio
from tests.generate.voices import HalfSeparator

Samples = NDArray[Any]


def voice(seconds: float = 1.0, rate: int = SAMPLE_RATE, channels: int = 2) -> Audio:
    """A tone of 440 Hz and noise, (S, C), other noise in each channel."""
    time_s = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, (len(time_s), channels))
    return (0.4 * np.sin(2 * np.pi * 440 * time_s)[:, None] + noise).astype(np.float32)


def saved(path: Path, frames: Samples, rate: int = SAMPLE_RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, frames, rate, subtype=subtype)
    return path


def whole(vocal: Vocal) -> Audio:
    audio = vocal.read(0, vocal.samples)
    np.testing.assert_array_equal(read_wav(vocal.path), audio)
    assert audio.shape == (2, vocal.samples)
    assert audio.dtype == np.float32
    return audio


@pytest.mark.parametrize(("suffix", "rate", "channels"), [("flac", 48_000, 1), ("mp3", 8_000, 2)])
def test_a_file_is_what_ffmpeg_decodes(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    path = tmp_path / f"-take 1: %20.{suffix}"
    given = saved(tmp_path / "given.wav", voice(rate=rate, channels=channels), rate)
    assert run_ffmpeg(["-i", str(given), f"file:{path}"]).returncode == 0
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    expected = load_audio(path, tmp_path)
    np.testing.assert_array_equal(whole(vocal_of(path, workspace)), expected)
    assert abs(expected.shape[1] - SAMPLE_RATE) < 0.06 * SAMPLE_RATE
    assert {file.name for file in workspace.iterdir()} == {"vocal.wav"}


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.flac", voice(60.0, 8_000, 1), 8_000, "PCM_16")
    tracemalloc.start()
    try:
        vocal = vocal_of(path, tmp_path)
        vocal.read(SAMPLE_RATE, 2 * SAMPLE_RATE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert vocal.samples == 60 * SAMPLE_RATE
    assert peak < 14e6  # the whole takes 21e6


@pytest.mark.parametrize(("kind", "full_scale", "step"), [(np.float64, 1, 3e-8), (np.int16, 2**15, 2**-15)])
def test_an_array_of_any_kind_is_the_audio_it_stands_for(
    tmp_path: Path, kind: Any, full_scale: int, step: float
) -> None:
    frames = voice()
    samples = (frames.astype(np.float64) * full_scale).astype(kind)
    for shaped in (samples, samples.T, samples[:, 0], samples[None, :, 0]):
        audio = whole(vocal_of(shaped, tmp_path))
        expected = frames if shaped.shape in (samples.shape, samples.T.shape) else frames[:, :1]
        assert np.abs(audio - expected.T).max() <= step
    assert {file.name for file in tmp_path.iterdir()} == {"vocal.wav"}


def test_what_is_too_long_is_refused_unless_less_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samuel.audio, "MAX_LENGTH_S", 1.0)
    longer = voice(1.0 + 1 / SAMPLE_RATE)
    for source in (longer, saved(tmp_path / "long.wav", longer)):
        for length_s in (None, 2.0):
            with pytest.raises(InputError, match=r"\.wav: lasts over 1 s, the most"):
                vocal_of(source, tmp_path, length_s=length_s)
        assert vocal_of(source, tmp_path, length_s=1.0).samples == SAMPLE_RATE
    assert vocal_of(saved(tmp_path / "a.wav", voice()), tmp_path).samples == SAMPLE_RATE
    monkeypatch.setattr(samuel.generate.vocal, "MOST_IN_MEMORY_S", 0.5)
    with pytest.raises(InputError, match=r"the 0\.0083.* minutes that can be taken as a whole"):
        vocal_from_mix(vocal_of(voice(), tmp_path), HalfSeparator(), tmp_path)


def with_value(value: float) -> Audio:
    frames = voice()
    frames[33_333, 1] = value
    return frames


def test_an_array_that_is_no_vocal_is_refused(tmp_path: Path) -> None:
    refused: list[tuple[Samples, dict[str, Any], str]] = [
        (with_value(np.nan), {}, r"the vocal \(an array\): holds NaN or infinite samples; export it again"),
        (voice() * 32_768, {}, r"samples of up to 1\d{4}\S*, where full scale is 1"),
        (np.zeros((2, 100, 3)), {}, r"shape \(2, 100, 3\); give \(samples,\) or \(channels, samples\)"),
        (np.zeros(100, np.int64), {}, "of type int64; give float in"),
        (voice(), {"sample_rate": 44_100.5}, "sample_rate = .*: give a whole number from 1000 to 768000 Hz"),
        (voice(), {"sample_rate": float("nan")}, "sample_rate = nan"),
        (voice(), {"length_s": float("nan")}, "length_s = nan: give the seconds"),
    ]
    for array, options, message in refused:
        with pytest.raises(InputError, match=message):
            vocal_of(array, tmp_path, **options)


def test_a_file_that_is_no_vocal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_text("la la la\n" * 500)
    (tmp_path / "nothing.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    saved(tmp_path / "empty.wav", voice(0.0))
    saved(tmp_path / "loud.wav", 32_768 * voice())
    saved(tmp_path / "nan.wav", with_value(np.nan), 48_000)
    content = saved(tmp_path / "cut.flac", voice(), subtype="PCM_16").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for name, message in {
        "absent.wav": "no such file",
        "folder.wav": "no regular file; give an audio file",
        "nan.wav": "holds NaN or infinite samples",
        "text.mp3": "not readable as audio",
        "nothing.wav": "not readable as audio",
        "cut.flac": "not readable as audio",
        "empty.wav": "holds no samples",
        "loud.wav": "samples of up to 1.*, where full scale is 1",
    }.items():
        with pytest.raises(InputError, match=rf"{name}: {message}"):
            vocal_of(tmp_path / name, workspace)


@pytest.mark.parametrize(("level", "silent"), [(0.0, True), (0.002, True), (0.01, False)])
def test_silence_is_a_vocal_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, level: float, silent: bool
) -> None:
    frames = level * voice(7.0)
    assert (dbfs(frames) < -60) == silent
    with caplog.at_level(logging.WARNING):
        vocal = vocal_of(saved(tmp_path / "a.wav", frames), tmp_path)
    assert vocal.samples == len(frames)
    assert [record.levelname for record in caplog.records] == silent * ["WARNING"]
    assert ("a.wav: silent (" in caplog.text) == silent


def test_the_vocals_of_a_mix_are_a_vocal_beside_it(tmp_path: Path) -> None:
    frames = voice(7.0)
    mix = vocal_of(frames, tmp_path)
    vocal = vocal_from_mix(mix, HalfSeparator(), tmp_path)
    np.testing.assert_array_equal(whole(vocal), 0.5 * frames.T)
    np.testing.assert_array_equal(whole(mix), frames.T)
    with pytest.raises(InputError, match=r"the vocals of the mix, by half/1: .*NaN"):
        vocal_from_mix(mix, HalfSeparator(np.nan), tmp_path)
