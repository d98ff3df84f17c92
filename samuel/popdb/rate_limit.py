"""The pace of requests to the site, shared by all who use one data folder.

Requests of a kind are spaced at random; a rate limit of the site pauses all of them, twice as long each
time; too many faults in a row, or a bot check, stop them until a person starts another run. The state is a
small JSON file, changed under a lock, so it survives the run and a kill.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, NonNegativeInt, ValidationError

from samuel.artifacts import explain_full_disk
from samuel.config import DownloadConfig
from samuel.errors import OperatorError, SongError
from samuel.popdb.site import DISK_REMEDY, SITE_REMEDY
from samuel.popdb.status import Status

logger = logging.getLogger(__name__)

LONGEST_SLEEP_S = 1.0  # between two looks at the state: a stop is noticed within it
CANCELLED = "the run has ended; start it again. What was downloaded stays"
NETWORK_REMEDY = "check the connection and the proxy, then start again. What was downloaded stays"

Request = Literal["search", "download"]


class State(BaseModel, allow_inf_nan=False):
    """Shared by all, in `state.json`; a file that does not fit counts as absent."""

    next_start: dict[Request, float] = {}  # the earliest start of the next request
    paused_until: float = 0.0  # before this nothing is requested
    faults: dict[Request, NonNegativeInt] = {}  # in a row; a site may refuse one kind and answer the other
    stopped: str | None = None  # why nothing may be requested until the next run


class RateLimiter:
    """Makes requests wait for everybody who shares `folder`; OperatorError once all must stop.

    Times are wall-clock seconds. A clock that went back makes nobody wait for longer than an interval, or the
    longest pause, of `config`.
    """

    def __init__(self, config: DownloadConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        search_s, download_s = config.search_interval_s, config.download_interval_s
        self._interval_s: dict[Request, float] = {"search": search_s, "download": download_s}
        self._cancelled = threading.Event()

    def start_run(self) -> None:
        """Forget a stop, for a person has acted; the spacing and a running pause hold on."""
        self._cancelled.clear()
        with self._state() as (state, now):
            if state.stopped is not None:
                state.stopped, state.faults = None, {}
            if state.paused_until > now:
                logger.warning("the pause of an earlier run goes on until %s", _hour(state.paused_until))

    @contextmanager
    def request(self, kind: Request, *, repeated: bool = False) -> Iterator[None]:
        """Wait, run the block, which makes the request, and record how it ended.

        What is `repeated` has failed before: it says little about the site, unless that limits us.
        """
        started = self.wait(kind)
        try:
            yield
        except SongError as error:
            status = Status(error.status)
            if not (repeated and status.retryable) or status == Status.RATE_LIMITED:
                self.record(kind, status, started)
            raise
        except OperatorError as error:
            self.stop(str(error))
            raise
        self.record(kind, Status.OK, started)

    def wait(self, kind: Request) -> float:
        """Wait until a request may start, and take its place; the time of its start, for `record`."""
        while True:
            with self._state(going=True) as (state, now):
                wait_s = max(state.paused_until, state.next_start.get(kind, 0.0)) - now
                if wait_s <= 0:
                    if self._interval_s[kind] > 0:  # else nothing changes, and nothing has to be written
                        state.next_start[kind] = now + self._with_jitter(self._interval_s[kind])
                    return now
            time.sleep(min(wait_s, LONGEST_SLEEP_S))

    def record(self, kind: Request, status: Status, started: float) -> None:
        """Record what became of a request that started at `started`.

        An answer ends the row of faults, a passing fault lengthens it, and a rate limit pauses everybody; but
        a fault from before that pause says nothing new. The last of `config.stop_after` stops all.
        """
        with self._state() as (state, now):
            if not status.retryable:
                state.faults.pop(kind, None)
                return
            if started < state.paused_until:  # none starts in a pause
                return
            faults = state.faults[kind] = state.faults.get(kind, 0) + 1
            if status == Status.RATE_LIMITED:
                state.paused_until = now + self.pause_s(faults)
                until = _hour(state.paused_until)
                logger.warning("the site limits us (%d in a row): nothing is asked until %s", faults, until)
            if state.stopped is not None or faults < self._config.stop_after:
                return
            remedy = NETWORK_REMEDY if status == Status.NETWORK else SITE_REMEDY
            state.stopped = f"{faults} requests in a row failed, the last one as {status}: {remedy}"
        raise OperatorError(state.stopped)

    def stop(self, message: str) -> None:
        """Stop everybody until the next `start_run`; the first message stays."""
        with self._state() as (state, _):
            state.stopped = message if state.stopped is None else state.stopped

    def cancel(self) -> None:
        """End every wait on this limiter until `start_run`; other processes go on."""
        self._cancelled.set()

    def pause_s(self, attempt: int) -> float:
        """Seconds to wait after so many failures: doubled each time, with jitter, never over the ceiling."""
        doubled_s = self._config.pause_s * 2.0 ** min(attempt - 1, 1000)  # 2.0**1024 is no float
        return min(self._with_jitter(doubled_s), self._config.pause_ceiling_s)

    def wait_before_retry(self, attempt: int) -> None:
        """Wait for `pause_s(attempt)`, or raise OperatorError once all must stop."""
        left_s = self.pause_s(attempt)
        while left_s > 0:
            self.raise_if_stopped()
            time.sleep(min(left_s, LONGEST_SLEEP_S))
            left_s -= LONGEST_SLEEP_S

    def raise_if_stopped(self) -> None:
        """Raise OperatorError where somebody has stopped everybody, or `cancel` was called."""
        with self._state(going=True):
            pass

    def _with_jitter(self, seconds: float) -> float:
        return seconds * (1 + self._config.jitter * random.random())  # noqa: S311 - nothing to keep secret

    @contextmanager
    def _state(self, *, going: bool = False) -> Iterator[tuple[State, float]]:
        """Yield the state and the time, under the lock; what the block changes is written if it ends well."""
        path = self._folder / "state.json"
        with FileLock(self._folder / "state.lock", poll_interval=0.005):
            text = path.read_bytes() if path.exists() else b""
            try:
                state = State.model_validate_json(text)
            except ValidationError:
                state = State()
            if going and (state.stopped is not None or self._cancelled.is_set()):
                raise OperatorError(state.stopped or CANCELLED)
            now = time.time()
            # What lies too far ahead is brought near: the clock went back, or the settings were others.
            for kind, interval_s in self._interval_s.items():
                latest = now + interval_s * (1 + self._config.jitter)
                state.next_start[kind] = min(state.next_start.get(kind, 0.0), latest)
            state.paused_until = min(state.paused_until, now + self._config.pause_ceiling_s)
            yield state, now
            if (changed := state.model_dump_json().encode()) != text:
                with explain_full_disk(path, DISK_REMEDY):  # not forced to disk: a lost one costs seconds
                    temporary = path.with_suffix(".tmp")
                    temporary.write_bytes(changed)
                    temporary.replace(path)


def _hour(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
