"""The state of a song after a stage: a status, and an artifact on disk or the reason why there is none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, PositiveInt, ValidationError

from samuel.artifacts import (
    Artifact,
    Store,
    failure_file,
    locked,
    make_artifact,
    partial_folder,
    temporary_folder,
    write_json,
)
from samuel.errors import InputError, SongError
from samuel.popdb.songs import Song
from samuel.reading import read_bounded

LOCAL = Store(Path())  # the data folder alone


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
    """The state of one song after a stage."""

    song: Song
    stage: str  # tried last: search, match, download, separate or encode
    status: Status  # OK, or why the song goes no further
    message: str  # for people; empty when all is well
    attempts: int  # how often that stage was tried, over all runs
    artifact: Artifact | None  # the stage's files; None when it failed
    record: dict[str, Any]  # what the stages up to this one recorded
    did_work: bool  # this run did the work or met the failure; else it was known before
    sources: tuple[Artifact, ...] = ()  # the audio, then the stems; empty again once it is encoded

    @property
    def ok(self) -> bool:
        """True where the next stage can go on."""
        return self.artifact is not None


class Failure(BaseModel, frozen=True):
    """How making an artifact failed, over all runs; kept as JSON beside its folder."""

    status: Status
    message: str
    attempts: PositiveInt
    limits: Any  # what the status depends on in the settings

    @classmethod
    def read(cls, folder: Path) -> "Failure | None":
        """The last failure of the artifact at `folder`; None where there is none, or its file is damaged."""
        try:
            return cls.model_validate_json(read_bounded(failure_file(folder)))
        except (FileNotFoundError, ValidationError, InputError):
            return None


def attempt(
    song: Song,
    stage: str,
    folder: Path,
    make: Callable[[Path], dict[str, Any]] | None,
    earlier: dict[str, Any],
    *,
    limits: Mapping[Status, Any] = MappingProxyType({}),
    retry: Callable[[int], bool] = lambda _: True,
    store: Store = LOCAL,
) -> Outcome | None:
    """The artifact at `folder`, found or made, or the failure of making it.

    A failure is remembered. One that another try cannot mend is not tried again, unless what its status
    depends on (its `limits`) has changed. Who wants the same artifact at the same time waits for it. `make`
    returns the record, which is added to that of the `earlier` stages; without it the outcome is None where
    there is something to try. `retry` is given how often it has failed: is it tried now?
    """

    def known() -> Outcome | None:
        if artifact := store.find(folder):
            return _success(song, stage, artifact, earlier)
        past = Failure.read(folder)
        can_change = past is None or past.status.retryable or past.limits != limits.get(past.status)
        if past is None or (can_change and retry(past.attempts)):
            return None
        return Outcome(song, stage, past.status, past.message, past.attempts, None, earlier, did_work=False)

    if (outcome := known()) or make is None:
        return outcome
    with locked(failure_file(folder)):
        if outcome := known():  # by another, meanwhile
            return outcome
        try:
            artifact = make_artifact(folder, make)
            store.publish(folder)
        except SongError as error:
            status, failed = Status(error.status), attempts_failed(folder) + 1
            message, limit = _without_paths(str(error), folder, song), limits.get(status)
            failure = Failure(status=status, message=message, attempts=failed, limits=limit)
            write_json(failure_file(folder), failure.model_dump(mode="json"))
            store.publish_failure(folder)
            return Outcome(song, stage, status, message, failed, None, earlier, did_work=True)
        return _success(song, stage, artifact, earlier)


def attempts_failed(folder: Path) -> int:
    """How often making the artifact at `folder` has failed, over all runs, as far as this machine knows."""
    past = Failure.read(folder)
    return past.attempts if past else 0


def _success(song: Song, stage: str, artifact: Artifact, earlier: dict[str, Any]) -> Outcome:
    record, attempts = {**earlier, **artifact.record}, attempts_failed(artifact.folder) + 1
    return Outcome(song, stage, Status.OK, "", attempts, artifact, record, artifact.made)


def _without_paths(message: str, folder: Path, song: Song) -> str:
    """A message less the folders of this machine, for the dataset carries it to others."""
    places = [temporary_folder(folder), partial_folder(folder), folder, folder.parent]
    if song.url and song.url.startswith("file:"):
        own = Path(unquote(urlsplit(song.url).path))
        message = message.replace(song.url, own.name)
        places.append(own.parent)
    for text in (str(path) for place in places for path in (place.resolve(), place)):
        message = message.replace(f"file:{text}/", "").replace(f"{text}/", "")
    return message.encode("utf-8", "replace").decode()  # a site may say what no file can hold
