import dataclasses
from pathlib import Path

import numpy as np
import pytest

from samuel.audio import Audio, write_wav
from samuel.codec import load_codec
from samuel.config import CodecConfig
from samuel.device import resolve_device
from samuel.popdb import pipeline
from samuel.popdb.acquisition import acquire_songs
from samuel.popdb.catalog import Song
from samuel.popdb.outcome import Outcome
from tests.popdb.latents import small_settings


@dataclasses.dataclass
class Half:
    """A separator that takes half of everything for the voice."""

    identity: str

    def vocals(self, mix: Audio) -> Audio:
        return (mix / 2).astype(np.float32)

    def cancel(self) -> None:
        raise NotImplementedError


def encoded(root: Path, level: float = 0.1) -> Outcome:
    """A song of noise through all three stages."""
    wav = root / f"song-{level}.wav"
    write_wav(wav, (level * np.random.default_rng(0).normal(size=(2, 4 * 44_100))).astype(np.float32))
    settings = small_settings(root)
    song = Song(f"song{level}", "noise", url=wav.as_uri())
    [downloaded] = acquire_songs([song], settings)
    return pipeline.encode_song(pipeline.separate_song(downloaded, settings), settings)


def test_latents_are_made_again_when_what_determines_them_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load_codec(CodecConfig(), resolve_device("cpu"))
    monkeypatch.setattr(pipeline, "separator_for", lambda *_: Half("half/1"))
    monkeypatch.setattr(pipeline, "codec_for", lambda *_: codec)
    assert encoded(tmp_path).worked
    assert not encoded(tmp_path).worked
    assert encoded(tmp_path, level=0.2).worked
    for stage in pipeline.VERSIONS:
        monkeypatch.setitem(pipeline.VERSIONS, stage, 99)
    assert encoded(tmp_path).worked
    monkeypatch.setattr(codec, "identity", "mel/other weights")
    again = encoded(tmp_path)
    assert again.worked
    assert again.record["codec"] == "mel/other weights"
    assert again.record["separator"] == "half/1"
    assert len(list((tmp_path / "data" / "latents").glob("*/entry.json"))) == 4


def test_another_separator_separates_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for identity in ("half/1", "half/2", "half/2"):
        monkeypatch.setattr(pipeline, "separator_for", lambda *_, name=identity: Half(name))
        encoded(tmp_path)
    assert len(list((tmp_path / "data" / "stems").glob("*/entry.json"))) == 2
