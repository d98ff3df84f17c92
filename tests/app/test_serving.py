import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.app.page import MAX_COLUMNS, MEL_BANDS, mel_spectrogram
from samuel.cli import main
from samuel.codecs.mel import MelCodec
from tests.models import small_model


def test_without_gradio_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not _files(finder)])
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    assert main(["app", "--model", str(tmp_path)]) == 1
    assert "pip install 'samuel[app]'" in capsys.readouterr().err


def _files(finder: object) -> bool:
    return getattr(finder, "__name__", "") == "PathFinder"


def test_no_model_is_told_before_anything_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", "--model", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: no whole checkpoint here")


def test_a_model_of_another_codec_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model(tmp_path, codec=MelCodec.info.model_dump() | {"version": "0"})
    assert main(["app", "--model", str(tmp_path / "model"), "device=cpu"]) == 1
    assert "the model learned latents of mel/0" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    small_model(tmp_path)
    command = [sys.executable, "-m", "samuel.cli", "app", "device=cpu", "--model", str(tmp_path / "model")]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, check=False)
    said = f"error: port {port} is taken, or not for you; choose another with --port\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_spectrogram_shows_each_tone_in_its_band_and_time(tmp_path: Path) -> None:
    import librosa

    time_s = np.arange(20 * 44_100) / 44_100
    tone = np.sin(2 * np.pi * np.where(time_s < 10, 440, 4000) * time_s)
    soundfile.write(tmp_path / "tones.wav", np.stack([tone, tone], axis=1), 44_100)
    levels = mel_spectrogram(tmp_path / "tones.wav")
    centres_hz = librosa.mel_frequencies(n_mels=MEL_BANDS + 2, fmax=22_050)[1:-1]
    loudest_hz = centres_hz[levels.argmax(axis=0)]
    half = levels.shape[1] // 2
    assert loudest_hz[: half - 3] == pytest.approx(440, rel=0.1)
    assert loudest_hz[half + 3 :] == pytest.approx(4000, rel=0.1)
    assert levels.max() == 0.0


@pytest.mark.parametrize(("seconds", "columns"), [(0.01, 1), (1.0, 22), (100.0, MAX_COLUMNS)])
def test_a_spectrogram_is_no_larger_for_longer_audio(seconds: float, columns: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (round(seconds * 44_100), 2))
    soundfile.write(tmp_path / "noise.flac", noise, 44_100)
    assert mel_spectrogram(tmp_path / "noise.flac").shape == (MEL_BANDS, columns)
