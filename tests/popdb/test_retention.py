"""What is removed once its successor is safe, and what is made again because it is wanted."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel.artifacts import find_artifact, release
from samuel.audio import Audio
from samuel.errors import OperatorError
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from tests.popdb.latents import small_settings
from tests.popdb.noise import Share, run, separate, songs_of


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Share:
    separator = Share()
    monkeypatch.setattr(Parts, "separator", separator)
    return separator


def files(root: Path, suffix: str) -> int:
    return len(list((root / "data").rglob(f"*{suffix}")))


def keeping(audio: str, stems: str) -> Any:
    return {"audio": audio, "stems": stems}


@pytest.mark.parametrize("audio", ["keep", "remove"])
@pytest.mark.parametrize("stems", ["keep", "remove"])
def test_what_is_removed_is_not_made_again(tmp_path: Path, half: Share, audio: str, stems: str) -> None:
    songs, settings = songs_of(tmp_path), small_settings(tmp_path, retention=keeping(audio, stems))
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


def test_latents_that_are_gone_are_made_again_from_the_start(tmp_path: Path, half: Share) -> None:
    songs, settings = songs_of(tmp_path), small_settings(tmp_path, retention=keeping("remove", "remove"))
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
    tmp_path: Path, half: Share, stems: str, downloads: int
) -> None:
    songs, gone = songs_of(tmp_path), keeping("remove", stems)
    run(songs, small_settings(tmp_path, retention=gone))
    settings = small_settings(tmp_path, retention=gone, popdb={"chunk_frames": 72})
    assert stages.reclaim_audio(Parts(settings)) == downloads
    assert all(outcome.ok and outcome.did_work for outcome in run(songs, settings))
    assert half.songs == 3 + downloads
    assert files(tmp_path, ".safetensors") == 6


def test_a_song_that_failed_keeps_what_it_was_tried_with(tmp_path: Path, half: Share) -> None:
    settings = small_settings(tmp_path, retention=keeping("remove", "remove"), popdb={"chunk_frames": 128})
    assert {outcome.status for outcome in run(songs_of(tmp_path), settings)} == {"too_short"}
    assert (files(tmp_path, "audio.wav"), files(tmp_path, ".flac")) == (3, 6)


@pytest.mark.parametrize("stage", ["separate", "encode"])
def test_a_source_removed_under_a_run_stops_it_with_advice(tmp_path: Path, half: Share, stage: str) -> None:
    settings, songs = small_settings(tmp_path), songs_of(tmp_path, 1)
    parts = Parts(settings)
    step = stages.separate_songs if stage == "separate" else stages.encode_songs
    before = acquire_songs(songs, parts) if stage == "separate" else separate(songs, settings)
    assert before[0].artifact
    release(before[0].artifact.folder)
    with pytest.raises(OperatorError, match="start this one again"):
        step(before, parts)
    assert stages.reclaim_audio(parts) == (1 if stage == "separate" else 0)
    assert run(songs, settings)[0].ok


def test_a_kill_between_the_word_and_the_deed_of_a_release(tmp_path: Path) -> None:
    [downloaded] = acquire_songs(songs_of(tmp_path, 1), Parts(small_settings(tmp_path)))
    assert downloaded.artifact
    folder, audio = downloaded.artifact.folder, downloaded.artifact.path("audio.wav").read_bytes()
    release(folder)
    (folder / "audio.wav").write_bytes(audio)
    release(folder)
    artifact = find_artifact(folder)
    assert artifact
    assert artifact.released
    assert artifact.sha256 == downloaded.artifact.sha256
    assert [path.name for path in folder.iterdir()] == ["entry.json"]


def test_as_many_songs_are_in_hand_as_the_settings_say(
    tmp_path: Path, half: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_here = threading.Barrier(3, timeout=20)

    def vocals(mix: Audio) -> Audio:
        all_here.wait()
        return mix * np.float32(0.5)

    monkeypatch.setattr(half, "vocals", vocals)
    parts = Parts(small_settings(tmp_path).model_copy(update={"songs_in_hand": 3}))
    done: list[str] = []
    downloaded = acquire_songs(songs_of(tmp_path), parts)
    separated = stages.separate_songs(downloaded, parts, lambda song: done.append(song.song.song_id))
    assert [outcome.song.song_id for outcome in separated] == ["song0", "song1", "song2"]
    assert sorted(done) == ["song0", "song1", "song2"]


def test_what_concerns_all_songs_ends_the_stage_and_keeps_what_is_done(
    tmp_path: Path, half: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vocals(mix: Audio) -> Audio:
        half.songs += 1
        if half.songs == 2:
            raise OSError(28, "No space left on device")
        return mix * np.float32(0.5)

    monkeypatch.setattr(half, "vocals", vocals)
    parts = Parts(small_settings(tmp_path).model_copy(update={"songs_in_hand": 1}))
    downloaded = acquire_songs(songs_of(tmp_path), parts)
    with pytest.raises(OSError, match="No space left"):
        stages.separate_songs(downloaded, parts)
    assert (half.songs, half.cancelled) == (2, 1)
    assert files(tmp_path, ".flac") == 2
