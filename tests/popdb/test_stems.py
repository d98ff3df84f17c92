"""Stems on disk: a pair that sums to the song to the last bit."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.audio import SAMPLE_RATE, Audio
from samuel.errors import InputError
from samuel.popdb.stages import read_stems, write_stems

STEP = 2.0**-23


def noise(level: float, seed: int = 0, seconds: float = 1.0) -> Audio:
    shape = (2, int(seconds * SAMPLE_RATE))
    return (level * np.random.default_rng(seed).uniform(-1, 1, shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("mix_level", "vocal_level", "scale"),
    [
        (0.5, 0.4, 1.0),
        (1.0, 0.0, 0.5),
        (1.4, 1.3, 0.25),
        (0.9, 0.5, 0.5),
        (3.0, 5.0, 0.0625),
        (0.0, 0.0, 1.0),
    ],
)
def test_the_pair_sums_to_the_last_bit(
    tmp_path: Path, mix_level: float, vocal_level: float, scale: float
) -> None:
    mix, vocals = noise(mix_level), noise(vocal_level, seed=1)
    mix[0, :2] = mix_level, -mix_level
    vocals[0, :2] = -vocal_level, vocal_level
    assert write_stems(mix, vocals, tmp_path) == scale
    read, rest = read_stems(tmp_path, scale)
    grid = np.rint(mix.astype(np.float64) * scale / STEP) * STEP / scale
    assert np.array_equal((read + rest).astype(np.float64), grid)
    assert np.array_equal(read.astype(np.float64) + rest.astype(np.float64), grid)
    assert np.abs(read - vocals).max() <= STEP / scale
    assert read.dtype == rest.dtype == np.float32


def test_the_same_stems_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_stems(noise(0.5), noise(0.2, seed=1), tmp_path / name)
    for stem in ("vocals.flac", "accompaniment.flac"):
        assert (tmp_path / "a" / stem).read_bytes() == (tmp_path / "b" / stem).read_bytes()


def test_anybody_can_listen_to_them(tmp_path: Path) -> None:
    mix, vocals = noise(0.5), noise(0.2, seed=1)
    write_stems(mix, vocals, tmp_path)
    heard, rate = soundfile.read(tmp_path / "vocals.flac", dtype="float64")
    assert soundfile.info(tmp_path / "vocals.flac").subtype == "PCM_24"
    assert rate == SAMPLE_RATE
    assert np.abs(heard.T - vocals).max() <= STEP / 2


def test_damaged_stems_are_named(tmp_path: Path) -> None:
    write_stems(noise(0.5), noise(0.2, seed=1), tmp_path)
    soundfile.write(tmp_path / "vocals.flac", np.zeros((100, 2)), SAMPLE_RATE, subtype="PCM_24")
    with pytest.raises(InputError, match="different length"):
        read_stems(tmp_path, 1.0)
    soundfile.write(tmp_path / "vocals.flac", np.zeros((100, 1)), 48_000, subtype="PCM_24")
    with pytest.raises(InputError, match=r"vocals\.flac: 48000 Hz, 1 channels"):
        read_stems(tmp_path, 1.0)
    (tmp_path / "vocals.flac").write_bytes(b"fLaC and no more")
    with pytest.raises(InputError, match=r"vocals\.flac: not readable"):
        read_stems(tmp_path, 1.0)
