"""The one door to yt-dlp: what it may do, where its words go, and its failures as statuses."""

import io
import logging
import re
import shutil
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import LoadError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from yt_dlp import YoutubeDL
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import ContentTooShortError, DownloadError, GeoRestrictedError, YoutubeDLError

from samuel.artifacts import explain_full_disk
from samuel.audio import ffmpeg
from samuel.config import DownloadConfig, without_secrets
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
    debug, warning = (
        lambda text, log=log: log(without_secrets(text)) for log in (logger.debug, logger.warning)
    )
    log = SimpleNamespace(debug=debug, warning=warning, error=debug)  # it raises, too
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
            message = " ".join(without_secrets(str(error)).removeprefix("ERROR: ").split())[:500]
            raise SongError(classify(error), message) from error
        except (SamuelError, OSError):
            raise
        except Exception as error:  # its extractors trust what a site sends
            message = without_secrets(f"yt-dlp failed: {type(error).__name__}: {error}")[:500]
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
        raise OperatorError(f"{what} ({found[0]}): {without_secrets(text)[-300:]}")
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
