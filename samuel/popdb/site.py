"""The one door to yt-dlp: what it may do, where its words go, its failures as statuses, and its pace.

The pace is shared by all who use one data folder. Requests of a kind are spaced at random; a rate limit of
the site pauses all of them, twice as long each time; too many faults in a row, or a bot check, stop them
until a person starts another run. Its state is a small JSON file, changed under a lock, so it survives the
run and a kill.
"""

import io
import logging
import random
import re
import shutil
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.cookiejar import LoadError
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, NonNegativeInt, ValidationError
from yt_dlp import YoutubeDL
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import ContentTooShortError, DownloadError, GeoRestrictedError, YoutubeDLError

from samuel.artifacts import explain_full_disk
from samuel.audio import ffmpeg
from samuel.config import DownloadConfig
from samuel.errors import InputError, OperatorError, SamuelError, SongError
from samuel.popdb.status import Status

logger = logging.getLogger(__name__)

DISK_RESERVE_BYTES = 64 * 2**20
DISK_REMEDY = "make room, or point `data` to another disk, and start again. What was downloaded stays"
SITE_REMEDY = (
    "wait some hours and start again with a larger download.download_interval_s; if that does not help, set "
    "download.proxy, download.cookies (they can cost you the account) or a PO-token provider for yt-dlp. "
    "What was downloaded stays"
)
FULL_DISK = r"No space left on device|Disk quota exceeded|Errno 28\b"
MACHINE_FAULT = r"\[Errno (?:1|5|13|23|24|30)\]"
BOT_CHECK = r"not a bot\b|captcha"
VERDICTS = tomllib.loads(Path(__file__).with_name("site_verdicts.toml").read_text("utf-8"))["verdicts"]
# Netscape's format: domain, subdomains, path, secure, expires, name and value; or a comment, or nothing.
MOST_COOKIE_BYTES = 2**22
COOKIE = r"(?:#HttpOnly_)?(?:[^\t]*\t){4}(?:[0-9]+(?:\.[0-9]+)?)?\t[^\t]*\t[^\t]*"
COOKIE_LINE = re.compile(rf"{COOKIE}|#(?!HttpOnly_).*|\s*")
LONGEST_SLEEP_S = 1.0  # between two looks at the state: a stop is noticed within it
CANCELLED = "the run has ended; start it again. What was downloaded stays"
NETWORK_REMEDY = "check the connection and the proxy, then start again. What was downloaded stays"

Request = Literal["search", "download"]


class YtDlp(YoutubeDL):
    """yt-dlp that closes what it opened, which it otherwise leaves to the garbage collector."""

    _starting = threading.Lock()  # the first loads the plugins; two at once would do so twice

    def __init__(self, options: dict[str, Any]) -> None:
        self._opened: list[Any] = []
        with self._starting:
            super().__init__(options)  # type: ignore[arg-type]

    def urlopen(self, req: Any) -> Any:
        """Open a request, and remember to close the answer."""
        try:
            self._opened.append(super().urlopen(req))
        except HTTPError as error:
            self._opened.append(error)
            raise
        return self._opened[-1]

    def close(self) -> None:
        """Close every answer."""
        for response in self._opened:
            response.close()
        super().close()


def site_options(config: DownloadConfig, folder: Path) -> dict[str, Any]:
    """yt-dlp's options for the site: its extractors alone, one video at a time, written into `folder`."""
    log = SimpleNamespace(debug=logger.debug, warning=logger.warning, error=logger.debug)  # it raises, too
    options: dict[str, Any] = {
        **config.ytdlp,
        "logger": log,
        "quiet": True,
        "noprogress": True,
        "color": {"stdout": "no_color", "stderr": "no_color"},
        "cachedir": False,
        "paths": {"home": str(folder)},
        # No title ever becomes a file name. The format is in it, so that a rest is never joined to another's.
        "outtmpl": {"default": "source-%(format_id)s.%(ext)s"},
        "restrictfilenames": True,
        "trim_file_name": 80,
        "format": "bestaudio/best",
        "fixup": "never",  # ffmpeg decodes every container as it comes
        "ffmpeg_location": ffmpeg(),
        "allowed_extractors": list(config.extractors),
        "extract_flat": "in_playlist",
        "noplaylist": True,
        "geo_bypass": False,
        "sleep_interval_requests": config.request_interval_s,
        **dict.fromkeys(("retries", "fragment_retries", "extractor_retries"), config.retries),
        "skip_unavailable_fragments": False,  # a missing segment would be a silent gap
    }
    if config.proxy is not None:
        options["proxy"] = config.proxy
    if config.cookies is not None:
        options["cookiefile"] = read_cookies(config.cookies)
    return options


def read_cookies(path: Path) -> io.StringIO:
    """Cookies as a stream: into the file yt-dlp would write back. An InputError holds nothing of them."""
    why = "export them from the browser in Netscape's format (cookies.txt)"
    try:
        with path.expanduser().open("rb") as file:
            text = file.read(MOST_COOKIE_BYTES).decode()
        # yt-dlp skips a line that it cannot read, and prints it with all its secrets.
        if all(COOKIE_LINE.fullmatch(line) for line in text.split("\n")):
            YoutubeDLCookieJar(io.StringIO(text)).load()  # type: ignore[arg-type]
            return io.StringIO(text)
    except (UnicodeDecodeError, LoadError, YoutubeDLError, ValueError):
        pass
    except OSError as error:
        why = f"{error.strerror}; give a readable file"
    raise InputError(f"download.cookies {path}: not a cookies file; {why}")


@contextmanager
def translated_errors(folder: Path) -> Iterator[None]:
    """Turn what yt-dlp raises into SongError, or, where no song would fare better, OperatorError."""
    with explain_full_disk(folder, DISK_REMEDY):
        try:
            yield
        except YoutubeDLError as error:
            # Not every way to write says why it failed.
            if shutil.disk_usage(folder).free < DISK_RESERVE_BYTES:
                raise OperatorError(f"the disk is full; {DISK_REMEDY}") from error
            message = " ".join(str(error).removeprefix("ERROR: ").split())[:500]
            raise SongError(classify(error), message) from error
        except (SamuelError, OSError):
            raise
        except Exception as error:  # its extractors trust what a site sends
            message = f"yt-dlp failed: {type(error).__name__}: {error}"[:500]
            raise SongError(Status.SERVER_ERROR, message) from error


def classify(error: YoutubeDLError) -> Status:
    """Status of a song whose search or download ended in `error`, unless no other would fare better."""
    # Without the outermost wrapper: its text quotes the query, and a song may be called "Captcha".
    wrapped = isinstance(error, DownloadError) and error.exc_info and error.exc_info[1]
    causes: list[BaseException] = []
    cause: Any = wrapped or error
    while isinstance(cause, BaseException):
        causes.append(cause)
        cause = getattr(cause, "cause", None) or cause.__cause__
    text = " | ".join(str(getattr(cause, "orig_msg", cause)) for cause in causes)
    if re.search(FULL_DISK, text):
        raise OperatorError(f"the disk is full; {DISK_REMEDY}")
    if found := re.search(MACHINE_FAULT, text):
        what = "this machine does not let yt-dlp open or write a file"
        raise OperatorError(f"{what} ({found[0]}): {text[-300:]}")
    if re.search(BOT_CHECK, text, re.IGNORECASE):
        raise OperatorError(f"the site asks for proof that no robot is at work: {SITE_REMEDY}")
    if any(isinstance(cause, GeoRestrictedError) for cause in causes):
        return Status.GEO_BLOCKED
    for pattern, status in VERDICTS:
        if re.search(pattern, text, re.IGNORECASE):
            return Status(status)
    if any(isinstance(cause, TransportError | ContentTooShortError) for cause in causes):
        return Status.NETWORK
    # An unknown fault may be a change of the site, and may concern every song.
    return Status.SERVER_ERROR


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
