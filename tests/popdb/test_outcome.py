import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from samuel.errors import OperatorError, SongError
from samuel.popdb.songs import Song
from samuel.popdb.status import Status, attempt

SONG = Song("s1", "A title")


def fail_with(status: Status) -> Any:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "half.wav").write_text("half")
        raise SongError(status, f"because of {status}")

    return make


def succeed(folder: Path) -> dict[str, Any]:
    (folder / "audio.wav").write_text("whole")
    return {"peak": 0.5}


def test_success_carries_what_came_before(tmp_path: Path) -> None:
    outcome = attempt(SONG, "separate", tmp_path / "k", succeed, {"video_id": "v"})
    assert outcome.ok
    assert outcome.did_work
    assert (outcome.status, outcome.attempts) == (Status.OK, 1)
    assert outcome.record == {"video_id": "v", "peak": 0.5}


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    attempt(SONG, "separate", tmp_path / "k", succeed, {})
    again = attempt(SONG, "separate", tmp_path / "k", lambda _: pytest.fail("done again"), {})
    assert again.ok
    assert not again.did_work


@pytest.mark.parametrize("status", [s for s in Status if not s.retryable and s is not Status.OK])
def test_a_final_failure_is_not_tried_again(tmp_path: Path, status: Status) -> None:
    first = attempt(SONG, "download", tmp_path / "k", fail_with(status), {})
    again = attempt(SONG, "download", tmp_path / "k", lambda _: pytest.fail("tried again"), {})
    assert not first.ok
    assert first.did_work
    assert (again.status, again.message, again.attempts) == (status, f"because of {status}", 1)
    assert not again.did_work


@pytest.mark.parametrize("status", [s for s in Status if s.retryable])
def test_a_passing_failure_is_tried_again_and_counted(tmp_path: Path, status: Status) -> None:
    folder = tmp_path / "k"
    for count in (1, 2):
        assert attempt(SONG, "download", folder, fail_with(status), {}).attempts == count
    assert attempt(SONG, "download", folder, succeed, {}).attempts == 3
    assert attempt(SONG, "download", folder, succeed, {}).attempts == 3
    assert not (folder / "half.wav").exists()


def test_a_final_failure_is_tried_again_under_other_limits(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    attempt(SONG, "download", folder, fail_with(Status.TOO_LONG), {}, limits={Status.TOO_LONG: 900})
    same = attempt(
        SONG, "download", folder, lambda _: pytest.fail("tried again"), {}, limits={Status.TOO_LONG: 900}
    )
    assert same.status == Status.TOO_LONG
    assert attempt(SONG, "download", folder, succeed, {}, limits={Status.TOO_LONG: 1200}).attempts == 2


def test_limits_concern_the_status_that_depends_on_them(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    attempt(SONG, "download", folder, fail_with(Status.UNAVAILABLE), {}, limits={Status.TOO_LONG: 900})
    outcome = attempt(SONG, "download", folder, succeed, {}, limits={Status.TOO_LONG: 1200})
    assert (outcome.status, outcome.did_work) == (Status.UNAVAILABLE, False)


def test_what_failed_is_not_tried_without_leave(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    attempt(SONG, "download", folder, fail_with(Status.NETWORK), {})
    outcome = attempt(SONG, "download", folder, succeed, {}, retry=lambda _: False)
    assert (outcome.status, outcome.attempts, outcome.did_work) == (Status.NETWORK, 1, False)
    assert attempt(SONG, "download", folder, succeed, {}).ok


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"status": "wonderful"}', "\xff"])
def test_a_damaged_memory_of_a_failure_is_none(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "k"
    attempt(SONG, "download", folder, fail_with(Status.UNAVAILABLE), {})
    (tmp_path / "k.failed.json").write_bytes(damage.encode("latin-1"))
    assert attempt(SONG, "download", folder, succeed, {}).attempts == 1


def test_a_message_that_no_file_can_hold_is_kept_as_far_as_it_goes(tmp_path: Path) -> None:
    def fail(_: Path) -> dict[str, Any]:
        raise SongError(Status.UNAVAILABLE, "gone \ud800")

    for _ in range(2):
        assert attempt(SONG, "download", tmp_path / "k", fail, {}).message == "gone ?"


def test_those_who_want_the_same_share_one_failure(tmp_path: Path) -> None:
    calls: list[int] = []

    def fail(_: Path) -> dict[str, Any]:
        calls.append(1)
        time.sleep(0.01)
        raise SongError(Status.UNAVAILABLE, "gone")

    with ThreadPoolExecutor(8) as executor:
        outcomes = list(executor.map(lambda _: attempt(SONG, "download", tmp_path / "k", fail, {}), range(8)))
    assert {(outcome.status, outcome.attempts) for outcome in outcomes} == {(Status.UNAVAILABLE, 1)}
    assert len(calls) == 1


def test_what_an_operator_must_mend_stops_the_run(tmp_path: Path) -> None:
    def full(_: Path) -> dict[str, Any]:
        raise OperatorError("disk full")

    with pytest.raises(OperatorError, match="disk full"):
        attempt(SONG, "download", tmp_path / "k", full, {})
    assert attempt(SONG, "download", tmp_path / "k", succeed, {}).attempts == 1


def test_a_message_carries_no_folder_of_this_machine(tmp_path: Path) -> None:
    source = tmp_path / "my songs" / "a #1.wav"
    source.parent.mkdir()
    song = Song("s1", "a", url=source.as_uri())

    def fail(folder: Path) -> dict[str, Any]:
        words = f"{folder}/source.wav and file:{folder.resolve()}/x.wav and {song.url} and {source}: bad"
        raise SongError(Status.DECODE_FAILED, words)

    outcome = attempt(song, "download", tmp_path / "data" / "raw" / "k", fail, {})
    assert outcome.message == "source.wav and x.wav and a #1.wav and a #1.wav: bad"
