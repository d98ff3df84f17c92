import errno
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from samuel.config import DownloadConfig
from samuel.errors import OperatorError, SongError
from samuel.popdb.rate_limit import RateLimiter, Request
from samuel.popdb.status import Status

START_S = 1_700_000_000.0
PASSING = [status for status in Status if status.retryable]


class Time:
    """A clock that only `sleep` moves; `during` is called in each sleep."""

    def __init__(self) -> None:
        self.now, self.sleeps = START_S, list[float]()
        self.during: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        self.during()


@pytest.fixture
def fake() -> Time:
    return Time()


def config(**changes: Any) -> DownloadConfig:
    plain: dict[str, Any] = {"search_interval_s": 0, "download_interval_s": 0, "jitter": 0, "stop_after": 100}
    return DownloadConfig(**plain | changes)


def limiter_at(folder: Path, fake: Time, **changes: Any) -> RateLimiter:
    return RateLimiter(config(**changes), folder, clock=fake.clock, sleep=fake.sleep)


def waited(limiter: RateLimiter, fake: Time, kind: Request = "download") -> float:
    before = fake.now
    assert limiter.wait(kind) == fake.now
    return fake.now - before


def refuse(limiter: RateLimiter, status: Status = Status.RATE_LIMITED) -> None:
    limiter.record("download", status, limiter.wait("download"))


def fail(limiter: RateLimiter, status: Status, *, repeated: bool = False) -> None:
    with limiter.request("download", repeated=repeated):
        raise SongError(status, "no")


# --- spacing ---


def test_requests_of_a_kind_are_one_interval_apart(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path / "new" / "folder", fake, search_interval_s=2, download_interval_s=12)
    kinds: list[Request] = ["download", "search", "search", "download", "download"]
    assert [waited(limiter, fake, kind) for kind in kinds] == [0, 0, 2, 10, 12]
    assert max(fake.sleeps) == 1.0


def test_an_interval_grows_at_random_by_no_more_than_its_jitter(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path, fake, download_interval_s=1, jitter=0.5)
    limiter.wait("download")
    gaps = [waited(limiter, fake) for _ in range(200)]
    assert 1 <= min(gaps) < 1.05  # of 200 draws from U(1, 1.5); by chance it fails once in 10⁹
    assert 1.45 < max(gaps) <= 1.5
    assert sum(gaps) / 200 == pytest.approx(1.25, abs=0.06)  # six standard errors


# --- pauses ---


def test_each_rate_limit_in_a_row_pauses_everybody_twice_as_long(
    tmp_path: Path, fake: Time, caplog: pytest.LogCaptureFixture
) -> None:
    limiter, other = (limiter_at(tmp_path, fake, pause_s=0.5, pause_ceiling_s=9) for _ in range(2))
    pauses: list[float] = []
    for _ in range(7):
        refuse(limiter)
        pauses.append(waited(other, fake, "search"))
    assert pauses == [0.5, 1, 2, 4, 8, 9, 9]
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(START_S + 0.5))
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert caplog.messages[0] == f"the site limits us (1 in a row): nothing is asked until {until}"


def test_a_pause_grows_by_its_jitter_but_not_over_the_ceiling(tmp_path: Path) -> None:
    limiter = RateLimiter(config(jitter=0.5, pause_ceiling_s=1000), tmp_path)
    for attempt in range(1, 7):
        shortest = min(1000, 60 * 2 ** (attempt - 1))
        drawn = [limiter.pause_s(attempt) for _ in range(100)]
        assert shortest <= min(drawn)
        assert max(drawn) <= min(1000, 1.5 * shortest)
        assert len(set(drawn)) > 1 or shortest == 1000
    assert limiter.pause_s(10_000) == 1000


def test_a_retry_waits_for_the_pause_less_what_has_passed(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path, fake, pause_s=2.5)
    limiter.wait_before_retry(3)
    assert (fake.now - START_S, fake.sleeps) == (10, [1.0] * 10)
    limiter.wait_before_retry(3, 4.0)
    limiter.wait_before_retry(3, 11.0)
    assert fake.now - START_S == 16


def test_refusals_of_requests_in_flight_count_once(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path, fake, download_interval_s=1, stop_after=3)
    started = [limiter.wait("download") for _ in range(5)]
    for start, status in zip(started, [Status.RATE_LIMITED, *PASSING], strict=True):
        limiter.record("download", status, start)
        fake.now += 1
    assert waited(limiter, fake) == 60 - 5  # the first one's pause, not extended by the others
    limiter.record("download", Status.RATE_LIMITED, fake.now)
    assert waited(limiter, fake) == 120  # the second in a row, not the sixth


@pytest.mark.parametrize("status", [status for status in Status if not status.retryable])
def test_any_answer_ends_the_row(tmp_path: Path, fake: Time, status: Status) -> None:
    limiter = limiter_at(tmp_path, fake, stop_after=3)
    for _ in range(3):
        refuse(limiter)
        refuse(limiter)
        refuse(limiter, status)
    refuse(limiter)
    assert waited(limiter, fake) == 60


@pytest.mark.parametrize("status", [Status.FORBIDDEN, Status.NETWORK, Status.SERVER_ERROR])
def test_other_faults_count_but_pause_nobody(tmp_path: Path, fake: Time, status: Status) -> None:
    limiter = limiter_at(tmp_path, fake)
    refuse(limiter, status)
    refuse(limiter, status)
    assert waited(limiter, fake) == 0
    refuse(limiter)
    assert waited(limiter, fake) == 240  # the third in a row


# --- stops ---


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (Status.RATE_LIMITED, "larger download.download_interval_s"),
        (Status.FORBIDDEN, "PO-token provider"),
        (Status.SERVER_ERROR, "download.cookies"),
        (Status.NETWORK, "check the connection"),
    ],
)
def test_too_many_faults_in_a_row_stop_everybody(
    tmp_path: Path, fake: Time, status: Status, remedy: str
) -> None:
    limiter, other = (limiter_at(tmp_path, fake, stop_after=3) for _ in range(2))
    for one in (limiter, other):
        one.record("search", Status.OK, one.wait("search"))  # answered searches do not end a row of downloads
        refuse(one, status)
    with pytest.raises(OperatorError, match=rf"^3 requests .*{status}.*{remedy}.*What was downloaded stays"):
        refuse(limiter, status)
    other.record("download", status, fake.now)  # one that was under way is not told again
    for stopped in (limiter, other, limiter_at(tmp_path, fake)):
        with pytest.raises(OperatorError, match=remedy):
            stopped.wait("search")


def test_what_failed_before_counts_only_where_the_site_limits(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path, fake, stop_after=2)
    for status in (Status.FORBIDDEN, Status.NETWORK, Status.SERVER_ERROR, Status.RATE_LIMITED):
        with pytest.raises(SongError):
            fail(limiter, status, repeated=True)
    with pytest.raises(OperatorError, match="2 requests"):
        fail(limiter, Status.RATE_LIMITED, repeated=True)


def test_repeats_are_given_up_until_one_is_answered(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path, fake, stop_after=2)
    for gives_up in (False, True):
        with pytest.raises(SongError):
            fail(limiter, Status.FORBIDDEN, repeated=True)
        assert limiter.gives_up_repeats is gives_up
    with limiter.request("download", repeated=True):
        pass
    assert not limiter.gives_up_repeats


def test_a_new_run_forgets_the_stop_and_its_row_but_not_the_pause(
    tmp_path: Path, fake: Time, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (limiter_at(tmp_path, fake, stop_after=2) for _ in range(2))
    refuse(first)
    with pytest.raises(OperatorError):
        refuse(first)
    fake.now += 20
    caplog.clear()
    second.start_run()
    assert "goes on until" in caplog.text
    assert waited(second, fake) == 120 - 20
    second.record("download", Status.NETWORK, fake.now)  # one in a row: no stop


def test_a_new_run_keeps_spacing_pause_and_row_where_nothing_was_stopped(tmp_path: Path, fake: Time) -> None:
    first, second = (limiter_at(tmp_path, fake, search_interval_s=30) for _ in range(2))
    first.wait("search")
    refuse(first)
    fake.now += 50
    second.start_run()
    assert [waited(second, fake, "search") for _ in range(2)] == [10, 30]
    refuse(second)
    assert waited(second, fake) == 120


@pytest.mark.parametrize("wait", ["interval", "pause", "retry", "slot"])
@pytest.mark.parametrize("end", ["stop", "cancel"])
def test_whoever_waits_notices_the_end_within_a_second(
    tmp_path: Path, fake: Time, wait: str, end: str
) -> None:
    limiter, other = (limiter_at(tmp_path, fake, download_interval_s=600, workers=1) for _ in range(2))
    limiter.wait("download")
    if wait == "pause":
        limiter.record("download", Status.RATE_LIMITED, fake.now)
    fake.during = limiter.cancel if end == "cancel" else lambda: other.stop("a bot check")
    waits: dict[str, Callable[[], Any]] = {
        "interval": lambda: limiter.wait("download"),
        "pause": lambda: limiter.wait("search"),
        "retry": lambda: limiter.wait_before_retry(1),
        "slot": limiter.slot().__enter__,
    }
    message = "a bot check" if end == "stop" else "the run has ended"
    with other.slot(), pytest.raises(OperatorError, match=message):
        waits[wait]()
    assert len(fake.sleeps) == 1
    assert fake.sleeps[0] <= 1.0


def test_cancelling_ends_the_waits_of_one_limiter_until_its_next_run(tmp_path: Path, fake: Time) -> None:
    limiter, other = (limiter_at(tmp_path, fake) for _ in range(2))
    limiter.raise_if_cancelled()
    limiter.cancel()
    for act in (limiter.raise_if_cancelled, lambda: limiter.wait("search")):
        with pytest.raises(OperatorError, match="the run has ended"):
            act()
    assert waited(other, fake) == 0
    other.stop("a bot check")
    other.stop("the first reason stays")
    with pytest.raises(OperatorError, match="a bot check"):
        limiter.raise_if_cancelled()
    limiter.start_run()
    assert waited(limiter, fake) == 0


# --- a block that makes a request ---


def test_what_became_of_a_request_is_recorded(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path, fake, download_interval_s=5, pause_s=10)
    limited, gone = (SongError(status, "no") for status in (Status.RATE_LIMITED, Status.UNAVAILABLE))
    started: list[float] = []
    for error in (limited, limited, None, limited, gone, limited, None):
        with suppress(SongError), limiter.request("download"):
            started.append(fake.now)
            if error is not None:
                raise error
    assert [b - a for a, b in pairwise(started)] == [10, 20, 5, 10, 5, 10]


def test_a_request_that_needs_a_person_stops_everybody(tmp_path: Path, fake: Time) -> None:
    limiter, other = (limiter_at(tmp_path, fake, workers=1) for _ in range(2))
    with pytest.raises(OperatorError, match="a bot check"), limiter.request("search"):
        raise OperatorError("a bot check")
    with pytest.raises(OperatorError, match="a bot check"):
        other.wait("download")
    other.start_run()
    with pytest.raises(ValueError, match="a bug"), limiter.request("search"):
        raise ValueError("a bug")
    with other.request("search"):  # the slot is free again after both
        assert fake.sleeps == []


# --- the file and the clock ---


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\x00\xff\xfe", b"[]", b"null", b'{"next_start": {"search": NaN}}', b'{"faults": -1}',
        b'{"paused_until": 1e999}', b'{"stopped": "by another program", "version": 2}',
        b'{"next_start": {"upload": 1}}',
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_counts_as_absent(tmp_path: Path, fake: Time, text: bytes) -> None:
    limiter = limiter_at(tmp_path, fake, download_interval_s=12)
    refuse(limiter)
    limiter.stop("no")
    (tmp_path / "state.json").write_bytes(text)
    assert [waited(limiter, fake) for _ in range(2)] == [0, 12]
    refuse(limiter)
    assert waited(limiter, fake) == 60


@pytest.mark.parametrize("back_s", [3600, 86_395, 82_400])
def test_a_clock_that_went_back_costs_at_most_an_interval_or_a_pause(
    tmp_path: Path, fake: Time, back_s: float
) -> None:
    spaced = limiter_at(tmp_path / "a", fake, download_interval_s=10, jitter=0.5)
    paused = limiter_at(tmp_path / "b", fake, pause_ceiling_s=7200)
    spaced.wait("download")
    refuse(paused)
    fake.now -= back_s
    assert 0 < waited(spaced, fake) <= 15
    assert waited(paused, fake) <= 60
    refuse(paused)  # requests of the new time count
    assert waited(paused, fake) == 120


def test_no_wait_exceeds_what_the_settings_allow_now(tmp_path: Path, fake: Time) -> None:
    refuse(limiter_at(tmp_path, fake, download_interval_s=3600, pause_s=3600))
    after = limiter_at(tmp_path, fake, download_interval_s=12, pause_s=1, pause_ceiling_s=30)
    assert [waited(after, fake) for _ in range(2)] == [30, 12]


def test_a_full_disk_is_named(tmp_path: Path, fake: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OperatorError, match="the disk is full"):
        limiter_at(tmp_path, fake).stop("no")


# --- several threads and processes ---


def test_threads_share_the_slots(tmp_path: Path) -> None:
    limiters = [RateLimiter(config(workers=3), tmp_path) for _ in range(2)]
    inside, most = list[int](), [0]

    def work(number: int) -> None:
        with limiters[number % 2].slot():
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, range(16)))
    assert max(most) == 3


def write(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def other_process(folder: Path) -> None:
    """Make ten requests, wait for another until the stop, and be killed with lock and slot held."""
    limiter = RateLimiter(config(search_interval_s=0.03), folder)
    (folder / "ready").touch()
    started = [limiter.wait("search") for _ in range(10)]
    write(folder / "started", "\n".join(map(repr, started)))
    limiter = RateLimiter(config(search_interval_s=600), folder)
    try:
        for _ in range(2):
            limiter.wait("search")
    except OperatorError as error:
        write(folder / "message", str(error))
    limiter.start_run()
    with limiter.slot(), limiter._state():
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path.name
        time.sleep(0.005)
    return path.read_text()


def test_processes_share_interval_and_stop_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    process = get_context("spawn").Process(target=other_process, args=(tmp_path,), daemon=True)
    process.start()
    limiter = RateLimiter(config(search_interval_s=0.03), tmp_path)
    wait_for(tmp_path / "ready")
    started = [limiter.wait("search") for _ in range(10)]
    others = [float(line) for line in wait_for(tmp_path / "started").split()]
    assert len(others) == 10
    assert min(b - a for a, b in pairwise(sorted(started + others))) >= 0.03 - 1e-6
    limiter.stop("a bot check")
    assert wait_for(tmp_path / "message") == "a bot check"
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    limiter = RateLimiter(config(workers=1), tmp_path)
    with limiter.slot():
        assert limiter.wait("search") > others[-1]
