import errno
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from samuel.config import DownloadConfig
from samuel.errors import OperatorError, SongError
from samuel.popdb.rate_limit import Pace, Request
from samuel.popdb.status import Status

START = 1_700_000_000.0
PASSING = [Status.RATE_LIMITED, Status.FORBIDDEN, Status.NETWORK, Status.SERVER_ERROR]


class Time:
    """A clock that only `sleep` moves; `during` is called in each sleep."""

    def __init__(self) -> None:
        self.now, self.slices = START, list[float]()
        self.during: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slices.append(seconds)
        self.now += seconds
        self.during()


@pytest.fixture
def fake() -> Time:
    return Time()


def config(**changes: Any) -> DownloadConfig:
    plain: dict[str, Any] = {"search_interval_s": 0, "download_interval_s": 0, "jitter": 0, "stop_after": 100}
    return DownloadConfig(**plain | changes)


def pace_at(folder: Path, fake: Time, **changes: Any) -> Pace:
    return Pace(config(**changes), folder, clock=fake.clock, sleep=fake.sleep)


def waited(pace: Pace, fake: Time, what: Request = "download") -> float:
    before = fake.now
    assert pace.turn(what) == fake.now
    return fake.now - before


def refused(pace: Pace, status: Status = Status.RATE_LIMITED) -> None:
    pace.report("download", status, pace.turn("download"))


# -- spacing --


def test_turns_are_one_interval_apart(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, download_interval_s=12)
    assert [waited(pace, fake) for _ in range(4)] == [0, 12, 12, 12]
    assert max(fake.slices) == 1.0


def test_searches_and_downloads_are_spaced_apart_from_each_other(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, search_interval_s=2, download_interval_s=12)
    assert [waited(pace, fake, what) for what in ("download", "search", "search", "download")] == [
        0,
        0,
        2,
        10,
    ]


def test_an_interval_grows_at_random_by_no_more_than_its_jitter(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, download_interval_s=1, jitter=0.5)
    pace.turn("download")
    gaps = [waited(pace, fake) for _ in range(200)]
    assert 1 <= min(gaps) < 1.05  # of 200 draws from U(1, 1.5); by chance it fails once in 10⁹
    assert 1.45 < max(gaps) <= 1.5
    assert sum(gaps) / 200 == pytest.approx(1.25, abs=0.06)  # six standard errors


def test_a_turn_without_interval_writes_nothing(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake)
    pace.turn("search")
    before = (tmp_path / "pace.json").stat().st_ino
    keep = (tmp_path / "pace.json").open()  # so that its number is not given away again
    for _ in range(5):
        fake.now += 1
        pace.report("search", Status.OK, pace.turn("search"))
    keep.close()
    assert (tmp_path / "pace.json").stat().st_ino == before


def test_threads_together_keep_the_interval(tmp_path: Path) -> None:
    paces = [Pace(config(search_interval_s=0.02), tmp_path) for _ in range(2)]
    began: list[float] = []
    threads = [
        threading.Thread(target=lambda pace=paces[i % 2]: began.extend(pace.turn("search") for _ in range(5)))
        for i in range(6)
    ]
    _run(threads)
    assert len(began) == 30
    assert (
        min(b - a for a, b in pairwise(sorted(began))) >= 0.02 - 1e-6
    )  # what a float of such a time resolves


# -- pauses --


def test_each_rate_limit_in_a_row_pauses_everybody_twice_as_long(tmp_path: Path, fake: Time) -> None:
    pace, other = (pace_at(tmp_path, fake, pause_s=0.5, pause_ceiling_s=9) for _ in range(2))
    pauses: list[float] = []
    for _ in range(7):
        refused(pace)
        pauses.append(waited(other, fake, "search"))
    assert pauses == [0.5, 1, 2, 4, 8, 9, 9]


def test_a_pause_grows_by_its_jitter_but_not_over_the_ceiling(tmp_path: Path) -> None:
    pace = Pace(config(jitter=0.5, pause_ceiling_s=1000), tmp_path)
    for attempt in range(1, 7):
        shortest = min(1000, 60 * 2 ** (attempt - 1))
        drawn = [pace.pause(attempt) for _ in range(100)]
        assert shortest <= min(drawn)
        assert max(drawn) <= min(1000, 1.5 * shortest)
        assert len(set(drawn)) > 1 or shortest == 1000
    assert pace.pause(10_000) == 1000


def test_refusals_of_requests_in_flight_count_once(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, download_interval_s=1, stop_after=3)
    began = [pace.turn("download") for _ in range(5)]
    for start, status in zip(began, [Status.RATE_LIMITED, *PASSING], strict=True):
        pace.report("download", status, start)
        fake.now += 1
    assert waited(pace, fake) == 60 - 5  # the first one's pause, not extended by the others
    pace.report("download", Status.RATE_LIMITED, fake.now)
    assert waited(pace, fake) == 120  # the second in a row, not the sixth


@pytest.mark.parametrize("status", [status for status in Status if status not in PASSING])
def test_any_answer_ends_the_row(tmp_path: Path, fake: Time, status: Status) -> None:
    pace = pace_at(tmp_path, fake, stop_after=3)
    for _ in range(3):
        refused(pace)
        refused(pace)
        pace.report("download", status, pace.turn("download"))
    refused(pace)
    assert waited(pace, fake) == 60


@pytest.mark.parametrize("status", [Status.FORBIDDEN, Status.NETWORK, Status.SERVER_ERROR])
def test_other_faults_count_but_pause_nobody(tmp_path: Path, fake: Time, status: Status) -> None:
    pace = pace_at(tmp_path, fake)
    refused(pace, status)
    refused(pace, status)
    assert waited(pace, fake) == 0
    refused(pace)
    assert waited(pace, fake) == 240  # the third in a row


def test_a_pause_is_told(tmp_path: Path, fake: Time, caplog: pytest.LogCaptureFixture) -> None:
    refused(pace_at(tmp_path, fake))
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(START + 60))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == [f"the site limits us (1 in a row): nothing is asked until {until}"]


# -- stops --


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (Status.RATE_LIMITED, "larger download.download_interval_s"),
        (Status.FORBIDDEN, "PO-token provider"),
        (Status.SERVER_ERROR, "download.cookies"),
        (Status.NETWORK, "check the connection"),
    ],
)  # fmt: skip
def test_too_many_faults_in_a_row_stop_everybody(
    tmp_path: Path, fake: Time, status: Status, remedy: str
) -> None:
    pace, other = (pace_at(tmp_path, fake, stop_after=3) for _ in range(2))
    refused(pace, status)
    refused(other, status)
    with pytest.raises(OperatorError, match=rf"^3 requests .*{status}.*{remedy}.*What was downloaded stays"):
        refused(pace, status)
    for stopped in (pace, other, pace_at(tmp_path, fake)):
        with pytest.raises(OperatorError, match=remedy):
            stopped.turn("search")
        with pytest.raises(OperatorError, match=remedy), stopped.slot():
            pytest.fail("a slot in a run that was stopped")


def test_answered_searches_do_not_end_a_row_of_refused_downloads(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, stop_after=3)
    for _ in range(2):
        pace.report("search", Status.OK, pace.turn("search"))
        refused(pace)
    pace.report("search", Status.OK, pace.turn("search"))
    with pytest.raises(OperatorError, match="3 requests"):
        refused(pace)


def test_what_failed_before_counts_only_where_the_site_limits(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, stop_after=2)
    for status in (Status.FORBIDDEN, Status.NETWORK, Status.SERVER_ERROR):
        with pytest.raises(SongError), pace.asking("download", again=True):
            raise SongError(status, "as before")
    with pytest.raises(SongError), pace.asking("download", again=True):
        raise SongError(Status.RATE_LIMITED, "again")
    with pytest.raises(OperatorError, match="2 requests"), pace.asking("download", again=True):
        raise SongError(Status.RATE_LIMITED, "again")


def test_many_that_fail_again_make_weary_and_an_answer_rouses(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, stop_after=2)
    for weary in (False, True):
        with pytest.raises(SongError), pace.asking("download", again=True):
            raise SongError(Status.FORBIDDEN, "as before")
        assert pace.weary is weary
    with pace.asking("download", again=True):
        pass
    assert not pace.weary


def test_a_rest_is_shortened_by_what_has_passed(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, pause_s=10)
    before = fake.now
    pace.rest(1, 4.0)
    assert fake.now - before == 6.0
    pace.rest(1, 11.0)
    assert fake.now - before == 6.0


def test_a_request_that_ends_after_the_stop_is_not_told_again(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, stop_after=2)
    pace.report("download", Status.NETWORK, fake.now)
    with pytest.raises(OperatorError, match="2 requests"):
        pace.report("download", Status.NETWORK, fake.now)
    pace.report("download", Status.NETWORK, fake.now)
    with pytest.raises(OperatorError, match="2 requests"):
        pace.turn("search")


def test_a_new_run_forgets_the_stop_and_its_row_but_not_the_pause(
    tmp_path: Path, fake: Time, caplog: pytest.LogCaptureFixture
) -> None:
    first = pace_at(tmp_path, fake, stop_after=2)
    refused(first)
    with pytest.raises(OperatorError):
        refused(first)
    fake.now += 20
    caplog.clear()
    second = pace_at(tmp_path, fake, stop_after=2)
    with pytest.raises(OperatorError):
        second.turn("search")
    second.open()
    assert "goes on until" in caplog.text
    assert waited(second, fake) == 120 - 20
    second.report("download", Status.NETWORK, fake.now)  # one in a row: no stop


def test_a_new_run_keeps_spacing_pause_and_row_where_nothing_was_stopped(tmp_path: Path, fake: Time) -> None:
    first = pace_at(tmp_path, fake, search_interval_s=30)
    first.turn("search")
    refused(first)
    fake.now += 50
    second = pace_at(tmp_path, fake, search_interval_s=30)
    second.open()
    assert waited(second, fake, "search") == 10
    assert waited(second, fake, "search") == 30
    refused(second)
    assert waited(second, fake) == 120


@pytest.mark.parametrize("wait", ["turn", "pause", "rest", "slot"])
@pytest.mark.parametrize("end", ["stop", "leave"])
def test_whoever_waits_hears_the_end_within_a_second(tmp_path: Path, fake: Time, wait: str, end: str) -> None:
    pace = pace_at(tmp_path, fake, download_interval_s=600, workers=1)
    ends = {"stop": lambda: pace_at(tmp_path, fake).stop("a bot check"), "leave": pace.leave}
    pace.turn("download")
    if wait == "pause":
        pace.report("download", Status.RATE_LIMITED, fake.now)
    fake.during = ends[end]
    waits: dict[str, Callable[[], Any]] = {
        "turn": lambda: pace.turn("download"),
        "pause": lambda: pace.turn("search"),
        "rest": lambda: pace.rest(1),
        "slot": pace.slot().__enter__,
    }
    with pace_at(tmp_path, fake, download_interval_s=600, workers=1).slot():
        message = "a bot check" if end == "stop" else "the run has ended"
        with pytest.raises(OperatorError, match=message):
            waits[wait]()
    assert len(fake.slices) == 1
    assert fake.slices[0] <= 1.0


def test_leaving_ends_all_of_this_process_until_its_next_run(tmp_path: Path, fake: Time) -> None:
    pace, other = pace_at(tmp_path / "a", fake), pace_at(tmp_path / "b", fake)
    pace.leave()
    for left in (pace, pace_at(tmp_path / "a", fake)):
        with pytest.raises(OperatorError, match="the run has ended"):
            left.turn("search")
    assert waited(other, fake) == 0
    pace.open()
    assert waited(pace, fake) == 0


def test_the_first_reason_to_stop_stays(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake)
    pace.stop("the first")
    pace.stop("the second")
    with pytest.raises(OperatorError, match="the first"):
        pace.turn("search")


# -- a block that asks --


def test_what_became_of_a_block_is_reported(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, download_interval_s=5, pause_s=10)
    limited, gone = (SongError(status, "no") for status in (Status.RATE_LIMITED, Status.UNAVAILABLE))
    began: list[float] = []
    for error in (limited, limited, None, limited, gone, limited, None):
        with suppress(SongError), pace.asking("download"):
            began.append(fake.now)
            if error is not None:
                raise error
    assert [b - a for a, b in pairwise(began)] == [10, 20, 5, 10, 5, 10]


def test_a_block_hands_its_error_on(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, stop_after=2)
    with pytest.raises(SongError, match="too slow"), pace.asking("search"):
        raise SongError(Status.NETWORK, "too slow")
    with pytest.raises(OperatorError, match="2 requests"), pace.asking("search"):
        raise SongError(Status.NETWORK, "too slow")


def test_a_block_that_needs_a_person_stops_everybody_and_frees_its_slot(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, workers=1)
    with pytest.raises(OperatorError, match="a bot check"), pace.asking("search"):
        raise OperatorError("a bot check")
    other = pace_at(tmp_path, fake, workers=1)
    with pytest.raises(OperatorError, match="a bot check"):
        other.turn("download")
    other.open()
    with other.slot():
        assert fake.slices == []


def test_a_rest_lasts_as_long_as_the_pause(tmp_path: Path, fake: Time) -> None:
    pace_at(tmp_path, fake, pause_s=2.5).rest(3)
    assert fake.now - START == 10
    assert fake.slices == [1.0] * 10


# -- what can be wrong with the file and the clock --


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\x00\xff\xfe", b"[]", b"null", b'{"begin_after": {"search": NaN}}', b'{"faults": -1}',
        b'{"paused_until": 1e999}', b'{"stopped": "by another program", "version": 2}',
        b'{"begin_after": {"upload": 1}}',
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_counts_as_fresh(tmp_path: Path, fake: Time, text: bytes) -> None:
    pace = pace_at(tmp_path, fake, download_interval_s=12)
    refused(pace)
    pace.stop("no")
    (tmp_path / "pace.json").write_bytes(text)
    assert [waited(pace, fake) for _ in range(2)] == [0, 12]
    refused(pace)
    assert waited(pace, fake) == 60


def test_a_missing_folder_is_made(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path / "raw" / ".pace", fake, download_interval_s=12)
    with pace.slot():
        assert [waited(pace, fake) for _ in range(2)] == [0, 12]


def test_a_clock_that_went_back_costs_at_most_one_interval(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, download_interval_s=10, jitter=0.5)
    pace.turn("download")
    fake.now -= 3600
    assert 0 < waited(pace, fake) <= 15
    assert 10 <= waited(pace, fake) <= 15


@pytest.mark.parametrize("after_s", [5, 4000])
def test_a_clock_that_went_back_costs_at_most_one_pause(tmp_path: Path, fake: Time, after_s: float) -> None:
    pace = pace_at(tmp_path, fake, pause_ceiling_s=7200)
    refused(pace)
    fake.now += after_s - 86400
    assert waited(pace, fake) <= 60
    refused(pace)  # requests of the new time count
    assert waited(pace, fake) == 120


def test_no_wait_exceeds_what_the_settings_allow_now(tmp_path: Path, fake: Time) -> None:
    before = pace_at(tmp_path, fake, download_interval_s=3600, pause_s=3600)
    refused(before)
    after = pace_at(tmp_path, fake, download_interval_s=12, pause_s=1, pause_ceiling_s=30)
    assert waited(after, fake) == 30
    assert waited(after, fake) == 12


def test_a_full_disk_is_told_as_such(tmp_path: Path, fake: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OperatorError, match="the disk is full"):
        pace_at(tmp_path, fake).stop("no")


# -- slots --


def test_threads_share_the_slots(tmp_path: Path) -> None:
    paces = [Pace(config(workers=3), tmp_path) for _ in range(2)]
    inside, most, counting = 0, 0, threading.Lock()

    def work(pace: Pace) -> None:
        nonlocal inside, most
        for _ in range(2):
            with pace.slot():
                with counting:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.05)
                with counting:
                    inside -= 1

    _run([threading.Thread(target=work, args=(paces[i % 2],)) for i in range(8)])
    assert (inside, most) == (0, 3)


def test_a_slot_is_free_again_after_an_error(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake, workers=1)
    with pytest.raises(ValueError, match="a bug"), pace.slot():
        raise ValueError("a bug")
    with pace.slot():
        assert fake.slices == []


# -- several processes --


def hold_a_slot(folder: Path) -> None:
    with Pace(config(workers=1), folder).slot():
        (folder / "held").touch()
        time.sleep(60)


def take_turns(folder: Path, name: str) -> None:
    pace = Pace(config(search_interval_s=0.03), folder)
    _meet(folder, name)
    began = [pace.turn("search") for _ in range(10)]
    (folder / f"{name}.began").write_text("\n".join(map(repr, began)))


def wait_for_a_turn(folder: Path) -> None:
    pace = Pace(config(search_interval_s=600), folder)
    pace.turn("search")
    (folder / "waiting").touch()
    try:
        pace.turn("search")
    except OperatorError as error:
        (folder / "heard").write_text(str(error))


def test_two_processes_together_keep_the_interval(tmp_path: Path) -> None:
    process = _start(take_turns, tmp_path, "a")
    take_turns(tmp_path, "b")
    process.join(60)
    assert process.exitcode == 0
    a, b = ([float(line) for line in (tmp_path / f"{name}.began").read_text().split()] for name in "ab")
    assert min(y - x for x, y in pairwise(sorted(a + b))) >= 0.03 - 1e-6
    assert (len(a), len(b)) == (10, 10)


def test_a_stop_is_heard_in_another_process(tmp_path: Path) -> None:
    process = _start(wait_for_a_turn, tmp_path)
    _wait_for(tmp_path / "waiting")
    Pace(config(), tmp_path).stop("a bot check")
    process.join(20)
    assert process.exitcode == 0
    assert (tmp_path / "heard").read_text() == "a bot check"


def test_a_killed_process_frees_its_slot(tmp_path: Path) -> None:
    process = _start(hold_a_slot, tmp_path)
    _wait_for(tmp_path / "held")
    fake = Time()

    def kill() -> None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        fake.during = lambda: None

    fake.during = kill
    with pace_at(tmp_path, fake, workers=1).slot():
        assert process.exitcode == -signal.SIGKILL
    assert len(fake.slices) == 1  # it was taken before, and free at the next try


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _start(target: Callable[..., None], *args: Any) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    process.start()
    return process


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path.name
        time.sleep(0.01)


def _meet(folder: Path, name: str) -> None:
    (folder / f"{name}.here").touch()
    for other in ("a", "b"):
        _wait_for(folder / f"{other}.here")


def test_who_is_freed_by_the_end_of_a_run_hears_why_it_was_stopped(tmp_path: Path, fake: Time) -> None:
    pace = pace_at(tmp_path, fake)
    pace.stop("a bot check")
    pace.leave()
    with pytest.raises(OperatorError, match="a bot check"):
        pace.check_left()
