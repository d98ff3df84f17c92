from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from samuel.audio import SAMPLE_RATE, dbfs, write_wav
from samuel.codecs import load_codec
from samuel.config import CodecConfig
from samuel.errors import InputError
from samuel.evaluate import tracks as listen
from samuel.evaluate.signal import log_mel_db
from samuel.evaluate.tracks import hear, load_start
from tests.evaluate.songs import band, tune


def test_a_file_is_heard_as_it_is(tmp_path: Path) -> None:
    audio = band(60, 0.5, 7.0)
    audio[1] *= 0.5
    write_wav(tmp_path / "a.wav", audio)
    heard = hear(tmp_path / "a.wav")
    assert heard.duration_s == 7.0
    assert (heard.mono, heard.remarks, heard.latents) == (False, (), None)
    assert heard.sound["level_dbfs"] == pytest.approx(dbfs(audio), abs=1e-3)
    assert heard.log_mel == pytest.approx(log_mel_db(audio), abs=1e-2)


def test_its_latents_are_the_codecs(tmp_path: Path) -> None:
    codec = load_codec(CodecConfig(), torch.device("cpu"))
    audio = tune(60, 0.5, 3.0)
    write_wav(tmp_path / "a.wav", audio)
    latents = hear(tmp_path / "a.wav", codec).latents
    assert latents is not None
    assert latents.dtype == torch.float16
    assert torch.equal(latents, codec.encode(torch.from_numpy(audio)[None])[0].half())


@pytest.mark.parametrize(
    ("audio", "remark"),
    [
        (np.zeros((2, 6 * SAMPLE_RATE)), "silent"),
        (1.5 * np.ones((2, 6 * SAMPLE_RATE)), "clipped: 100.0% of its samples are at full scale"),
        (0.1 * np.ones((2, SAMPLE_RATE)), "1.0 s: too short to tell beats and key"),
        (0.1 * np.ones((2, 400)), "0.0 s: too short to tell beats and key"),
    ],
)
def test_what_is_unusual_is_said(audio: np.ndarray, remark: str, tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", audio.astype(np.float32))
    heard = hear(tmp_path / "a.wav")
    assert remark in heard.remarks
    assert heard.mono


def test_mono_files_of_another_rate_are_heard(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", tune(60, 0.5, 6.0)[0, ::2], SAMPLE_RATE // 2)
    heard = hear(tmp_path / "a.ogg")
    assert heard.mono
    assert heard.duration_s == pytest.approx(6.0, abs=0.03)


def test_a_long_file_is_scored_over_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "LONGEST_S", 60)
    audio = tune(60, 0.5, 62.0)
    write_wav(tmp_path / "a.wav", audio)
    start, cut = load_start(tmp_path / "a.wav")
    assert cut
    assert np.array_equal(start, audio[:, : 60 * SAMPLE_RATE])
    assert "longer than 1 minutes: scored over its first 1" in hear(tmp_path / "a.wav").remarks


def test_what_cannot_be_heard_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), SAMPLE_RATE)
    for name, words in (
        ("text.wav", "not readable as audio"),
        ("empty.wav", r"empty\.wav"),
        ("absent.wav", "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            hear(tmp_path / name)
