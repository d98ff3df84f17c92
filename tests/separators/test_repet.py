"""REPET-SIM: what repeats goes, what does not stays."""

import numpy as np
import pytest
import torch

from samuel.audio import SAMPLE_RATE, Audio, si_sdr_db
from samuel.config import SeparatorConfig
from samuel.separators import Separator, load_separator


def loop_and_line(seconds: int = 24, seed: int = 0) -> tuple[Audio, Audio]:
    """A background of 2 s that returns, and a gliding line over it that does not: line, background."""
    rng = np.random.default_rng(seed)
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
    return load_separator(SeparatorConfig(), torch.device("cpu"))


def test_repet_parts_a_line_from_what_repeats(repet: Separator) -> None:
    line, background = loop_and_line()
    mix = line + background
    vocals = repet.vocals(mix)
    assert vocals.shape == mix.shape
    assert vocals.dtype == np.float32
    assert si_sdr_db(vocals, line) - si_sdr_db(mix, line) > 6.0
    assert si_sdr_db(mix - vocals, background) - si_sdr_db(mix, background) > 6.0


@pytest.mark.parametrize("beyond", [0, 512, 1023])
def test_a_song_of_any_length_ends_without_a_burst(repet: Separator, beyond: int) -> None:
    mix = noise((40 * 1024 + beyond + 0.5) / SAMPLE_RATE)
    assert mix.shape[1] % 1024 == beyond
    vocals = repet.vocals(mix)
    assert np.abs(vocals[:, -2048:]).max() < 2 * np.abs(mix).max()
