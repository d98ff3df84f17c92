"""yt-dlp as a library: what it may do, and where it says things."""

import io
import logging
import re
import threading
from http.cookiejar import LoadError
from pathlib import Path
from typing import Any

from yt_dlp import YoutubeDL
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils import YoutubeDLError

from samuel.audio import ffmpeg
from samuel.config import DownloadConfig
from samuel.errors import InputError

# Netscape's format: domain, subdomains, path, secure, expires, name and value; or a comment, or nothing.
COOKIE = r"(?:#HttpOnly_)?(?:[^\t]*\t){4}(?:[0-9]+(?:\.[0-9]+)?)?\t[^\t]*\t[^\t]*"
COOKIE_LINE = re.compile(rf"{COOKIE}|#(?!HttpOnly_).*|\s*")

logger = logging.getLogger(__name__)


def file_options(config: DownloadConfig, folder: Path) -> dict[str, Any]:
    """yt-dlp's options for a file at hand, to be written into `folder`: no extractor may run."""
    return {
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
        "allowed_extractors": [],
        **dict.fromkeys(("retries", "fragment_retries", "extractor_retries"), config.retries),
        "skip_unavailable_fragments": False,  # a missing segment would be a silent gap
    }


def site_options(config: DownloadConfig, folder: Path) -> dict[str, Any]:
    """yt-dlp's options for the site: its extractors alone, one video at a time.

    Raises:
        InputError: The cookies file cannot be used.
    """
    options: dict[str, Any] = {
        **config.ytdlp,
        **file_options(config, folder),
        "allowed_extractors": list(config.extractors),
        "extract_flat": "in_playlist",
        "noplaylist": True,
        "geo_bypass": False,
        "sleep_interval_requests": config.request_interval_s,
    }
    if config.proxy is not None:
        options["proxy"] = config.proxy
    if config.cookies is not None:
        options["cookiefile"] = read_cookies(config.cookies)
    return options


def read_cookies(path: Path) -> io.StringIO:
    """The cookies as a stream: yt-dlp would write back into the file, several threads at a time.

    Raises:
        InputError: The file is missing, or not in Netscape's format; the message holds nothing of it.
    """
    try:
        text = path.expanduser().read_text("utf-8")
        _check_lines(text)
        YoutubeDLCookieJar(io.StringIO(text)).load()  # type: ignore[arg-type]
    except (UnicodeDecodeError, LoadError, YoutubeDLError, ValueError):
        remedy = "export them from the browser in Netscape's format (cookies.txt)"
        raise InputError(f"download.cookies {path}: not a cookies file; {remedy}") from None
    except OSError as error:
        raise InputError(f"download.cookies {path}: {error.strerror}; give a readable file") from None
    return io.StringIO(text)


def _check_lines(text: str) -> None:
    # yt-dlp skips a line that it cannot read, and prints it with all its secrets.
    if not all(COOKIE_LINE.fullmatch(line) for line in text.split("\n")):
        raise ValueError


class YtDlp(YoutubeDL):
    """yt-dlp that closes what it opened, which it otherwise leaves to the garbage collector."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._opened: list[Any] = []
        with _starting:
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


_starting = threading.Lock()  # the first instance loads the plugins, and two at once would load them twice


class _Log:
    """What yt-dlp says, to our log; its errors come back as exceptions, so they are not said twice."""

    def debug(self, message: str) -> None:
        logger.debug("yt-dlp: %s", message)

    error = debug

    def warning(self, message: str) -> None:
        logger.warning("yt-dlp: %s", message)
