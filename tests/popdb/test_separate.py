"""Songs to stems: what is written, and which songs are refused."""

from pathlib import Path

import numpy as np
import pytest

from samuel.artifacts import make_artifact
from samuel.audio import (
    SAMPLE_RATE,
    Audio,
    dbfs,
    read_wav,
    write_wav,
)
from samuel.errors import SongError
from samuel.popdb.stages import read_stems, separate


class Louder:
    """Takes a multiple of the song for its vocals."""

    identity = "louder/1"

    def __init__(self, factor: float = 0.5) -> None:
        self.factor = factor

    def vocals(self, mix: Audio) -> Audio:
        return mix * np.float32(self.factor)

    def cancel(self) -> None:
        raise NotImplementedError


def noise(seconds: float, level: float = 0.1) -> Audio:
    shape = (2, int(seconds * SAMPLE_RATE))
    return (level * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("factor", [0.3, -4.0])
def test_stems_sum_to_the_song(tmp_path: Path, factor: float) -> None:
    write_wav(tmp_path / "audio.wav", noise(3.0))
    mix = read_wav(tmp_path / "audio.wav")
    separator = Louder(factor)
    entry = make_artifact(
        tmp_path / "stems", lambda folder: separate(separator, tmp_path / "audio.wav", folder)
    )
    vocals, rest = read_stems(entry.folder, entry.record["stems_scale"])
    assert np.abs(vocals - factor * mix).max() < 1e-6
    assert np.abs(vocals + rest - mix).max() < 1e-6
    assert entry.record == {
        "stems_scale": 1.0 if factor > 0 else 0.25,
        "vocals_dbfs": round(dbfs(mix * np.float32(factor)), 4),
        "accompaniment_dbfs": pytest.approx(dbfs(mix * np.float32(1 - factor)), abs=1e-3),
        "peak": round(float(np.abs(mix).max()), 4),
    }


@pytest.mark.parametrize(
    ("level", "status"), [(0.0, "silent"), (0.0009, "silent"), (np.nan, "not_finite"), (3e4, "decode_failed")]
)
def test_songs_that_cannot_be_separated(tmp_path: Path, level: float, status: str) -> None:
    write_wav(tmp_path / "audio.wav", noise(1.0, level))
    with pytest.raises(SongError) as caught:
        separate(Louder(), tmp_path / "audio.wav", tmp_path)
    assert caught.value.status == status
    assert [path.name for path in tmp_path.iterdir()] == ["audio.wav"]


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_vocals_that_are_no_numbers(tmp_path: Path, factor: float) -> None:
    write_wav(tmp_path / "audio.wav", noise(1.0))
    with pytest.raises(SongError, match="the vocals by louder/1") as caught:
        separate(Louder(factor), tmp_path / "audio.wav", tmp_path)
    assert caught.value.status == "not_finite"
