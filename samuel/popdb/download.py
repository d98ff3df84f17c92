"""Song → audio file, by yt-dlp (paper §III-C)."""

import errno
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from yt_dlp import YoutubeDL
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import ContentTooShortError, DownloadError, ExtractorError, GeoRestrictedError
from yt_dlp.utils import YoutubeDLError as YtDlpError

from samuel.audio import decode_to_wav, ffmpeg
from samuel.config import DownloadConfig
from samuel.errors import InputError, OperatorError, SongError
from samuel.files import remove
from samuel.popdb.catalog import AUDIO_SUFFIXES, Song
from samuel.popdb.status import Status

AUDIO = "audio.wav"
DISK_RESERVE_BYTES = 64 * 2**20
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """Where titles are searched.

    Attributes:
        search: Prefix that makes yt-dlp search, whatever the title looks like.
        extractors: Patterns of whole names; no other yt-dlp extractor may run.
    """

    search: str
    extractors: tuple[str, ...]


YOUTUBE = Site("ytsearch", ("youtube:search$", "youtube$"))


def acquire(song: Song, config: DownloadConfig, folder: Path, site: Site = YOUTUBE) -> dict[str, Any]:
    """Write `audio.wav` (44.1 kHz stereo float32) into `folder`, and nothing else.

    A song with a file URL is read from there; any other is searched by title, and the first hit that is not
    live and not over `config.max_duration_s` is taken (the paper's rule).

    Returns:
        What is known of the audio, the same on every machine: title, video_id and video_title (None for
        files), match_score (None: hits are not scored), duration_s, peak (linear, 1 is full scale) and
        clipped_share (samples at or over full scale).

    Raises:
        SongError: This song cannot be had; `status` says why.
        OperatorError: The site wants to see a human, or the disk is full.
    """
    audio, decoded = folder / AUDIO, folder / "decoded.wav"
    try:
        with _translating_errors(folder, at_hand=song.url is not None):
            source, video = _fetch(song, config, folder, site)
            decode_to_wav(source, decoded)
        measured = _measure(decoded)
        _check_duration(measured["duration_s"], video.get("duration"), config.max_duration_s)
        decoded.replace(audio)
    finally:
        remove(path for path in folder.iterdir() if path != audio)
    found = {"video_id": video.get("id"), "video_title": video.get("title"), "match_score": None}
    return {"title": song.title, **found, **measured}


def classify(error: YtDlpError) -> Status:
    """Status of a song whose download ended in `error`.

    Raises:
        OperatorError: No other song would fare better: a bot check, or a full disk.
    """
    causes = list(_causes(error))
    text = " | ".join(str(getattr(cause, "orig_msg", cause)) for cause in causes)
    if re.search(FULL_DISK, text):
        raise OperatorError(f"the disk is full: {DISK_REMEDY}")
    if re.search(BOT_CHECK, text, re.IGNORECASE):
        raise OperatorError(f"the site asks for proof that no robot is at work: {BOT_REMEDY}")
    if any(isinstance(cause, GeoRestrictedError) for cause in causes):
        return Status.GEO_BLOCKED
    for pattern, status in VERDICTS:
        if re.search(pattern, text, re.IGNORECASE):
            return status
    if any(isinstance(cause, TransportError | ContentTooShortError) for cause in causes):
        return Status.NETWORK
    # yt-dlp did not understand the answer: the site has changed, and a newer yt-dlp may know it.
    broken = any(isinstance(cause, ExtractorError) and not cause.expected for cause in causes)
    return Status.SERVER_ERROR if broken else Status.UNAVAILABLE


FULL_DISK = r"No space left on device|Disk quota exceeded|Errno 28\b"
BOT_CHECK = r"not a bot\b|captcha"
BOT_REMEDY = (
    "wait some hours and go on with a larger download.sleep_s, or set up a PO-token provider or cookies for "
    "yt-dlp (cookies can cost you the account). What was downloaded stays"
)
DISK_REMEDY = "make room, or point `data` to another disk, and start again. What was downloaded stays"

# The first that matches decides: once yt-dlp has given up retrying, only the message is left.
VERDICTS = (
    (r"no suitable extractor|No such file or directory", Status.UNAVAILABLE),
    (r"HTTP Error (?:429|402)\b|try again later|rate.?limited", Status.RATE_LIMITED),
    (r"confirm your age|age.restricted", Status.AGE_GATED),
    (r"available (?:in|from) your (?:country|location|region)", Status.GEO_BLOCKED),
    (r"live event will begin|premieres in", Status.LIVE),
    (r"HTTP Error 403\b", Status.FORBIDDEN),
    (r"HTTP Error 408\b", Status.NETWORK),
    (r"HTTP Error (?:404|410)\b", Status.UNAVAILABLE),
    (r"HTTP Error [45]\d\d\b", Status.SERVER_ERROR),
    (r"got error:|timed out|did not get any data|content too short", Status.NETWORK),
)


def _fetch(song: Song, config: DownloadConfig, folder: Path, site: Site) -> tuple[Path, dict[str, Any]]:
    """The fetched file, and what the site says about it (nothing for a file URL)."""
    if song.url is None:
        options = _site_options(config, folder, site)
        hit = _search(song.title, config, site, options)
        # A second yt-dlp: the first has let in the extractors that its hits name, allowed or not.
        with _YtDlp(options) as ydl:
            video: Any = ydl.extract_info(hit["url"], ie_key=hit.get("ie_key"))
            return _downloaded(video), video
    if not song.url.startswith("file:"):
        raise SongError(Status.UNAVAILABLE, "a song is a file at hand or is searched by title, never a link")
    # Given as extracted already: the generic extractor would follow a playlist that is dressed up as audio.
    suffix = Path(song.url).suffix.lower()
    extension = suffix[1:] if suffix in AUDIO_SUFFIXES else "unknown_video"
    file: Any = {"id": "file", "title": "file", "url": song.url, "ext": extension, "extractor": "file"}
    with _YtDlp(_options(config, folder) | {"enable_file_urls": True}) as ydl:
        return _downloaded(ydl.process_ie_result(file)), {}


def _options(config: DownloadConfig, folder: Path) -> Any:
    return {
        "logger": _YtDlpLog(),
        "quiet": True,
        "noprogress": True,
        "color": {"stdout": "no_color", "stderr": "no_color"},
        "cachedir": False,
        "paths": {"home": str(folder)},
        "outtmpl": {"default": "source.%(ext)s"},  # no title ever becomes a file name
        "format": "bestaudio/best",
        "fixup": "never",  # ffmpeg decodes every container as it comes
        "ffmpeg_location": ffmpeg(),
        "allowed_extractors": [],
        **dict.fromkeys(("retries", "fragment_retries", "extractor_retries"), config.retries),
        "skip_unavailable_fragments": False,  # a missing segment would be a silent gap
    }


def _site_options(config: DownloadConfig, folder: Path, site: Site) -> Any:
    def refuse(video: dict[str, Any], *, incomplete: bool) -> None:
        # A hit can turn out to be longer, or live, once its page is read; then nothing may be downloaded.
        if not incomplete and (status := _objection(video, config)):
            raise SongError(status, f"the video that was found is {status}")

    return _options(config, folder) | {
        "allowed_extractors": list(site.extractors),
        "extract_flat": "in_playlist",
        "noplaylist": True,
        "geo_bypass": False,
        "match_filter": refuse,
        "sleep_interval": config.sleep_s,
    }


def _search(title: str, config: DownloadConfig, site: Site, options: Any) -> dict[str, Any]:
    if not title.strip():
        raise SongError(Status.NO_MATCH, "the title is empty: nothing to search for")
    with _YtDlp(options) as ydl:
        found: Any = ydl.extract_info(f"{site.search}{config.search_results}:{title}", download=False)
    return _choose(found.get("entries") or [], config)


def _choose(hits: Sequence[dict[str, Any]], config: DownloadConfig) -> dict[str, Any]:
    objections: set[Status] = set()
    for hit in hits:
        followable = hit.get("duration") and str(hit.get("url")).startswith(("https://", "http://"))
        objection = _objection(hit, config) or (None if followable else Status.NO_MATCH)
        if objection is None:
            return hit
        objections.add(objection)
    status = objections.pop() if len(objections) == 1 else Status.NO_MATCH
    raise SongError(status, f"none of {len(hits)} hits is a finished recording of the right length")


def _objection(video: dict[str, Any], config: DownloadConfig) -> Status | None:
    if video.get("is_live") or video.get("live_status") in ("is_live", "is_upcoming", "post_live"):
        return Status.LIVE
    return Status.TOO_LONG if (video.get("duration") or 0) > config.max_duration_s else None


def _downloaded(video: Any) -> Path:
    # yt-dlp returns normally where it downloaded nothing, e.g. for a playlist.
    if not (downloads := (video or {}).get("requested_downloads")):
        raise SongError(Status.UNAVAILABLE, "the site offers no single audio file for it")
    return Path(downloads[0]["filepath"])


def _measure(audio: Path) -> dict[str, float]:
    if audio.stat().st_size >= 2**32:  # the length in its header has wrapped around
        raise SongError(Status.TOO_LONG, "over 3.3 hours do not fit a WAV file")
    peak, clipped = 0.0, 0
    with soundfile.SoundFile(audio) as file:
        samples, duration_s = file.frames * file.channels, file.frames / file.samplerate
        for block in file.blocks(2**18, dtype="float32"):
            level = np.abs(block)
            if not np.isfinite(level).all():
                raise SongError(Status.NOT_FINITE, "the audio holds values that are no numbers")
            peak = max(peak, float(level.max()))
            clipped += int(np.count_nonzero(level >= 1.0))
    if not samples:
        raise SongError(Status.DECODE_FAILED, "the file holds no sound")
    return {"duration_s": duration_s, "peak": peak, "clipped_share": clipped / samples}


def _check_duration(duration_s: float, promised_s: float | None, longest_s: float) -> None:
    if promised_s and duration_s < promised_s - max(2.0, 0.02 * promised_s):
        raise SongError(Status.NETWORK, f"{duration_s:.1f} s arrived of the {promised_s:.1f} s promised")
    if duration_s > longest_s:
        raise SongError(Status.TOO_LONG, f"{duration_s:.1f} s; download.max_duration_s is {longest_s:g}")


@contextmanager
def _translating_errors(folder: Path, *, at_hand: bool) -> Iterator[None]:
    try:
        yield
    except YtDlpError as error:
        _check_free_space(folder)
        status = classify(error)
        if at_hand and status.retryable:  # a file does not get better by waiting
            raise SongError(Status.DECODE_FAILED, "the file is empty or cannot be read") from error
        raise SongError(status, " ".join(str(error).removeprefix("ERROR: ").split())[:500]) from error
    except InputError as error:
        _check_free_space(folder)  # inside ffmpeg a full disk looks like a failed conversion
        raise SongError(Status.DECODE_FAILED, str(error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OperatorError(f"the disk is full: {DISK_REMEDY}") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # Without the outermost wrapper: its text quotes the query, and a song may be called "Captcha".
    if isinstance(error, DownloadError) and error.exc_info:
        error = error.exc_info[1] or error
    while error is not None:
        yield error
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__


def _check_free_space(folder: Path) -> None:
    if shutil.disk_usage(folder).free < DISK_RESERVE_BYTES:
        raise OperatorError(f"the disk of {folder} is full: {DISK_REMEDY}")


class _YtDlp(YoutubeDL):
    """yt-dlp that closes what it opened, which it otherwise leaves to the garbage collector."""

    def __init__(self, options: Any) -> None:
        self._opened: list[Any] = []
        super().__init__(options)

    def urlopen(self, req: Any) -> Any:
        try:
            self._opened.append(super().urlopen(req))
        except HTTPError as error:
            self._opened.append(error)
            raise
        return self._opened[-1]

    def close(self) -> None:
        for response in self._opened:
            response.close()
        super().close()


class _YtDlpLog:
    """What yt-dlp says, to our log; its errors come back as exceptions, so they are not said twice."""

    def debug(self, message: str) -> None:
        logger.debug("yt-dlp: %s", message)

    error = debug

    def warning(self, message: str) -> None:
        logger.warning("yt-dlp: %s", message)
