"""Separators: what is sung comes out, and the stems sum to the song."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from samuel.audio import SAMPLE_RATE, Audio, dbfs, read_wav, write_wav
from samuel.config import SeparatorConfig
from samuel.errors import MissingPartError, SongError
from samuel.files import make_entry
from samuel.popdb.separate import Separator, load_separator, separate
from samuel.weights import quietly
from tests.weights import write_demucs

CPU = torch.device("cpu")


def si_sdr(estimate: Audio, truth: Audio) -> float:
    """Scale-invariant signal-to-distortion ratio in dB."""
    e, t = estimate.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
    target = (e @ t) / (t @ t) * t
    return 10 * float(np.log10(np.sum(target**2) / np.sum((e - target) ** 2)))


def loop_and_line(seconds: int = 24) -> tuple[Audio, Audio]:
    """A background of 2 s that returns, and a gliding line over it that does not: line, background."""
    rng = np.random.default_rng(0)
    time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    bar = np.zeros((2, len(time_s)))
    for beat in range(8):
        since = time_s - beat / 4
        decay = np.where(since >= 0, np.exp(-8 * np.maximum(since, 0)), 0.0)
        tone = np.sin(2 * np.pi * 110 * 2 ** (rng.integers(0, 24) / 12) * since)
        bar += 0.2 * decay * (tone + 0.5 * rng.standard_normal((2, len(time_s))))
    background = np.tile(bar, seconds // 2)
    pitch = 440 * 2 ** (np.cumsum(rng.standard_normal(seconds * 10)) / 12 % 1)
    phase = 2 * np.pi * np.cumsum(np.repeat(pitch, SAMPLE_RATE // 10)) / SAMPLE_RATE
    line = np.stack([0.1 * (np.sin(phase) + 0.5 * np.sin(2 * phase))] * 2)
    return line.astype(np.float32), background.astype(np.float32)


def noise(seconds: float, level: float = 0.1) -> Audio:
    shape = (2, int(seconds * SAMPLE_RATE))
    return (level * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def repet() -> Separator:
    return load_separator(SeparatorConfig(), CPU)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demucs")
    write_demucs(folder)
    return folder


def load_tiny(repository: Path, model: str = "tiny") -> Any:
    return load_separator(SeparatorConfig(name="demucs", model=model, repo=repository), CPU)


def test_repet_parts_a_line_from_what_repeats(repet: Separator) -> None:
    line, background = loop_and_line()
    mix = line + background
    vocals = repet.vocals(mix)
    assert vocals.shape == mix.shape
    assert vocals.dtype == np.float32
    assert si_sdr(vocals, line) - si_sdr(mix, line) > 6.0
    assert si_sdr(mix - vocals, background) - si_sdr(mix, background) > 6.0


def test_repet_is_deterministic(repet: Separator) -> None:
    mix = noise(4.0)
    assert np.array_equal(repet.vocals(mix), repet.vocals(mix))


@pytest.mark.parametrize("seconds", [0.02, 0.7, 3.0])
def test_repet_takes_short_songs(repet: Separator, seconds: float) -> None:
    vocals = repet.vocals(noise(seconds))
    assert vocals.shape == (2, int(seconds * SAMPLE_RATE))
    assert np.isfinite(vocals).all()


def test_stems_sum_to_the_song(repet: Separator, repository: Path, tmp_path: Path) -> None:
    line, background = loop_and_line(6)
    write_wav(tmp_path / "audio.wav", line + background)
    for name, separator in {"repet": repet, "demucs": load_tiny(repository)}.items():
        entry = make_entry(tmp_path / name, lambda f, s=separator: separate(s, tmp_path / "audio.wav", f))
        vocals, rest = read_wav(entry.path("vocals.wav")), read_wav(entry.path("accompaniment.wav"))
        assert np.abs(vocals + rest - (line + background)).max() < 1e-6
        assert entry.record == {
            "vocals_dbfs": round(dbfs(vocals), 4),
            "accompaniment_dbfs": round(dbfs(rest), 4),
            "peak": round(float(np.abs(line + background).max()), 4),
        }


def test_demucs_equals_its_own_apply_model(repository: Path) -> None:
    with quietly():
        from demucs.apply import apply_model
        from demucs.pretrained import get_model

    mix = noise(5.0)
    network = get_model("tiny", repository)
    wave = torch.from_numpy(mix)
    mean, deviation = wave.mean(0).mean(), wave.mean(0).std() + 1e-8
    stems = apply_model(network, ((wave - mean) / deviation)[None], shifts=0, overlap=0.25)[0]
    expected = stems[network.sources.index("vocals")] * deviation + mean
    separator = load_tiny(repository)
    assert np.abs(separator.vocals(mix) - expected.numpy()).max() < 1e-6
    assert np.array_equal(separator.vocals(mix), separator.vocals(mix))


def test_demucs_identity_follows_the_weights(repository: Path, tmp_path: Path) -> None:
    weights = write_demucs(tmp_path)
    assert load_tiny(repository).identity == load_tiny(tmp_path).identity
    package = torch.load(weights, weights_only=False)
    next(iter(package["state"].values())).add_(1e-3)
    torch.save(package, tmp_path / "tiny0000.th")
    weights.unlink()
    assert load_tiny(tmp_path).identity != load_tiny(repository).identity


def test_damaged_demucs_weights_are_refused(tmp_path: Path) -> None:
    path = write_demucs(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(MissingPartError, match="checksum"):
        load_tiny(tmp_path)


def test_absent_demucs_model_and_folder_are_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match="cannot load 'other'"):
        load_tiny(repository, "other")
    with pytest.raises(MissingPartError, match=r"none: no such folder"):
        load_tiny(tmp_path / "none")


def test_demucs_hub_out_of_reach_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingPartError, match=r"could not be reached .*separator\.repo"):
        load_separator(SeparatorConfig(name="demucs"), CPU)


@pytest.mark.parametrize(("level", "status"), [(0.0, "silent"), (0.0009, "silent"), (np.nan, "not_finite")])
def test_songs_that_cannot_be_separated(repet: Separator, tmp_path: Path, level: float, status: str) -> None:
    write_wav(tmp_path / "audio.wav", noise(1.0, level))
    with pytest.raises(SongError) as caught:
        separate(repet, tmp_path / "audio.wav", tmp_path)
    assert caught.value.status == status
    assert not (tmp_path / "vocals.wav").exists()
