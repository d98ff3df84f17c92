"""Songs → audio: search, choice, download, several songs at a time, in rounds (paper §III-C).

What a search answered is an artifact of its own, by title, and what was downloaded another, by video: a title
is searched for once, a video fetched once, whoever wants it. Failures are remembered beside them.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import soundfile
from pydantic import ValidationError

from samuel.artifacts import digest, explain_full_disk, partial_folder
from samuel.audio import CutShortError, TooLongError, decode_to_wav
from samuel.concurrency import side_by_side
from samuel.config import DownloadConfig
from samuel.errors import InputError, OperatorError, SongError
from samuel.popdb.duplicates import fingerprint, supported, to_text
from samuel.popdb.parts import Parts
from samuel.popdb.rate_limit import RateLimiter
from samuel.popdb.search import Hit, duration_of, is_live, rank, search, summarise_refusals
from samuel.popdb.site import DISK_REMEDY, YtDlp, site_options, translated_errors
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status, attempt, attempts_failed

AUDIO = "audio.wav"  # 44.1 kHz, stereo, float32
WEB_PAGE = (b"<!doctype html", b"<html")
# Raise it when the code gives other hits, or other bytes, for the same input.
VERSION = 3
# A video that failed so often, over all runs, by what might pass gives way to the next best.
PATIENCE = 6


def acquire_songs(
    songs: Sequence[Song],
    parts: Parts,
    done: Callable[[Outcome], object] = lambda _: None,
    while_asking: AbstractContextManager[object] | None = None,
) -> list[Outcome]:
    """Acquire the audio of every song, or find out why there is none; in the order of `songs`.

    What is known of songs comes first. Those that failed by what might pass are tried again after the others,
    and after a pause. Whoever begins a run calls `parts.rate_limiter.start_run()`: until then a stop holds,
    which is an OperatorError. `done` is called once for each song, after its first try; `while_asking` is
    held while the site is asked, if it is.
    """
    config, outcomes = parts.settings.download, dict[int, Outcome]()
    for place, song in enumerate(songs):
        there = acquire_song(song, parts, None) if song.url is None else None
        if there and not there.status.retryable:
            outcomes[place] = there
            done(there)
    waiting = [place for place in range(len(songs)) if place not in outcomes]
    asks = any(songs[place].url is None for place in waiting)
    with while_asking if while_asking and asks else nullcontext():
        for retry in range(config.attempts):
            if not waiting:
                break
            if retry:
                parts.rate_limiter.wait_before_retry(retry)
            tried = side_by_side(
                lambda place: acquire_song(songs[place], parts, parts.rate_limiter),
                waiting,
                config.workers,
                parts.rate_limiter.cancel,  # or those who wait for their turn would be waited for
            )
            for number, outcome in tried:
                assert outcome  # noqa: S101 - there is a limiter, so it was tried
                outcomes[waiting[number]] = outcome
                if not retry:
                    done(outcome)
            waiting = [place for place in waiting if outcomes[place].status.retryable]
    return [outcomes[place] for place in range(len(songs))]


def acquire_song(song: Song, parts: Parts, limiter: RateLimiter | None) -> Outcome | None:
    """Acquire a song, tried once: `data/raw/<key>/audio.wav`; None where no limiter may ask the site."""
    config, data = parts.settings.download, parts.settings.data
    with explain_full_disk(data, DISK_REMEDY):
        if song.url is not None:
            folder = data / "raw" / digest("download", VERSION, song.song_id)
            return _attempt(song, "download", folder, partial(fetch_file, song, config), parts)
        key = digest("search", VERSION, config.search, config.search_results, song.title)
        folder = data / "searches" / key
        ask = limiter and partial(search, song.title, config, limiter, attempts_failed(folder) > 0)
        searched = _attempt(song, "search", folder, ask, parts)
        if searched is None or searched.artifact is None:
            return searched
        try:
            hits = [Hit(**hit) for hit in searched.artifact.record["hits"]]
        except (ValidationError, KeyError, TypeError) as error:
            message = f"{searched.artifact.folder}: not what a search answers; remove it, and start again"
            raise OperatorError(message) from error
        return _choose(searched, hits, parts, limiter)


def _choose(
    searched: Outcome, hits: Sequence[Hit], parts: Parts, limiter: RateLimiter | None
) -> Outcome | None:
    """Download the hits that fit, best first, up to the first that ends the matter; record why of each."""
    song, config, raw = searched.song, parts.settings.download, parts.settings.data / "raw"
    candidates = rank(song.title, song.duration_s, hits, config)
    fit = [candidate.hit for candidate in candidates if candidate.refusal is None]
    folders = [raw / digest("download", VERSION, config.search, hit.extractor, hit.video_id) for hit in fit]
    tried: list[Outcome] = []

    def may_retry(failed: int) -> bool:
        # What is there is not left for a better one that keeps failing, or the dataset would change.
        return failed < PATIENCE or not any(map(parts.store.find, folders))

    for hit, folder in zip(fit, folders, strict=True):
        repeated = attempts_failed(folder) > 0
        ask = limiter and partial(fetch_video, hit, config, partial_folder(folder), limiter, repeated)
        outcome = _attempt(song, "download", folder, ask, parts, may_retry)
        if outcome is None:
            return None
        tried.append(outcome)
        if outcome.ok or (outcome.status.retryable and outcome.attempts < PATIENCE):
            break
    rows: list[dict[str, Any]] = []
    for place, candidate in enumerate(candidates):
        verdict, reason = candidate.refusal or "spare", candidate.reason
        if place < len(tried):
            verdict = "chosen" if tried[place].ok else tried[place].status
            reason = tried[place].message or reason
        row = {name: getattr(candidate.hit, name) for name in ("video_id", "title", "channel", "duration_s")}
        row |= {"title_likeness": candidate.title_likeness, "score": candidate.score}
        rows.append(row | {"verdict": str(verdict), "reason": reason})
    table = {"candidates": rows}
    if not tried:
        status, message = summarise_refusals(candidates)
        return replace(searched, stage="match", status=status, message=message, artifact=None, record=table)
    last = tried[-1] if tried[-1].ok or tried[-1].status.retryable else tried[0]
    chosen = candidates[tried.index(last)]
    match = {"match_score": chosen.score, "match_reason": chosen.reason} if last.ok else {}
    worked = searched.did_work or any(outcome.did_work for outcome in tried)
    return replace(last, record={**last.record, **match, **table}, did_work=worked)


def _attempt(
    song: Song,
    stage: str,
    folder: Path,
    make: Callable[[Path], dict[str, Any]] | None,
    parts: Parts,
    retry: Callable[[int], bool] = lambda _: True,
) -> Outcome | None:
    """`attempt`, with the digest of the audio; what was downloaded under a larger limit is refused."""
    config = parts.settings.download
    # Settings that a status depends on: once they change, it is tried again.
    access = digest(config.proxy, config.cookies, config.ytdlp)
    limits = dict.fromkeys((Status.AGE_GATED, Status.GEO_BLOCKED), access)
    limits |= {Status.TOO_LONG: config.max_duration_s}
    outcome = attempt(song, stage, folder, make, {}, limits=limits, retry=retry, store=parts.store)
    if stage == "search" or outcome is None or outcome.artifact is None:
        return outcome
    try:
        require_length(outcome.record["duration_s"], config)
    except SongError as error:
        return replace(outcome, status=Status.TOO_LONG, message=str(error), artifact=None, record={})
    return replace(outcome, record=outcome.record | {"audio_sha256": outcome.artifact.sha256[AUDIO]})


def fetch_video(
    hit: Hit, config: DownloadConfig, rest: Path, limiter: RateLimiter, repeated: bool, folder: Path
) -> dict[str, Any]:
    """Download the video of `hit` and write `audio.wav` into `folder`, or raise a SongError.

    What arrived before a passing fault stays in `rest`, and the next try (`repeated`) goes on from there.
    Returned is what is known of the audio: video_id, video_title, channel, duration_s, peak (1 is full
    scale), clipped_share (of the samples) and fingerprint (Chromaprint as text, or empty).
    """
    with limiter.request("download", repeated=repeated):
        resumed = rest.is_dir() and any(rest.iterdir())
        source, promised_s = _download(hit, config, limiter, rest)
        try:
            measured = _decode(source, folder, config, promised_s)
        except SongError as error:
            shutil.rmtree(rest)
            if resumed and error.status == Status.DECODE_FAILED:
                message = "what was resumed cannot be read; it will be fetched anew"
                raise SongError(Status.NETWORK, message) from error
            raise
        shutil.rmtree(rest)
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
    hit: Hit, config: DownloadConfig, limiter: RateLimiter, rest: Path
) -> tuple[Path, float | None]:
    """Fetch a video into `rest`, from where the last try broke off; its file and the promised duration."""
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

    rest.mkdir(parents=True, exist_ok=True)
    hooks = {"match_filter": check_page, "progress_hooks": [check_time]}
    try:
        # Not the instance that searched: that one has let in the extractors its hits name, allowed or not.
        with translated_errors(rest), YtDlp(site_options(config, rest) | hooks) as ydl:
            video: Any = ydl.extract_info(hit.url, ie_key=hit.extractor or None)
            # yt-dlp returns normally where it downloaded nothing, e.g. for a playlist.
            if not (downloads := (video or {}).get("requested_downloads")):
                message = "the site offers no single audio file for it"
                raise SongError(Status.UNAVAILABLE, message)  # noqa: TRY301
            return Path(downloads[0]["filepath"]), duration_of(video)
    except SongError as error:
        # 416: the site has no bytes after the rest, and yt-dlp would ask for the same range for ever.
        if not Status(error.status).retryable or "HTTP Error 416" in error.message:
            shutil.rmtree(rest, ignore_errors=True)
        raise


def _decode(
    source: Path, folder: Path, config: DownloadConfig, promised_s: float | None = None
) -> dict[str, Any]:
    decoded = folder / "decoded.wav"
    try:
        with explain_full_disk(folder, DISK_REMEDY):
            decode_to_wav(source, decoded, config.max_duration_s)
    except TooLongError as error:
        raise SongError(Status.TOO_LONG, f"{error} (download.max_duration_s)") from error
    except InputError as error:
        with source.open("rb") as file:
            start = file.read(512).lstrip().lower()
        if start.startswith(WEB_PAGE):
            raise SongError(Status.SERVER_ERROR, "a web page arrived instead of audio") from error
        cut_short = isinstance(error, CutShortError)
        raise SongError(Status.NETWORK if cut_short else Status.DECODE_FAILED, str(error)) from error
    peak, clipped = 0.0, 0
    with soundfile.SoundFile(decoded) as file:
        samples, duration_s = file.frames * file.channels, file.frames / file.samplerate
        for block in file.blocks(2**18, dtype="float32"):
            level = np.abs(block)
            if not np.isfinite(level).all():
                raise SongError(Status.NOT_FINITE, "the audio holds values that are no numbers")
            peak = max(peak, float(level.max()))
            clipped += int(np.count_nonzero(level >= 1.0))
    if not samples:
        raise SongError(Status.DECODE_FAILED, "the file holds no sound")
    if promised_s and duration_s < promised_s - max(2.0, 0.02 * promised_s):
        raise SongError(Status.NETWORK, f"{duration_s:.1f} s arrived of the {promised_s:.1f} s promised")
    codes = to_text(fingerprint(decoded)) if supported() else ""
    decoded.replace(folder / AUDIO)
    levels = {"peak": peak, "clipped_share": clipped / samples}
    return {"duration_s": duration_s, **levels, "fingerprint": codes}
