"""Songs → audio: search, choice, download, several songs at a time, in rounds (paper §III-C).

What a search said is an entry of its own, by title, and what was downloaded another, by video: a title is
searched for once, a video fetched once, whoever asks, and another way of choosing asks the site for nothing
that is there. Failures are remembered beside them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import replace
from pathlib import Path
from typing import Any

from samuel.artifacts import digest, partial_folder
from samuel.concurrency import side_by_side
from samuel.config import DownloadConfig, Settings
from samuel.popdb.download import (
    AUDIO,
    fetch_file,
    fetch_video,
    too_long,
)
from samuel.popdb.duplicates import to_bytes
from samuel.popdb.parts import Parts
from samuel.popdb.rate_limit import Pace, Request
from samuel.popdb.search import Candidate, hits_of, rank, search, verdict
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
    asking: AbstractContextManager[object] | None = None,
) -> list[Outcome]:
    """The audio of every song, or why there is none, in the order of `songs`.

    What is known of songs comes first. Those that failed by what might pass are tried again after the others,
    and after a pause. Whoever begins a run calls `parts.rate_limiter.open()` first: until then a stop holds.

    Args:
        songs: Of the list.
        parts: Where, which, and at what pace.
        done: Called once for each song, when its first try is over.
        asking: Held while the site is asked; not entered where it need not be.

    Raises:
        OperatorError: The run must stop: a bot check, a run of refusals, a full disk. What is done stays.
    """
    outcomes = known(songs, parts)
    for outcome in outcomes.values():
        done(outcome)
    left = [place for place in range(len(songs)) if place not in outcomes]
    asks = any(songs[place].url is None for place in left)
    with asking if asking and asks else nullcontext():
        tried = _in_rounds([songs[place] for place in left], parts, done)
    outcomes |= dict(zip(left, tried, strict=True))
    return [outcomes[place] for place in range(len(songs))]


def known(songs: Sequence[Song], parts: Parts) -> dict[int, Outcome]:
    """By place, what became of the songs for which the site need not be asked (again)."""
    settings = parts.settings
    pace, outcomes = _NoSite(settings.download, settings.data / "raw" / ".pace"), dict[int, Outcome]()
    for place, song in enumerate(songs):
        if song.url is None:
            with suppress(_AskedError):
                outcomes[place] = acquire_song(song, parts, pace)
    return {place: outcome for place, outcome in outcomes.items() if not outcome.status.retryable}


def _in_rounds(songs: Sequence[Song], parts: Parts, done: Callable[[Outcome], object]) -> list[Outcome]:
    """The outcomes of songs, several at a time, and again of those that failed by what might pass."""
    pace, failed_at = parts.rate_limiter, time.monotonic()
    outcomes: dict[int, Outcome] = {}
    waiting = list(range(len(songs)))
    for again in range(parts.settings.download.attempts if songs else 0):
        if again:
            pace.rest(again, time.monotonic() - failed_at)
        places = tuple(waiting)
        tried = side_by_side(
            lambda place: acquire_song(songs[place], parts, pace),
            places,
            parts.settings.download.workers,
            pace.leave,  # or those who wait for their turn would be waited for
        )
        for number, outcome in tried:
            place = places[number]
            outcomes[place] = outcome
            if outcome.did_work and outcome.status.retryable:
                failed_at = time.monotonic()
            if not again:
                done(outcome)
        waiting = [i for i in waiting if outcomes[i].status.retryable]
        if not waiting:
            break
    return [outcomes[i] for i in range(len(songs))]


class _AskedError(Exception):
    """The site would be asked."""


class _NoSite(Pace):
    """A pace at which nothing is asked."""

    @contextmanager
    def asking(self, what: Request, *, again: bool = False) -> Iterator[None]:
        raise _AskedError(what, again)
        yield


def acquire_song(song: Song, parts: Parts, pace: Pace) -> Outcome:
    """The audio of one song, tried once: `data/raw/<key>/audio.wav`.

    Raises:
        OperatorError: The run must stop.
    """
    with full_disk_stops():  # what is written beside the audio fills a disk as well
        if song.url is not None:
            return _file(song, parts)
        searched = _searched(song, parts, pace)
        if searched.artifact is None:
            return searched
        candidates = rank(
            song.title, song.duration_s, hits_of(searched.artifact.record), parts.settings.download
        )
        tried = _tried(song, candidates, parts, pace)
        return _told(searched, candidates, tried)


def _file(song: Song, parts: Parts) -> Outcome:
    settings = parts.settings
    config, folder = settings.download, _folder(settings, song.song_id)

    def make(to: Path) -> dict[str, Any]:
        return fetch_file(song, config, to)

    outcome = attempt(song, "download", folder, make, {}, limits=_limits(config), pieces=parts.store)
    return _within(outcome, config.max_duration_s)


def _searched(song: Song, parts: Parts, pace: Pace) -> Outcome:
    settings, config = parts.settings, parts.settings.download
    key = digest("search", VERSION, config.search, config.search_results, song.title)
    folder = settings.data / "searches" / key

    def make(_: Path) -> dict[str, Any]:
        return search(song.title, config, pace, again=attempts_failed(folder) > 0)

    def retry(_: int) -> bool:
        return not pace.weary

    return attempt(song, "search", folder, make, {}, retry=retry, pieces=parts.store)


def _tried(song: Song, candidates: Sequence[Candidate], parts: Parts, pace: Pace) -> list[Outcome]:
    """The downloads of the acceptable candidates, best first, up to the first that ends the matter."""
    acceptable = [candidate for candidate in candidates if candidate.refusal is None]
    pieces, tried = parts.store, list[Outcome]()

    def settled() -> bool:
        # What is there is not left for a better one that keeps failing: the dataset would change by itself.
        return any(pieces.find(_video_folder(candidate, parts.settings)) for candidate in acceptable)

    for candidate in acceptable:
        tried.append(_video(song, candidate, parts, pace, settled))
        if tried[-1].ok or (tried[-1].status.retryable and tried[-1].attempts < PATIENCE):
            break
    return tried


def _video(
    song: Song, candidate: Candidate, parts: Parts, pace: Pace, settled: Callable[[], bool]
) -> Outcome:
    config, folder = parts.settings.download, _video_folder(candidate, parts.settings)

    def make(to: Path) -> dict[str, Any]:
        again = attempts_failed(folder) > 0
        return fetch_video(candidate.hit, config, pace, to, partial_folder(folder), again=again)

    def retry(failed: int) -> bool:
        return not pace.weary and not (failed >= PATIENCE and settled())

    limits, pieces = _limits(config), parts.store
    outcome = attempt(song, "download", folder, make, {}, limits=limits, retry=retry, pieces=pieces)
    return _within(outcome, config.max_duration_s)


def _limits(config: DownloadConfig) -> dict[Status, Any]:
    """What a status depends on that the settings can change."""
    access = digest(config.proxy, config.cookies, config.ytdlp)
    return {
        Status.TOO_LONG: config.max_duration_s,
        Status.AGE_GATED: access,
        Status.GEO_BLOCKED: access,
    }


def _video_folder(candidate: Candidate, settings: Settings) -> Path:
    hit = candidate.hit
    return _folder(settings, settings.download.search, hit.extractor, hit.video_id)


def _folder(settings: Settings, *source: str) -> Path:
    return settings.data / "raw" / digest("download", VERSION, *source)


def _within(outcome: Outcome, longest_s: float) -> Outcome:
    """`outcome` with what its audio is known by; refused where it was downloaded under a larger limit."""
    if outcome.artifact is None:
        return outcome
    if (duration_s := outcome.record["duration_s"]) <= longest_s:
        codes = to_bytes(outcome.record["fingerprint"])
        told = {"audio_sha256": outcome.artifact.sha256[AUDIO], "fingerprint": codes}
        return replace(outcome, record=outcome.record | told)
    message = str(too_long(duration_s, longest_s))
    return replace(outcome, status=Status.TOO_LONG, message=message, artifact=None, record={})


def _told(searched: Outcome, candidates: Sequence[Candidate], tried: Sequence[Outcome]) -> Outcome:
    """What became of a song that was searched for, with every candidate and what spoke for or against it."""
    rows = (_row(c, tried[i] if i < len(tried) else None) for i, c in enumerate(candidates))
    table = {"candidates": Packed(rows)}
    if not tried:
        status, message = verdict(candidates)
        return replace(searched, stage="match", status=status, message=message, artifact=None, record=table)
    last = tried[-1] if tried[-1].ok or tried[-1].status.retryable else tried[0]
    chosen = candidates[tried.index(last)]
    found = {"match_score": chosen.score, "match_reason": chosen.reason} if last.ok else {}
    worked = searched.did_work or any(outcome.did_work for outcome in tried)
    return replace(last, record={**last.record, **found, **table}, did_work=worked)


def _row(candidate: Candidate, tried: Outcome | None) -> dict[str, Any]:
    hit = candidate.hit
    if tried is None:
        verdict_, reason = candidate.refusal or "spare", candidate.reason
    else:
        verdict_, reason = ("chosen", candidate.reason) if tried.ok else (tried.status, tried.message)
    return {
        "video_id": hit.video_id,
        "title": hit.title,
        "channel": hit.channel,
        "duration_s": hit.duration_s,
        "title_likeness": candidate.title_likeness,
        "score": candidate.score,
        "verdict": str(verdict_),
        "reason": reason,
    }
