"""What is removed once its successor is safe, and what is made again because it is wanted."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel.artifacts import find_artifact, release
from samuel.audio import Audio, write_wav
from samuel.config import Settings
from samuel.errors import OperatorError
from samuel.popdb import stages as pipeline
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome
from tests.popdb.latents import small_settings


class Half:
    """Takes half of everything for the voice, and counts."""

    identity = "half/1"

    def __init__(self) -> None:
        self.songs = 0

    def vocals(self, mix: Audio) -> Audio:
        self.songs += 1
        return mix * np.float32(0.5)

    def cancel(self) -> None:
        """Nobody waits."""


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Half:
    separator = Half()
    monkeypatch.setattr(Parts, "separator", separator)
    return separator


def songs_of(folder: Path, count: int = 3) -> list[Song]:
    songs = []
    for number in range(count):
        wav = folder / f"{number}.wav"
        if not wav.exists():
            write_wav(wav, np.random.default_rng(number).normal(0, 0.1, (2, 4 * 44_100)).astype(np.float32))
        songs.append(Song(f"song{number}", "noise", url=wav.as_uri()))
    return songs


def run(songs: list[Song], settings: Settings) -> list[Outcome]:
    """As the flow does it."""
    pipeline.reclaim_audio(Parts(settings))
    downloaded = acquire_songs(songs, Parts(settings))
    return pipeline.encode_songs(pipeline.separate_songs(downloaded, Parts(settings)), Parts(settings))


def files(root: Path, suffix: str) -> int:
    return len(list((root / "data").rglob(f"*{suffix}")))


@pytest.mark.parametrize("audio", ["keep", "remove"])
@pytest.mark.parametrize("stems", ["keep", "remove"])
def test_what_is_removed_is_not_made_again(tmp_path: Path, half: Half, audio: str, stems: str) -> None:
    songs = songs_of(tmp_path)
    settings = small_settings(tmp_path, retention={"audio": audio, "stems": stems})
    first, second = run(songs, settings), run(songs, settings)
    assert all(outcome.ok and outcome.did_work for outcome in first)
    assert all(outcome.ok and not outcome.did_work for outcome in second)
    assert [o.artifact and o.artifact.sha256 for o in first] == [
        o.artifact and o.artifact.sha256 for o in second
    ]
    assert [o.record for o in first] == [o.record for o in second]
    assert half.songs == 3
    assert files(tmp_path, "audio.wav") == (3 if audio == "keep" else 0)
    assert files(tmp_path, ".flac") == (6 if stems == "keep" else 0)
    assert files(tmp_path, ".safetensors") == 3


def test_latents_that_are_gone_are_made_again_from_the_start(tmp_path: Path, half: Half) -> None:
    songs = songs_of(tmp_path)
    settings = small_settings(tmp_path, retention={"audio": "remove", "stems": "remove"})
    first = run(songs, settings)
    assert first[1].artifact
    first[1].artifact.path("latents.safetensors").unlink()
    again = run(songs, settings)
    assert [outcome.did_work for outcome in again] == [False, True, False]
    assert again[1].artifact
    assert again[1].artifact.sha256 == first[1].artifact.sha256
    assert half.songs == 4
    assert files(tmp_path, ".flac") == files(tmp_path, "audio.wav") == 0


@pytest.mark.parametrize(("stems", "downloads"), [("remove", 3), ("keep", 0)])
def test_other_settings_want_the_audio_back_unless_there_are_stems(
    tmp_path: Path, half: Half, stems: str, downloads: int
) -> None:
    songs = songs_of(tmp_path)
    gone: dict[str, Any] = {"audio": "remove", "stems": stems}
    run(songs, small_settings(tmp_path, retention=gone))
    settings = small_settings(tmp_path, retention=gone, popdb={"chunk_frames": 72})
    assert pipeline.reclaim_audio(Parts(settings)) == downloads
    assert all(outcome.ok and outcome.did_work for outcome in run(songs, settings))
    assert half.songs == 3 + downloads
    assert files(tmp_path, ".safetensors") == 6


def test_a_song_that_failed_keeps_what_it_was_tried_with(tmp_path: Path, half: Half) -> None:
    songs = songs_of(tmp_path)
    settings = small_settings(
        tmp_path, retention={"audio": "remove", "stems": "remove"}, popdb={"chunk_frames": 128}
    )
    outcomes = run(songs, settings)
    assert {outcome.status for outcome in outcomes} == {"too_short"}
    assert files(tmp_path, "audio.wav") == 3
    assert files(tmp_path, ".flac") == 6


def test_audio_removed_under_a_run_stops_it_with_advice(tmp_path: Path, half: Half) -> None:
    settings = small_settings(tmp_path)
    [downloaded] = acquire_songs(songs_of(tmp_path, 1), Parts(settings))
    assert downloaded.artifact
    release(downloaded.artifact.folder)
    with pytest.raises(OperatorError, match="start this one again"):
        pipeline.separate_song(downloaded, Parts(settings))
    assert pipeline.reclaim_audio(Parts(settings)) == 1
    assert run(songs_of(tmp_path, 1), settings)[0].ok


def test_stems_removed_under_a_run_stop_it_with_advice(tmp_path: Path, half: Half) -> None:
    settings = small_settings(tmp_path)
    [separated] = pipeline.separate_songs(
        acquire_songs(songs_of(tmp_path, 1), Parts(settings)), Parts(settings)
    )
    assert separated.artifact
    release(separated.artifact.folder)
    with pytest.raises(OperatorError, match="start this one again"):
        pipeline.encode_song(separated, Parts(settings))
    assert run(songs_of(tmp_path, 1), settings)[0].ok


def test_a_kill_between_the_word_and_the_deed_of_a_release(tmp_path: Path) -> None:
    [downloaded] = acquire_songs(songs_of(tmp_path, 1), Parts(small_settings(tmp_path)))
    assert downloaded.artifact
    folder, audio = downloaded.artifact.folder, downloaded.artifact.path("audio.wav").read_bytes()
    release(folder)
    (folder / "audio.wav").write_bytes(audio)
    release(folder)
    entry = find_artifact(folder)
    assert entry
    assert entry.released
    assert entry.sha256 == downloaded.artifact.sha256
    assert [path.name for path in folder.iterdir()] == ["entry.json"]


def test_as_many_songs_are_in_hand_as_the_settings_say(
    tmp_path: Path, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_here = threading.Barrier(3, timeout=20)

    def vocals(mix: Audio) -> Audio:
        all_here.wait()
        return mix * np.float32(0.5)

    monkeypatch.setattr(half, "vocals", vocals)
    settings = small_settings(tmp_path).model_copy(update={"songs_in_hand": 3})
    done: list[str] = []
    downloaded = acquire_songs(songs_of(tmp_path), Parts(settings))
    separated = pipeline.separate_songs(
        downloaded, Parts(settings), lambda song: done.append(song.song.song_id)
    )
    assert [outcome.song.song_id for outcome in separated] == ["song0", "song1", "song2"]
    assert sorted(done) == ["song0", "song1", "song2"]


def test_what_concerns_all_songs_ends_the_stage_and_keeps_what_is_done(
    tmp_path: Path, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[str] = []

    def vocals(mix: Audio) -> Audio:
        half.songs += 1
        if half.songs == 2:
            raise OSError(28, "No space left on device")
        return mix * np.float32(0.5)

    monkeypatch.setattr(half, "vocals", vocals)
    monkeypatch.setattr(half, "cancel", lambda: cancelled.append("separator"))
    settings = small_settings(tmp_path).model_copy(update={"songs_in_hand": 1})
    downloaded = acquire_songs(songs_of(tmp_path), Parts(settings))
    with pytest.raises(OSError, match="No space left"):
        pipeline.separate_songs(downloaded, Parts(settings))
    assert cancelled == ["separator"]
    assert half.songs == 2
    assert files(tmp_path, ".flac") == 2
