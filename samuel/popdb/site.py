"""The one door to yt-dlp: what it may do, where its words go, and its failures as statuses of a song."""

import io
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import LoadError
from pathlib import Path
from typing import Any

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
# The first that matches decides: once yt-dlp has given up retrying, only the message is left.
VERDICTS = (
    (r"no suitable extractor|No such file or directory|file:// URLs are disabled", Status.UNAVAILABLE),
    # On many videos at once: yt-dlp is too old, or lacks its JavaScript runtime or a PO token.
    (r"requested format is not available|only images are available", Status.SERVER_ERROR),
    (r"HTTP Error (?:429|402)\b|try again later|rate.?limited", Status.RATE_LIMITED),
    (r"confirm your age|age.restricted", Status.AGE_GATED),
    (r"available (?:in|from) your (?:country|location|region)", Status.GEO_BLOCKED),
    (r"live event will begin|premieres in", Status.LIVE),
    (r"HTTP Error 403\b", Status.FORBIDDEN),
    # A segment that is missing, of a video that is there.
    (r"HTTP Error 408\b|got error: HTTP Error 4(?:04|10)\b", Status.NETWORK),
    (r"HTTP Error (?:404|410)\b", Status.UNAVAILABLE),
    (r"HTTP Error [45]\d\d\b", Status.SERVER_ERROR),
    (r"got error:|timed out|did not get any data|content too short", Status.NETWORK),
    (r"unavailable|not available|private|removed|deleted|terminated|closed|no longer", Status.UNAVAILABLE),
    (r"copyright|members.only|join this channel|payment|premium|purchase|rent\b", Status.UNAVAILABLE),
    (r"unsupported url", Status.UNAVAILABLE),
)
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


class _Log:
    """Takes yt-dlp's words to our log; its errors come back as exceptions, so they are not said twice."""

    def debug(self, message: str) -> None:
        logger.debug("yt-dlp: %s", message)

    error = debug

    def warning(self, message: str) -> None:
        logger.warning("yt-dlp: %s", message)


def site_options(config: DownloadConfig, folder: Path) -> dict[str, Any]:
    """yt-dlp's options for the site: its extractors alone, one video at a time, written into `folder`."""
    options: dict[str, Any] = {
        **config.ytdlp,
        "logger": _Log(),
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
    """Read cookies into a stream: yt-dlp would write back into the file, several threads at a time.

    Raises:
        InputError: The file is missing, or not in Netscape's format; the message holds nothing of it.
    """
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
    """Turn what yt-dlp raises, whatever a site sent, into SongError; `folder` is where it writes.

    Raises:
        OperatorError: No other song would fare better: a bot check, or a full disk.
    """
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
            return status
    if any(isinstance(cause, TransportError | ContentTooShortError) for cause in causes):
        return Status.NETWORK
    # An unknown fault may be a change of the site, and may concern every song.
    return Status.SERVER_ERROR
