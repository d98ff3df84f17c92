"""How fast we ask a site: spacing, pauses and a stop, shared by all threads and processes of a folder.

The state is a small JSON file, read and written under a lock, so it outlives a run. It is replaced whole but
never forced to disk: a lost one costs a few seconds of spacing.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    ValidationError,
)

from samuel.config import DownloadConfig
from samuel.errors import OperatorError, SongError
from samuel.popdb.site import full_disk_stops
from samuel.popdb.status import Status

logger = logging.getLogger(__name__)


SLICE_S = 1.0  # the longest sleep between two looks at the state: a stop must be heard
SLOT_POLL_S = 0.04
LOCK_POLL_S = 0.005
ENDED = "the run has ended; start it again. What was downloaded stays"

REMEDY = (
    "wait some hours and start again with a larger download.download_interval_s; if that does not help, set "
    "download.proxy, download.cookies (they can cost you the account) or a PO-token provider for yt-dlp. "
    "What was downloaded stays"
)
NETWORK_REMEDY = "check the connection and the proxy, then start again. What was downloaded stays"


Request = Literal["search", "download"]


class Pace:
    """The pace that everybody keeps who shares `folder`.

    Times are wall-clock seconds. A clock that went back makes nobody wait for longer than one interval, or
    one pause, of `config`.

    Args:
        config: Intervals, pauses, and how many requests may fail in a row.
        folder: Where the state and its locks lie; made where it is missing, nothing else may lie in it.
        clock: Seconds since the epoch.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        config: DownloadConfig,
        folder: Path,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config, self._folder, self._clock, self._sleep = config, folder, clock, sleep
        self._interval_s: dict[Request, float] = {
            "search": config.search_interval_s,
            "download": config.download_interval_s,
        }
        self._left = _leaving(folder.resolve())
        self._again = 0

    def open(self) -> None:
        """Begin a run: forget a stop, for a person has acted; the spacing and a running pause hold on."""
        self._left.clear()
        with self._held() as (state, now):
            if state.stopped is not None:
                state.stopped, state.faults = None, {}
            if state.paused_until > now:
                logger.warning("the pause of an earlier run goes on until %s", _hour(state.paused_until))

    @contextmanager
    def asking(self, what: Request, *, again: bool = False) -> Iterator[None]:
        """Hold a slot, wait for the turn, run the block and report how it ended.

        SongError is reported with its status, and OperatorError stops everybody; both go on to the caller.

        Args:
            what: The kind of request.
            again: It has failed before: that it fails again says little about the site, unless it is limited.

        Raises:
            OperatorError: All must stop.
        """
        with self.slot():
            began = self.turn(what)
            try:
                yield
            except SongError as error:
                status = Status(error.status)
                self._again = self._again + 1 if again and status.retryable else 0
                if not again or not status.retryable or status == Status.RATE_LIMITED:
                    self.report(what, status, began)
                raise
            except OperatorError as error:
                self.stop(str(error))
                raise
            self._again = 0
            self.report(what, Status.OK, began)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Be one of at most `config.workers` holders; the kernel frees the slot of a killed process.

        Raises:
            OperatorError: All must stop.
        """
        lock = self._slot()
        try:
            yield
        finally:
            lock.release()

    def turn(self, what: Request) -> float:
        """Wait until a request may begin, and reserve its place.

        Returns:
            When it began, for `report`.

        Raises:
            OperatorError: All must stop.
        """
        while True:
            with self._held() as (state, now):
                self._check(state)
                wait_s = max(state.paused_until, state.begin_after.get(what, 0.0)) - now
                if wait_s <= 0:
                    if self._interval_s[what] > 0:  # else nothing changes, and nothing has to be written
                        state.begin_after[what] = now + self._jittered(self._interval_s[what])
                    return now
            self._sleep(min(wait_s, SLICE_S))

    def report(self, what: Request, status: Status, began: float) -> None:
        """Say what became of a request that began at `began`.

        An answer, whatever it was, ends the row of faults; searches and downloads have a row each, for a site
        may refuse the one and go on answering the other. A passing fault lengthens it, and a rate limit
        pauses everybody, twice as long each time; but a fault of a request from before that pause says
        nothing new.

        Raises:
            OperatorError: This fault was the last of `config.stop_after` in a row. Now all must stop.
        """
        with self._held() as (state, now):
            if not status.retryable:
                state.faults.pop(what, None)
                return
            if state.paused_at is not None and began <= state.paused_at:
                return
            faults = state.faults[what] = state.faults.get(what, 0) + 1
            if status == Status.RATE_LIMITED:
                self._pause_all(state, now, faults)
            if state.stopped is not None or faults < self._config.stop_after:
                return
            state.stopped = _advice(status, faults)
        raise OperatorError(state.stopped)

    def stop(self, message: str) -> None:
        """Stop everybody until the next `open`; the first message stays."""
        with self._held() as (state, _):
            state.stopped = message if state.stopped is None else state.stopped

    @property
    def weary(self) -> bool:
        """True when `config.stop_after` in a row have failed again: more of them need not be tried now."""
        return self._again >= self._config.stop_after

    def leave(self) -> None:
        """End this process's run: no thread of it waits any longer, until `open`. Other processes go on."""
        self._left.set()

    def check_left(self) -> None:
        """Look whether this process's run has ended.

        Raises:
            OperatorError: It has.
        """
        if self._left.is_set():
            with self._held() as (state, _):
                self._check(state)

    def pause(self, attempt: int) -> float:
        """Seconds to wait after so many failures: doubled each time, with jitter, never over the ceiling."""
        doubled_s = self._config.pause_s * 2.0 ** min(attempt - 1, 1000)  # 2.0**1024 is no float
        return min(self._jittered(doubled_s), self._config.pause_ceiling_s)

    def rest(self, attempt: int, rested_s: float = 0.0) -> None:
        """Wait for `pause(attempt)`, less the seconds that have passed since the failure.

        Raises:
            OperatorError: All must stop.
        """
        wait_s = self.pause(attempt) - rested_s
        while wait_s > 0:
            with self._held() as (state, _):
                self._check(state)
            self._sleep(min(wait_s, SLICE_S))
            wait_s -= SLICE_S

    def _slot(self) -> FileLock:
        locks = [FileLock(self._folder / f"slot-{i}.lock") for i in range(self._config.workers)]
        while True:
            with self._held() as (state, _):
                self._check(state)
            for lock in locks:
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                return lock
            self._sleep(SLOT_POLL_S)

    def _check(self, state: "_State") -> None:
        if state.stopped is not None or self._left.is_set():
            raise OperatorError(state.stopped or ENDED)

    def _pause_all(self, state: "_State", now: float, faults: int) -> None:
        state.paused_at, state.paused_until = now, now + self.pause(faults)
        until = _hour(state.paused_until)
        logger.warning("the site limits us (%d in a row): nothing is asked until %s", faults, until)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + self._config.jitter * random.random())  # noqa: S311 - nothing to keep secret

    @contextmanager
    def _held(self) -> Iterator[tuple["_State", float]]:
        """The state and the time, under the lock; what the block changes is written when it ends well."""
        path = self._folder / "pace.json"
        with FileLock(self._folder / "pace.lock", poll_interval=LOCK_POLL_S):
            text, now = _read(path), self._clock()
            state = _parse(text)
            self._mend(state, now)
            yield state, now
            if (changed := state.model_dump_json().encode()) != text:
                _replace(path, changed)

    def _mend(self, state: "_State", now: float) -> None:
        """Bring near what lies too far ahead: the clock went back, or the settings were others."""
        for what, interval_s in self._interval_s.items():
            latest = now + interval_s * (1 + self._config.jitter)
            state.begin_after[what] = min(state.begin_after.get(what, 0.0), latest)
        if state.paused_at is not None and state.paused_at > now:
            state.paused_at, state.paused_until = now, now + state.paused_until - state.paused_at
        state.paused_until = min(state.paused_until, now + self._config.pause_ceiling_s)


@cache
def _leaving(folder: Path) -> threading.Event:
    return threading.Event()  # one for all that this process does in the folder


class _State(BaseModel):
    """What `pace.json` holds; a file that does not fit counts as absent."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    begin_after: dict[Request, float] = {}
    paused_at: float | None = None
    paused_until: float = 0.0
    faults: dict[Request, NonNegativeInt] = {}
    stopped: str | None = None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _parse(text: bytes) -> _State:
    try:
        return _State.model_validate_json(text)
    except ValidationError:
        return _State()


def _replace(path: Path, text: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with full_disk_stops():
        temporary.write_bytes(text)
        temporary.replace(path)


def _advice(status: Status, faults: int) -> str:
    remedy = NETWORK_REMEDY if status == Status.NETWORK else REMEDY
    return f"{faults} requests in a row failed, the last one as {status}: {remedy}"


def _hour(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
