"""Songs → audio: search, choice, download, several songs at a time, in rounds (paper §III-C).

What a search answered is an artifact of its own, by title, and what was downloaded another, by video: a title
is searched for once, a video fetched once, whoever wants it, and another policy of choice asks the site for
nothing that is there. Failures are remembered beside them.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from samuel.artifacts import digest, partial_folder
from samuel.concurrency import side_by_side
from samuel.config import DownloadConfig, Settings
from samuel.errors import OperatorError
from samuel.popdb.download import AUDIO, fetch_file, fetch_video, too_long
from samuel.popdb.duplicates import to_bytes
from samuel.popdb.parts import Parts
from samuel.popdb.rate_limit import RateLimiter
from samuel.popdb.search import Candidate, Hit, rank, search, summarise_refusals
from samuel.popdb.site import full_disk_stops
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status, attempt, attempts_failed
from samuel.popdb.tables import Packed

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
    and after a pause. Whoever begins a run calls `parts.rate_limiter.start_run()`: until then a stop holds.

    Args:
        songs: Of the list.
        parts: Settings, store and rate limiter of the run.
        done: Called once for each song, when its first try is over.
        while_asking: Held while the site is asked; not entered where it need not be.

    Raises:
        OperatorError: The run must stop: a bot check, a run of refusals, a full disk. What is done stays.
    """
    outcomes = known(songs, parts)
    for outcome in outcomes.values():
        done(outcome)
    left = [place for place in range(len(songs)) if place not in outcomes]
    asks = any(songs[place].url is None for place in left)
    with while_asking if while_asking and asks else nullcontext():
        outcomes |= _in_rounds(songs, left, parts, done)
    return [outcomes[place] for place in range(len(songs))]


def known(songs: Sequence[Song], parts: Parts) -> dict[int, Outcome]:
    """Outcomes, by place, of the songs for which the site need not be asked (again)."""
    outcomes: dict[int, Outcome] = {}
    for place, song in enumerate(songs):
        if song.url is None:
            with suppress(_SiteNeededError):
                outcome = acquire_song(song, parts, limiter=None)
                if not outcome.status.retryable:
                    outcomes[place] = outcome
    return outcomes


class _SiteNeededError(Exception):
    """The site would have to be asked."""


def _in_rounds(
    songs: Sequence[Song], waiting: Sequence[int], parts: Parts, done: Callable[[Outcome], object]
) -> dict[int, Outcome]:
    """Outcomes of the songs at `waiting`, several at a time, and again of those that may have passed."""
    config, limiter, failed_s = parts.settings.download, parts.rate_limiter, time.monotonic()
    outcomes: dict[int, Outcome] = {}
    for retry in range(config.attempts if waiting else 0):
        if retry:
            limiter.wait_before_retry(retry, time.monotonic() - failed_s)
        tried = side_by_side(
            lambda place: acquire_song(songs[place], parts, limiter),
            waiting,
            config.workers,
            limiter.cancel,  # or those who wait for their turn would be waited for
        )
        for number, outcome in tried:
            outcomes[waiting[number]] = outcome
            if outcome.did_work and outcome.status.retryable:
                failed_s = time.monotonic()
            if not retry:
                done(outcome)
        waiting = [place for place in waiting if outcomes[place].status.retryable]
        if not waiting:
            break
    return outcomes


def acquire_song(song: Song, parts: Parts, limiter: RateLimiter | None) -> Outcome:
    """Acquire the audio of one song, tried once: `data/raw/<key>/audio.wav`.

    Raises:
        OperatorError: The run must stop.
        _SiteNeededError: The site would have to be asked, and there is no limiter.
    """
    with full_disk_stops():  # what is written beside the audio fills a disk as well
        if song.url is not None:
            return _fetched_file(song, parts)
        searched = _searched(song, parts, limiter)
        if searched.artifact is None:
            return searched
        try:
            hits = [Hit(**hit) for hit in searched.artifact.record["hits"]]
        except (ValidationError, KeyError, TypeError) as error:
            message = f"{searched.artifact.folder}: not what a search answers; remove it, and start again"
            raise OperatorError(message) from error
        candidates = rank(song.title, song.duration_s, hits, parts.settings.download)
        return _chosen(searched, candidates, _tried(song, candidates, parts, limiter))


def _fetched_file(song: Song, parts: Parts) -> Outcome:
    config, folder = parts.settings.download, _audio_folder(parts.settings, song.song_id)
    make = partial(fetch_file, song, config)
    outcome = attempt(song, "download", folder, make, {}, limits=_limits(config), store=parts.store)
    return _with_audio(outcome, config)


def _searched(song: Song, parts: Parts, limiter: RateLimiter | None) -> Outcome:
    config = parts.settings.download
    key = digest("search", VERSION, config.search, config.search_results, song.title)
    ask = partial(search, song.title, config)
    return _asked(song, "search", parts.settings.data / "searches" / key, ask, parts, limiter)


def _tried(
    song: Song, candidates: Sequence[Candidate], parts: Parts, limiter: RateLimiter | None
) -> list[Outcome]:
    """The downloads of the acceptable candidates, best first, up to the first that ends the matter."""
    config = parts.settings.download
    hits = [candidate.hit for candidate in candidates if candidate.refusal is None]
    folders = [_audio_folder(parts.settings, config.search, hit.extractor, hit.video_id) for hit in hits]
    tried: list[Outcome] = []

    def may_retry(failed: int) -> bool:
        # What is there is not left for a better one that keeps failing, or the dataset would change.
        return failed < PATIENCE or not any(parts.store.find(folder) for folder in folders)

    for hit, folder in zip(hits, folders, strict=True):
        ask = partial(fetch_video, hit, config, partial_folder(folder))
        outcome = _with_audio(_asked(song, "download", folder, ask, parts, limiter, may_retry), config)
        tried.append(outcome)
        if outcome.ok or (outcome.status.retryable and outcome.attempts < PATIENCE):
            break
    return tried


def _asked(
    song: Song,
    stage: str,
    folder: Path,
    ask: Callable[[RateLimiter, Path, bool], dict[str, Any]],
    parts: Parts,
    limiter: RateLimiter | None,
    may_retry: Callable[[int], bool] = lambda _: True,
) -> Outcome:
    """`attempt` of what the site has to be asked for, by `ask(limiter, folder, repeated)`."""

    def make(to: Path) -> dict[str, Any]:
        if limiter is None:
            raise _SiteNeededError
        return ask(limiter, to, attempts_failed(folder) > 0)

    def retry(failed: int) -> bool:
        return may_retry(failed) and (limiter is None or not limiter.gives_up_repeats)

    limits = _limits(parts.settings.download)
    return attempt(song, stage, folder, make, {}, limits=limits, retry=retry, store=parts.store)


def _limits(config: DownloadConfig) -> dict[Status, Any]:
    """Settings that a status depends on: once they change, it is tried again."""
    access = digest(config.proxy, config.cookies, config.ytdlp)
    gated = dict.fromkeys((Status.AGE_GATED, Status.GEO_BLOCKED), access)
    return {Status.TOO_LONG: config.max_duration_s, **gated}


def _audio_folder(settings: Settings, *source: str) -> Path:
    return settings.data / "raw" / digest("download", VERSION, *source)


def _with_audio(outcome: Outcome, config: DownloadConfig) -> Outcome:
    """`outcome` with what its audio is known by; refused where it was downloaded under a larger limit."""
    if outcome.artifact is None:
        return outcome
    if (duration_s := outcome.record["duration_s"]) > config.max_duration_s:
        message = str(too_long(duration_s, config.max_duration_s))
        return replace(outcome, status=Status.TOO_LONG, message=message, artifact=None, record={})
    codes = to_bytes(outcome.record["fingerprint"])
    known_by = {"audio_sha256": outcome.artifact.sha256[AUDIO], "fingerprint": codes}
    return replace(outcome, record=outcome.record | known_by)


def _chosen(searched: Outcome, candidates: Sequence[Candidate], tried: Sequence[Outcome]) -> Outcome:
    """Sum up a song that was searched for, with every candidate and what spoke for or against it."""
    rows = (_row(c, tried[i] if i < len(tried) else None) for i, c in enumerate(candidates))
    table = {"candidates": Packed(rows)}
    if not tried:
        status, message = summarise_refusals(candidates)
        return replace(searched, stage="match", status=status, message=message, artifact=None, record=table)
    last = tried[-1] if tried[-1].ok or tried[-1].status.retryable else tried[0]
    chosen = candidates[tried.index(last)]
    match = {"match_score": chosen.score, "match_reason": chosen.reason} if last.ok else {}
    worked = searched.did_work or any(outcome.did_work for outcome in tried)
    return replace(last, record={**last.record, **match, **table}, did_work=worked)


def _row(candidate: Candidate, tried: Outcome | None) -> dict[str, Any]:
    hit = candidate.hit
    verdict, reason = candidate.refusal or "spare", candidate.reason
    if tried is not None:
        verdict, reason = ("chosen", reason) if tried.ok else (tried.status, tried.message)
    return {
        "video_id": hit.video_id,
        "title": hit.title,
        "channel": hit.channel,
        "duration_s": hit.duration_s,
        "title_likeness": candidate.title_likeness,
        "score": candidate.score,
        "verdict": str(verdict),
        "reason": reason,
    }
