import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.audio import SAMPLE_RATE, dbfs, decode_to_wav, load_audio, read_wav, write_wav
from samuel.errors import InputError


def tone(rate: int, seconds: float = 1.0, hz: float = 441.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def test_wav_round_trip_is_exact(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    write_wav(tmp_path / "a.wav", audio)
    assert np.array_equal(read_wav(tmp_path / "a.wav"), audio)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (48_000, 2), (44_100, 2)])
def test_any_file_becomes_44100_stereo(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    path = tmp_path / f"-a:b %20#? \N{GUITAR}.{suffix}"
    soundfile.write(path, np.stack([tone(rate)] * channels, axis=1), rate)
    audio = load_audio(path, tmp_path)
    assert audio.shape[0] == 2
    assert audio.dtype == np.float32
    assert abs(audio.shape[1] / SAMPLE_RATE - 1.0) < 0.06
    spectrum = np.abs(np.fft.rfft(audio[0, :SAMPLE_RATE]))
    assert abs(int(spectrum.argmax()) * SAMPLE_RATE / min(audio.shape[1], SAMPLE_RATE) - 441.0) < 3.0


@pytest.mark.parametrize("content", [b"", b"<html>not audio</html>", b"RIFF\x00\x00\x00\x00WAVE"])
def test_no_audio_is_named_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"song\.wav: not readable as audio \((?!.*0x)"):
        decode_to_wav(path, tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.wav: no such file"):
        load_audio(tmp_path / "absent.wav", tmp_path)


def test_a_playlist_in_disguise_reaches_no_network(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:1/a.ts\n")
    with pytest.raises(InputError, match="not readable as audio"):
        decode_to_wav(path, tmp_path / "out.wav")


def test_another_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 1)), 8_000)
    with pytest.raises(InputError, match="8000 Hz, 1 channels"):
        read_wav(tmp_path / "a.wav")


def test_level_of_a_sine_and_of_silence() -> None:
    assert dbfs(np.stack([tone(44_100)] * 2)) == pytest.approx(-9.03, abs=0.01)
    assert dbfs(np.zeros((2, 10), dtype=np.float32)) == pytest.approx(-120.0)


def test_the_same_samples_give_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    for subtype in ("FLOAT", "PCM_24"):
        write_wav(tmp_path / "first.wav", audio, subtype)
        time.sleep(1.1)
        write_wav(tmp_path / "second.wav", audio, subtype)
        assert (tmp_path / "first.wav").read_bytes() == (tmp_path / "second.wav").read_bytes()
