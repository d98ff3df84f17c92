"""A video, or a file on this machine → `audio.wav` (44.1 kHz stereo float32), and what is measured of it."""

import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import soundfile

from samuel.artifacts import explain_full_disk
from samuel.audio import CutShortError, decode_to_wav
from samuel.config import DownloadConfig
from samuel.errors import InputError, SongError
from samuel.popdb.duplicates import fingerprint, supported, to_text
from samuel.popdb.rate_limit import RateLimiter
from samuel.popdb.search import Hit, duration_of, is_live
from samuel.popdb.site import DISK_REMEDY, YtDlp, site_options, translated_errors
from samuel.popdb.songs import Song
from samuel.popdb.status import Status

AUDIO = "audio.wav"
WAV_LIMIT_BYTES = 2**32
WEB_PAGE = (b"<!doctype html", b"<html")


def fetch_video(
    hit: Hit, config: DownloadConfig, partial: Path, limiter: RateLimiter, folder: Path, repeated: bool
) -> dict[str, Any]:
    """Download the video of `hit` and write `audio.wav` into `folder`, and nothing else.

    What arrived before a passing fault stays in `partial`, and the next try (`repeated`) goes on from there.

    Returns:
        What is known of the audio, the same on every machine: video_id, video_title, channel, duration_s,
        peak (linear, 1 is full scale), clipped_share (samples at or over full scale) and fingerprint
        (Chromaprint as text; empty where this ffmpeg has none).

    Raises:
        SongError: This video cannot be had; `status` says why.
    """
    with limiter.request("download", repeated=repeated):
        resumed = partial.is_dir() and any(partial.iterdir())
        source, promised_s = _download(hit, config, limiter, partial)
        try:
            measured = _decode(source, folder, config, promised_s)
        except SongError as error:
            shutil.rmtree(partial)
            if resumed and error.status == Status.DECODE_FAILED:
                message = "what was resumed cannot be read; it will be fetched anew"
                raise SongError(Status.NETWORK, message) from error
            raise
        shutil.rmtree(partial)
    return {"video_id": hit.video_id, "video_title": hit.title, "channel": hit.channel, **measured}


def fetch_file(song: Song, config: DownloadConfig, folder: Path) -> dict[str, Any]:
    """Write the audio of a song with a file URL into `folder` as `audio.wav`; see `fetch_video`."""
    source = Path(os.fsdecode(unquote_to_bytes(urlsplit(song.url or "").path)))
    if not source.is_file():
        raise SongError(Status.UNAVAILABLE, f"{source.name}: no such file")
    try:
        measured = _decode(source, folder, config)
    except SongError as error:
        if Status(error.status).retryable:  # a file does not get better by waiting
            raise SongError(Status.DECODE_FAILED, error.message) from error
        raise
    return {"video_id": None, "video_title": None, "channel": None, **measured}


def require_length(duration_s: float, config: DownloadConfig) -> None:
    """Raise a SongError where a song is over the longest duration."""
    if duration_s > config.max_duration_s:
        message = f"{duration_s:.1f} s; download.max_duration_s is {config.max_duration_s:g}"
        raise SongError(Status.TOO_LONG, message)


def _download(
    hit: Hit, config: DownloadConfig, limiter: RateLimiter, partial: Path
) -> tuple[Path, float | None]:
    """Fetch a video into `partial`, from where the last try broke off; its file and the promised duration."""
    deadline_s = time.monotonic() + config.timeout_s

    def check_page(video: dict[str, Any], *, incomplete: bool) -> None:
        # A hit can turn out to be longer, or live, once its page is read; then nothing may be downloaded.
        if not incomplete:
            if is_live(video):
                raise SongError(Status.LIVE, "the video turned out to be live")
            require_length(duration_of(video) or 0.0, config)

    def check_time(_: dict[str, Any]) -> None:
        limiter.raise_if_stopped()
        if time.monotonic() > deadline_s:
            raise SongError(Status.NETWORK, f"not whole after {config.timeout_s:g} s (download.timeout_s)")

    partial.mkdir(parents=True, exist_ok=True)
    hooks = {"match_filter": check_page, "progress_hooks": [check_time]}
    try:
        # Not the instance that searched: that one has let in the extractors its hits name, allowed or not.
        with translated_errors(partial), YtDlp(site_options(config, partial) | hooks) as ydl:
            video: Any = ydl.extract_info(hit.url, ie_key=hit.extractor or None)
            # yt-dlp returns normally where it downloaded nothing, e.g. for a playlist.
            if not (downloads := (video or {}).get("requested_downloads")):
                message = "the site offers no single audio file for it"
                raise SongError(Status.UNAVAILABLE, message)  # noqa: TRY301
            return Path(downloads[0]["filepath"]), duration_of(video)
    except SongError as error:
        # 416: the site has no bytes after the rest, and yt-dlp would ask for the same range for ever.
        if not Status(error.status).retryable or "HTTP Error 416" in error.message:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _decode(
    source: Path, folder: Path, config: DownloadConfig, promised_s: float | None = None
) -> dict[str, Any]:
    decoded = folder / "decoded.wav"
    try:
        with explain_full_disk(folder, DISK_REMEDY):
            decode_to_wav(source, decoded, config.max_duration_s + 1.0)
    except InputError as error:
        with source.open("rb") as file:
            start = file.read(512).lstrip().lower()
        if start.startswith(WEB_PAGE):
            raise SongError(Status.SERVER_ERROR, "a web page arrived instead of audio") from error
        cut_short = isinstance(error, CutShortError)
        raise SongError(Status.NETWORK if cut_short else Status.DECODE_FAILED, str(error)) from error
    measured = measure(decoded)
    duration_s = measured["duration_s"]
    if promised_s and duration_s < promised_s - max(2.0, 0.02 * promised_s):
        raise SongError(Status.NETWORK, f"{duration_s:.1f} s arrived of the {promised_s:.1f} s promised")
    require_length(duration_s, config)
    codes = to_text(fingerprint(decoded)) if supported() else ""
    decoded.replace(folder / AUDIO)
    return {**measured, "fingerprint": codes}


def measure(audio: Path) -> dict[str, float]:
    """duration_s, peak and clipped_share of a WAV file, read block by block; or a SongError."""
    if audio.stat().st_size >= WAV_LIMIT_BYTES:  # the length in its header has wrapped around
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
