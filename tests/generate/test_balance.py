from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional

from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.errors import InputError, SettingsError
from samuel.generate.output import Balance, balance_of, loudness_lufs


def music(level: float, seed: int = 0, seconds: float = 6.0, hz: float = 440.0) -> Audio:
    """A tone with noise, the second half 12 dB softer."""
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, len(time_s)))
    fade = np.where(time_s < seconds / 2, 1.0, 0.25)
    return (level * fade * (0.5 * np.sin(2 * np.pi * hz * time_s) + noise)).astype(np.float32)


def loudness_by_torchaudio(audio: Audio) -> float:
    """Measured where nothing passes full scale: torchaudio's filters would clip that."""
    factor = 1 / max(1.0, 8 * float(np.abs(audio).max()))
    loudness = torchaudio.functional.loudness(torch.from_numpy(factor * audio).double(), SAMPLE_RATE)
    return float(loudness) - 20 * np.log10(factor)


def written(path: Path, audio: Audio) -> Path:
    write_wav(path, audio)
    return path


@pytest.mark.parametrize("level", [0.003, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("hz", [60.0, 440.0, 8_000.0])
def test_loudness_is_that_of_torchaudio(tmp_path: Path, level: float, hz: float) -> None:
    audio = music(level, hz=hz)
    expected = loudness_by_torchaudio(audio)
    assert loudness_lufs(written(tmp_path / "a.wav", audio)) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("audio", [music(0.0), music(1.0, seconds=0.3), music(1e-5), music(1.0)[:, :1]])
def test_what_has_no_loudness_has_none(tmp_path: Path, audio: Audio) -> None:
    assert loudness_lufs(written(tmp_path / "a.wav", audio)) is None


def mixed(vocal: Audio, accompaniment: Audio, gains: Balance) -> tuple[Audio, Audio]:
    """Both as they stand in the mix."""
    factor = 10 ** (gains.mix_gain_db / 20)
    return factor * vocal, factor * 10 ** (gains.accompaniment_gain_db / 20) * accompaniment


@pytest.mark.parametrize(("sung", "played"), [(0.3, 0.3), (0.02, 0.9), (0.2, 0.03), (2.5, 1.0)])
@pytest.mark.parametrize("balance_db", [1.0, -3.0, 6.0])
def test_the_vocal_is_as_much_louder_as_wanted(
    tmp_path: Path, sung: float, played: float, balance_db: float
) -> None:
    vocal, accompaniment = music(sung), music(played, seed=1, hz=220.0)
    paths = written(tmp_path / "v.wav", vocal), written(tmp_path / "a.wav", accompaniment)
    gains = balance_of(*paths, balance_db)
    in_mix = mixed(vocal, accompaniment, gains)
    loudness = [loudness_by_torchaudio(audio) for audio in in_mix]
    assert loudness[0] - loudness[1] == pytest.approx(balance_db, abs=0.15)
    assert gains.vocal_lufs == pytest.approx(loudness_by_torchaudio(vocal), abs=0.1)
    assert gains.accompaniment_lufs == pytest.approx(loudness_by_torchaudio(accompaniment), abs=0.1)
    peak = float(np.abs(sum(in_mix)).max())
    highest = 10 ** (-1 / 20)
    assert peak <= highest * 1.00001
    assert gains.mix_gain_db == 0 or peak == pytest.approx(highest, rel=1e-4)


def test_by_default_the_vocal_is_one_decibel_louder(tmp_path: Path) -> None:
    path = written(tmp_path / "v.wav", music(0.1))
    assert balance_of(path, path).accompaniment_gain_db == pytest.approx(-1.0)
    assert balance_of(path, path).mix_gain_db == 0.0


def test_a_faint_accompaniment_is_raised_by_24_db_at_most(tmp_path: Path) -> None:
    loud, faint = written(tmp_path / "v.wav", music(0.5)), written(tmp_path / "a.wav", music(0.002))
    assert balance_of(loud, faint).accompaniment_gain_db == 24.0
    assert balance_of(faint, loud).accompaniment_gain_db == pytest.approx(
        20 * np.log10(0.002 / 0.5) - 1, abs=0.1
    )


@pytest.mark.parametrize(("sung", "played"), [(0.0, 1.2), (1.2, 0.0), (0.0, 0.0)])
def test_nothing_is_matched_to_silence(tmp_path: Path, sung: float, played: float) -> None:
    vocal, accompaniment = music(sung), music(played)
    gains = balance_of(written(tmp_path / "v.wav", vocal), written(tmp_path / "a.wav", accompaniment))
    assert gains.accompaniment_gain_db == 0.0
    peak = float(np.abs(vocal + accompaniment).max())
    assert gains.mix_gain_db == pytest.approx(-1 - 20 * np.log10(peak) if peak else 0.0, abs=1e-4)
    assert (gains.vocal_lufs is None, gains.accompaniment_lufs is None) == (sung == 0, played == 0)


def test_the_peak_of_the_mix_may_be_in_any_block(tmp_path: Path) -> None:
    quiet = np.full((2, 700_000), 0.01, np.float32)
    for place in (0, 300_000, 699_999):
        vocal, accompaniment = quiet.copy(), quiet.copy()
        vocal[0, place] = -1.5
        paths = written(tmp_path / "v.wav", vocal), written(tmp_path / "a.wav", accompaniment)
        in_mix = mixed(vocal, accompaniment, balance_of(*paths))
        assert np.abs(sum(in_mix)).max() == pytest.approx(10 ** (-1 / 20), rel=1e-5)


@pytest.mark.parametrize("balance_db", [float("nan"), float("inf")])
def test_a_balance_that_is_no_number_is_refused(tmp_path: Path, balance_db: float) -> None:
    path = written(tmp_path / "v.wav", music(0.1))
    with pytest.raises(SettingsError, match=r"balance_db = (nan|inf): give a number"):
        balance_of(path, path, balance_db)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    vocal = written(tmp_path / "v.wav", music(0.1))
    with pytest.raises(InputError, match="not of one length"):
        balance_of(vocal, written(tmp_path / "a.wav", music(0.1, seconds=5.0)))
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), SAMPLE_RATE)
    (tmp_path / "text.wav").write_text("la la la")
    with pytest.raises(InputError, match=r"text\.wav: ffmpeg could not measure"):
        loudness_lufs(tmp_path / "text.wav")
