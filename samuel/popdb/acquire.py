"""Songs → audio: search, choice, download, several songs at a time, in rounds (paper §III-C).

What a search answered is an artifact of its own, by title, and what was downloaded another, by video: a title
is searched for once, a video fetched once, whoever wants it, and another policy of choice asks the site for
nothing that is there. Failures are remembered beside them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from samuel.artifacts import digest, explain_full_disk, partial_folder
from samuel.concurrency import side_by_side
from samuel.config import DownloadConfig
from samuel.errors import OperatorError, SongError
from samuel.popdb.download import AUDIO, fetch_file, fetch_video, require_length
from samuel.popdb.duplicates import to_bytes
from samuel.popdb.parts import Parts
from samuel.popdb.rate_limit import RateLimiter
from samuel.popdb.search import Candidate, Hit, rank, search, summarise_refusals
from samuel.popdb.site import DISK_REMEDY
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status, attempt, attempts_failed
from samuel.popdb.tables import Packed

# Raise it when the code gives other hits, or other bytes, for the same input.
VERSION = 3
# A video that failed so often, over all runs, by what might pass gives way to the next best.
PATIENCE = 6


class _SiteNeededError(Exception):
    """The site would have to be asked."""


def acquire_songs(
    songs: Sequence[Song],
    parts: Parts,
    done: Callable[[Outcome], object] = lambda _: None,
    while_asking: AbstractContextManager[object] | None = None,
) -> list[Outcome]:
    """Acquire the audio of every song, or find out why there is none; in the order of `songs`.

    What is known of songs comes first. Those that failed by what might pass are tried again after the others,
    and after a pause. Whoever begins a run calls `parts.rate_limiter.start_run()`: until then a stop holds.

    `done` is called once for each song, when its first try is over; `while_asking` is held while the site is
    asked, and not entered where it need not be.

    Raises:
        OperatorError: The run must stop: a bot check, a run of refusals, a full disk. What is done stays.
    """
    config, outcomes = parts.settings.download, dict[int, Outcome]()
    for place, song in enumerate(songs):
        with suppress(_SiteNeededError):
            if song.url is None and not (known := acquire_song(song, parts, None)).status.retryable:
                outcomes[place] = known
                done(known)
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
                outcomes[waiting[number]] = outcome
                if not retry:
                    done(outcome)
            waiting = [place for place in waiting if outcomes[place].status.retryable]
    return [outcomes[place] for place in range(len(songs))]


def acquire_song(song: Song, parts: Parts, limiter: RateLimiter | None) -> Outcome:
    """Acquire the audio of one song, tried once: `data/raw/<key>/audio.wav`.

    Raises:
        _SiteNeededError: The site would have to be asked, and there is no limiter.
    """
    config, data = parts.settings.download, parts.settings.data
    with explain_full_disk(data, DISK_REMEDY):
        if song.url is not None:
            folder = data / "raw" / digest("download", VERSION, song.song_id)
            make = partial(fetch_file, song, config)
            limits = _limits(config)
            found = attempt(song, "download", folder, make, {}, limits=limits, store=parts.store)
            return _with_audio(found, config)
        key = digest("search", VERSION, config.search, config.search_results, song.title)
        ask = partial(search, song.title, config)
        searched = _asked(song, "search", data / "searches" / key, ask, parts, limiter)
        if searched.artifact is None:
            return searched
        try:
            hits = [Hit(**hit) for hit in searched.artifact.record["hits"]]
        except (ValidationError, KeyError, TypeError) as error:
            message = f"{searched.artifact.folder}: not what a search answers; remove it, and start again"
            raise OperatorError(message) from error
        candidates = rank(song.title, song.duration_s, hits, config)
        return _chosen(searched, candidates, _tried(song, candidates, parts, limiter))


def _tried(
    song: Song, candidates: Sequence[Candidate], parts: Parts, limiter: RateLimiter | None
) -> list[Outcome]:
    """The downloads of the acceptable candidates, best first, up to the first that ends the matter."""
    config, raw = parts.settings.download, parts.settings.data / "raw"
    hits = [candidate.hit for candidate in candidates if candidate.refusal is None]
    keys = [digest("download", VERSION, config.search, hit.extractor, hit.video_id) for hit in hits]
    tried: list[Outcome] = []

    def may_retry(failed: int) -> bool:
        # What is there is not left for a better one that keeps failing, or the dataset would change.
        return failed < PATIENCE or not any(parts.store.find(raw / key) for key in keys)

    for hit, key in zip(hits, keys, strict=True):
        ask = partial(fetch_video, hit, config, partial_folder(raw / key))
        outcome = _asked(song, "download", raw / key, ask, parts, limiter, may_retry)
        tried.append(outcome := _with_audio(outcome, config))
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
    retry: Callable[[int], bool] = lambda _: True,
) -> Outcome:
    """`attempt` of what the site has to be asked for, by `ask(limiter, folder, repeated)`."""

    def make(to: Path) -> dict[str, Any]:
        if limiter is None:
            raise _SiteNeededError
        return ask(limiter, to, attempts_failed(folder) > 0)

    limits = _limits(parts.settings.download)
    return attempt(song, stage, folder, make, {}, limits=limits, retry=retry, store=parts.store)


def _limits(config: DownloadConfig) -> dict[Status, Any]:
    """Settings that a status depends on: once they change, it is tried again."""
    access = digest(config.proxy, config.cookies, config.ytdlp)
    gated = dict.fromkeys((Status.AGE_GATED, Status.GEO_BLOCKED), access)
    return {Status.TOO_LONG: config.max_duration_s, **gated}


def _with_audio(outcome: Outcome, config: DownloadConfig) -> Outcome:
    """`outcome` with what its audio is known by; refused where it was downloaded under a larger limit."""
    if outcome.artifact is None:
        return outcome
    try:
        require_length(outcome.record["duration_s"], config)
    except SongError as error:
        return replace(outcome, status=Status.TOO_LONG, message=str(error), artifact=None, record={})
    codes = to_bytes(outcome.record["fingerprint"])
    known_by = {"audio_sha256": outcome.artifact.sha256[AUDIO], "fingerprint": codes}
    return replace(outcome, record=outcome.record | known_by)


def _chosen(searched: Outcome, candidates: Sequence[Candidate], tried: Sequence[Outcome]) -> Outcome:
    """Sum up a song that was searched for, with every candidate and what spoke for or against it."""
    rows: list[dict[str, Any]] = []
    for place, candidate in enumerate(candidates):
        verdict, reason = candidate.refusal or "spare", candidate.reason
        if place < len(tried):
            verdict = "chosen" if tried[place].ok else tried[place].status
            reason = tried[place].message or reason
        hit = {name: getattr(candidate.hit, name) for name in ("video_id", "title", "channel", "duration_s")}
        scores = {"title_likeness": candidate.title_likeness, "score": candidate.score}
        rows.append({**hit, **scores, "verdict": str(verdict), "reason": reason})
    table = {"candidates": Packed(rows)}
    if not tried:
        status, message = summarise_refusals(candidates)
        return replace(searched, stage="match", status=status, message=message, artifact=None, record=table)
    last = tried[-1] if tried[-1].ok or tried[-1].status.retryable else tried[0]
    chosen = candidates[tried.index(last)]
    match = {"match_score": chosen.score, "match_reason": chosen.reason} if last.ok else {}
    worked = searched.did_work or any(outcome.did_work for outcome in tried)
    return replace(last, record={**last.record, **match, **table}, did_work=worked)
