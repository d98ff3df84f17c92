"""build-popdb with Demucs and the VAE, small ones in the official layouts, by their official loaders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from flows.build_popdb import build_popdb
from samuel.config import Settings
from samuel.popdb.dataset import open_popdb
from samuel.popdb.parts import Parts
from tests.popdb.latents import small_settings
from tests.weights import write_demucs, write_stable_audio

RATE = 44_100


@pytest.fixture
def low_songs(tmp_path: Path) -> Path:
    """Four songs of 4 to 10 s below 200 Hz, which the small weights give back."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for number in range(4):
        time_s = np.arange((4 + 2 * number) * RATE) / RATE
        chord = sum(np.sin(2 * np.pi * hertz * time_s) for hertz in (50 + 5 * number, 110, 160))
        soundfile.write(folder / f"{number}.wav", 0.2 * np.stack([chord, 0.8 * chord], axis=1), RATE)
    return folder


def settings_of(root: Path, songs: Path, **sections: Any) -> Settings:
    write_demucs(root / "demucs")
    write_stable_audio(root / "vae", faithful=True)
    parts = {
        "separator": {"name": "demucs", "model": "tiny", "repo": root / "demucs"},
        "codec": {"name": "stable-audio-open", "path": str(root / "vae")},
    }
    return small_settings(root, songs={"source": "folder", "path": songs}, **(parts | sections))


def test_the_real_parts_build_the_dataset_and_let_go_what_is_spent(
    server: str, tmp_path: Path, low_songs: Path
) -> None:
    kept = settings_of(tmp_path / "kept", low_songs)
    gone = settings_of(tmp_path / "gone", low_songs, retention={"audio": "remove", "stems": "remove"})
    assert build_popdb(kept)["pairs"] == 1 + 2 + 2 + 3
    popdb = open_popdb(kept.popdb_path)
    assert popdb.info["separator"].startswith("demucs/")
    assert popdb.info["codec"].startswith("stable-audio-open/2 mean weights=")
    assert len(list(kept.data.rglob("*.flac"))) == 8
    # What is removed on the way changes no byte of the result, and a second run wants nothing of it.
    for _ in range(2):
        build_popdb(gone)
        assert not [*gone.data.rglob("*.flac"), *gone.data.rglob("audio.wav")]
        assert open_popdb(gone.popdb_path).info == popdb.info


def test_songs_that_share_batches_make_the_same_dataset(server: str, tmp_path: Path, low_songs: Path) -> None:
    shards = []
    for hand in (1, 4):
        batches = {"batch": 4}
        settings = settings_of(tmp_path / str(hand), low_songs)
        parts = {
            "separator": settings.separator.model_copy(update=batches),
            "codec": settings.codec.model_copy(update=batches),
        }
        settings = settings.model_copy(update={"songs_in_hand": hand, **parts})
        build_popdb(settings)
        shards.append(next(Path(settings.popdb_path).glob("shards/*")).read_bytes())
    assert shards[0] == shards[1]
    assert Parts(settings).separator.identity.startswith("demucs/")
