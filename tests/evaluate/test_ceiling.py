from pathlib import Path

import numpy as np
import pytest
import torch

from samuel.audio import read_wav, write_wav
from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.config import CodecConfig
from samuel.evaluate.systems import (
    CEILING,
    REAL,
    Lineup,
    System,
    Track,
)
from samuel.evaluate.tracks import with_ceiling
from tests.evaluate.songs import band


@pytest.fixture
def codec() -> Codec:
    return load_codec(CodecConfig(), torch.device("cpu"))


@pytest.fixture
def lineup(tmp_path: Path) -> Lineup:
    write_wav(tmp_path / "a.wav", band(60, 0.5, 2.0))
    (tmp_path / "b.wav").write_text("no audio")
    files = {name: tmp_path / f"{name}.wav" for name in "ab"}
    return Lineup(tuple(Track(name, name, path) for name, path in files.items()), (System(REAL, files),))


def test_the_ceiling_is_the_codecs_round_trip(lineup: Lineup, codec: Codec, tmp_path: Path) -> None:
    raised = with_ceiling(lineup, codec, tmp_path / "entries")
    assert [system.name for system in raised.systems] == [REAL, CEILING]
    ceiling = raised.system(CEILING)
    assert ceiling
    assert ceiling.files.keys() == {"a"}
    audio = band(60, 0.5, 2.0)
    expected = codec.decode(codec.encode(torch.from_numpy(audio)[None]))[0].numpy()[:, : audio.shape[1]]
    assert read_wav(ceiling.files["a"]) == pytest.approx(np.clip(expected, -1, 1), abs=1e-6)
    (problem,) = raised.problems
    assert (problem.system, problem.track) == (CEILING, "b")
    assert "not readable as audio" in problem.message


def test_it_is_found_again(
    lineup: Lineup, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = with_ceiling(lineup, codec, tmp_path / "entries").system(CEILING)
    monkeypatch.setattr(codec, "encode", None)
    assert with_ceiling(lineup, codec, tmp_path / "entries").system(CEILING) == first


def test_without_true_accompaniments_there_is_none(lineup: Lineup, codec: Codec, tmp_path: Path) -> None:
    alone = Lineup(lineup.tracks, ())
    assert with_ceiling(alone, codec, tmp_path / "entries") is alone
