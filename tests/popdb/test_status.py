"""What is tried, what is remembered of a failure, and what is said of it."""

from pathlib import Path
from typing import Any

import pytest

from samuel.errors import SongError
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status, attempt

SONG = Song("s1", "A title")


def tried(root: Path, make: Any, **options: Any) -> Outcome:
    outcome = attempt(SONG, "download", root / "k", make, {"video_id": "v"}, **options)
    assert outcome
    return outcome


def fail_with(status: Status) -> Any:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "half.wav").write_text("half")
        raise SongError(status, f"because of {status}")

    return make


def succeed(folder: Path) -> dict[str, Any]:
    (folder / "audio.wav").write_text("whole")
    return {"peak": 0.5}


def never(_: Path) -> dict[str, Any]:
    raise AssertionError


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_failure_is_remembered_and_tried_again_where_it_may_pass(tmp_path: Path, status: Status) -> None:
    first = tried(tmp_path, fail_with(status))
    assert (first.ok, first.did_work) == (False, True)
    again = tried(tmp_path, fail_with(status) if status.retryable else never)
    assert (again.status, again.message, again.did_work) == (status, f"because of {status}", status.retryable)
    assert again.attempts == 1 + status.retryable
    if status.retryable:
        assert [tried(tmp_path, succeed).attempts for _ in range(2)] == [3, 3]
        assert not (tmp_path / "k" / "half.wav").exists()


@pytest.mark.parametrize("damage", ['{"status": "wonderful"}'])
def test_a_damaged_memory_of_a_failure_is_none(tmp_path: Path, damage: str) -> None:
    tried(tmp_path, fail_with(Status.UNAVAILABLE))
    (tmp_path / "k.failed.json").write_bytes(damage.encode("latin-1"))
    assert tried(tmp_path, succeed).attempts == 1


def test_a_message_carries_no_folder_of_this_machine(tmp_path: Path) -> None:
    source = tmp_path / "my songs" / "a #1.wav"
    source.parent.mkdir()
    song = Song("s1", "a", url=source.as_uri())

    def fail(folder: Path) -> dict[str, Any]:
        words = (
            f"{folder}/source.wav and file:{folder.resolve()}/x.wav and {song.url} and {source}: bad \ud800"
        )
        raise SongError(Status.DECODE_FAILED, words)

    outcome = attempt(song, "download", tmp_path / "data" / "raw" / "k", fail, {})
    assert outcome
    assert outcome.message == "source.wav and x.wav and a #1.wav and a #1.wav: bad ?"
