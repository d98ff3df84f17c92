"""The pace of requests, by a clock that only sleep moves, and shared by two real processes."""

import os
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from samuel.config import DownloadConfig
from samuel.errors import OperatorError
from samuel.popdb.rate_limit import RateLimiter, Request
from samuel.popdb.status import Status

START_S = 1_700_000_000.0
PASSING = [status for status in Status if status.retryable]


class Time:
    """A clock that only `sleep` moves; `during` is called in each sleep."""

    def __init__(self) -> None:
        self.now, self.sleeps = START_S, list[float]()
        self.during: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        self.during()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr("samuel.popdb.rate_limit.time", made)
    return made


def config(**changes: Any) -> DownloadConfig:
    plain: dict[str, Any] = {"search_interval_s": 0, "download_interval_s": 0, "jitter": 0, "stop_after": 100}
    return DownloadConfig(**plain | changes)


def limiter_at(folder: Path, **changes: Any) -> RateLimiter:
    return RateLimiter(config(**changes), folder)


def waited(limiter: RateLimiter, fake: Time, kind: Request = "download") -> float:
    before = fake.now
    assert limiter.wait(kind) == fake.now
    return fake.now - before


def refuse(limiter: RateLimiter, status: Status = Status.RATE_LIMITED) -> None:
    limiter.record("download", status, limiter.wait("download"))


def test_requests_of_a_kind_are_one_interval_apart(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path / "new" / "folder", search_interval_s=2, download_interval_s=12)
    kinds: list[Request] = ["download", "search", "search", "download", "download"]
    assert [waited(limiter, fake, kind) for kind in kinds] == [0, 0, 2, 10, 12]
    assert max(fake.sleeps) == 1.0


def test_each_rate_limit_in_a_row_pauses_everybody_twice_as_long(
    tmp_path: Path, fake: Time, caplog: pytest.LogCaptureFixture
) -> None:
    limiter, other = (limiter_at(tmp_path, pause_s=0.5, pause_ceiling_s=9) for _ in range(2))
    pauses: list[float] = []
    for _ in range(7):
        refuse(limiter)
        pauses.append(waited(other, fake, "search"))
    assert pauses == [0.5, 1, 2, 4, 8, 9, 9]
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(START_S + 0.5))
    assert caplog.messages[0] == f"the site limits us (1 in a row): nothing is asked until {until}"


def test_refusals_of_requests_in_flight_count_once(tmp_path: Path, fake: Time) -> None:
    limiter = limiter_at(tmp_path, download_interval_s=1, stop_after=3)
    started = [limiter.wait("download") for _ in range(5)]
    for start, status in zip(started, [Status.RATE_LIMITED, *PASSING], strict=True):
        limiter.record("download", status, start)
        fake.now += 1
    assert waited(limiter, fake) == 60 - 5  # the first one's pause, not extended by the others
    limiter.record("download", Status.RATE_LIMITED, fake.now)
    assert waited(limiter, fake) == 120  # the second in a row, not the sixth


def test_too_many_faults_in_a_row_stop_everybody(tmp_path: Path, fake: Time) -> None:
    status, remedy = Status.FORBIDDEN, "PO-token provider"
    limiter, other = (limiter_at(tmp_path, stop_after=3) for _ in range(2))
    for one in (limiter, other):
        one.record("search", Status.OK, one.wait("search"))  # answered searches do not end a row of downloads
        refuse(one, status)
    with pytest.raises(OperatorError, match=rf"^3 requests .*{status}.*{remedy}.*What was downloaded stays"):
        refuse(limiter, status)
    other.record("download", status, fake.now)  # one that was under way is not told again
    for stopped in (limiter, other, limiter_at(tmp_path)):
        with pytest.raises(OperatorError, match=remedy):
            stopped.wait("search")


@pytest.mark.parametrize("wait", ["interval", "pause", "retry"])
@pytest.mark.parametrize("end", ["stop", "cancel"])
def test_who_waits_notices_the_end_within_a_second(tmp_path: Path, fake: Time, wait: str, end: str) -> None:
    limiter, other = (limiter_at(tmp_path, download_interval_s=600) for _ in range(2))
    limiter.wait("download")
    if wait == "pause":
        limiter.record("download", Status.RATE_LIMITED, fake.now)
    fake.during = limiter.cancel if end == "cancel" else lambda: other.stop("a bot check")
    waits: dict[str, Callable[[], Any]] = {
        "interval": lambda: limiter.wait("download"),
        "pause": lambda: limiter.wait("search"),
        "retry": lambda: limiter.wait_before_retry(1),
    }
    with pytest.raises(OperatorError, match="a bot check" if end == "stop" else "the run has ended"):
        waits[wait]()
    assert len(fake.sleeps) == 1
    assert fake.sleeps[0] <= 1.0


@pytest.mark.parametrize("text", [b"{", b"\x00\xff", b'{"paused_until": 1e999}'])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, fake: Time, text: bytes) -> None:
    limiter = limiter_at(tmp_path, download_interval_s=12)
    refuse(limiter)
    limiter.stop("no")
    (tmp_path / "state.json").write_bytes(text)
    assert [waited(limiter, fake) for _ in range(2)] == [0, 12]


def write(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def other_process(folder: Path) -> None:
    """Make ten requests, wait for another until the stop, and be killed with the lock held."""
    limiter = RateLimiter(config(search_interval_s=0.03), folder)
    (folder / "ready").touch()
    started = [limiter.wait("search") for _ in range(10)]
    write(folder / "started", "\n".join(map(repr, started)))
    limiter = RateLimiter(config(search_interval_s=600), folder)
    try:
        while True:  # the other's shorter interval may still hold for some of these
            limiter.wait("search")
    except OperatorError as error:
        write(folder / "message", str(error))
    with limiter._state():
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
    limiter.start_run()
    assert limiter.wait("search") > others[-1]
