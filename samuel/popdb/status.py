"""What a stage made of a song: an entry on disk, or the reason why there is none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from samuel.artifacts import (
    Artifact,
    failure_file,
    locked,
    make_artifact,
    partial_folder,
    read_json,
    temporary_folder,
    write_json,
)
from samuel.errors import SongError
from samuel.popdb.songs import Song
from samuel.store import Store

# What can become of a song, and whether another try is worth it.


HERE = Store(Path())


class Status(StrEnum):
    """Status of a song in `songs.parquet`."""

    OK = "ok"
    # the site's answer, final
    UNAVAILABLE = "unavailable"
    GEO_BLOCKED = "geo_blocked"
    AGE_GATED = "age_gated"
    NO_MATCH = "no_match"
    TOO_LONG = "too_long"
    LIVE = "live"
    # the audio itself, final
    DECODE_FAILED = "decode_failed"
    TOO_SHORT = "too_short"
    SILENT = "silent"
    NOT_FINITE = "not_finite"
    # passing faults
    RATE_LIMITED = "rate_limited"
    FORBIDDEN = "forbidden"
    NETWORK = "network"
    SERVER_ERROR = "server_error"

    @property
    def retryable(self) -> bool:
        """True where a rerun should try again."""
        return self in (Status.RATE_LIMITED, Status.FORBIDDEN, Status.NETWORK, Status.SERVER_ERROR)


@dataclass(frozen=True)
class Outcome:
    """The state of one song after a stage.

    Attributes:
        song: The song.
        stage: The stage that was tried last: search, match, download, separate or encode.
        status: `Status.OK`, or why the song goes no further.
        message: For people; empty when all is well.
        attempts: How often that stage was tried, over all runs.
        artifact: The stage's files; None when it failed.
        record: What the stages up to this one recorded.
        did_work: True when this run did the work or met the failure, False when it was known before.
        sources: What the entry was made from: the audio, then the stems; no longer told of what is encoded.
    """

    song: Song
    stage: str
    status: Status
    message: str
    attempts: int
    artifact: Artifact | None
    record: dict[str, Any]
    did_work: bool
    sources: tuple[Artifact, ...] = ()

    @property
    def ok(self) -> bool:
        """True where the next stage can go on."""
        return self.artifact is not None


def attempt(
    song: Song,
    stage: str,
    folder: Path,
    make: Callable[[Path], dict[str, Any]],
    earlier: dict[str, Any],
    *,
    limits: Mapping[Status, Any] = MappingProxyType({}),
    retry: Callable[[int], bool] = lambda _: True,
    pieces: Store = HERE,
) -> Outcome:
    """The entry at `folder`, found or made, or the failure of making it.

    A failure is remembered beside the folder. One that another try cannot mend is not tried again, unless
    what its status depends on has changed since; any other is, with its attempts counted. Who wants the same
    entry at the same time waits, and takes what the first one found.

    Args:
        song: The song.
        stage: The stage's name.
        folder: Where the entry is, or will be.
        make: Makes it in a temporary folder; returns its record.
        earlier: What the stages before recorded.
        limits: What a status depends on, as JSON can write it: TOO_LONG on the longest duration.
        retry: Told how often it has failed; False: it is not tried now.
        pieces: Where others may have made it, or met the failure.
    """
    if there := found(song, stage, folder, earlier, pieces):
        return there
    with locked(failure_file(folder)):
        past = _failures(folder)
        if past["status"] and not (_worth_it(past, limits) and retry(past["attempts"])):
            return _failure(song, stage, past, earlier, did_work=False)
        try:
            entry = make_artifact(folder, make)
        except SongError as error:
            failed = _told(error, past["attempts"] + 1, folder, song, limits)
            write_json(failure_file(folder), failed)
            pieces.publish_failure(folder)
            return _failure(song, stage, failed, earlier, did_work=True)
        pieces.publish(folder)
    return _success(song, stage, entry, past["attempts"] + 1, earlier)


def found(
    song: Song, stage: str, folder: Path, earlier: dict[str, Any], pieces: Store = HERE
) -> Outcome | None:
    """The entry at `folder`, as `attempt` tells of it; None where there is none."""
    entry = pieces.find(folder)
    return entry and _success(song, stage, entry, attempts_failed(folder) + 1, earlier)


def attempts_failed(folder: Path) -> int:
    """How often making the entry at `folder` has failed, over all runs, as far as this machine knows."""
    return _failures(folder)["attempts"]


def _worth_it(past: dict[str, Any], limits: Mapping[Status, Any]) -> bool:
    status = Status(past["status"])
    return status.retryable or past["limits"] != limits.get(status)


def _told(
    error: SongError, attempts: int, folder: Path, song: Song, limits: Mapping[Status, Any]
) -> dict[str, Any]:
    # A site may say what no file can hold.
    message = without_paths(str(error), folder, song).encode("utf-8", "replace").decode()
    limit = limits.get(Status(error.status))
    return {"status": error.status, "message": message, "attempts": attempts, "limits": limit}


def without_paths(message: str, folder: Path, song: Song) -> str:
    """A message less the folders of this machine: the dataset carries it to others."""
    places = [temporary_folder(folder), partial_folder(folder), folder, folder.parent]
    if song.url and song.url.startswith("file:"):
        own = Path(unquote(urlsplit(song.url).path))
        message = message.replace(song.url, own.name)
        places.append(own.parent)
    for place in places:
        for text in (str(place.resolve()), str(place)):
            message = message.replace(f"file:{text}/", "").replace(f"{text}/", "")
    return message


def _failures(folder: Path) -> dict[str, Any]:
    try:
        past = read_json(failure_file(folder))
        kept = {name: past[name] for name in ("status", "message", "attempts", "limits")}
        Status(kept["status"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or damaged
        return {"status": "", "message": "", "attempts": 0, "limits": None}
    return kept


def _success(song: Song, stage: str, entry: Artifact, attempts: int, earlier: dict[str, Any]) -> Outcome:
    record = {**earlier, **entry.record}
    return Outcome(song, stage, Status.OK, "", attempts, entry, record, entry.made)


def _failure(
    song: Song, stage: str, failed: dict[str, Any], earlier: dict[str, Any], *, did_work: bool
) -> Outcome:
    status, message, attempts = Status(failed["status"]), failed["message"], failed["attempts"]
    return Outcome(song, stage, status, message, attempts, None, earlier, did_work)
