"""What a stage made of a song: an entry on disk, or the reason why there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from samuel.errors import SongError
from samuel.files import (
    Entry,
    find_entry,
    make_entry,
    partial_folder,
    read_json,
    temporary_folder,
    write_json,
)
from samuel.popdb.catalog import Song
from samuel.popdb.status import Status


@dataclass(frozen=True)
class Outcome:
    """The state of one song after a stage.

    Attributes:
        song: The song.
        stage: The stage that was tried last: search, match, download, separate or encode.
        status: `Status.OK`, or why the song goes no further.
        message: For people; empty when all is well.
        attempts: How often that stage was tried, over all runs.
        entry: The stage's files; None when it failed.
        record: What the stages up to this one recorded.
        worked: True when this run did the work or met the failure, False when it was known before.
    """

    song: Song
    stage: str
    status: Status
    message: str
    attempts: int
    entry: Entry | None
    record: dict[str, Any]
    worked: bool

    @property
    def ok(self) -> bool:
        """True where the next stage can go on."""
        return self.entry is not None


def attempt(
    song: Song,
    stage: str,
    folder: Path,
    make: Callable[[Path], dict[str, Any]],
    earlier: dict[str, Any],
    *,
    limits: Any = None,
) -> Outcome:
    """The entry at `folder`, found or made, or the failure of making it.

    A failure is remembered beside the folder. One that another try cannot mend is not tried again, unless
    `limits` (anything JSON can write), under which it failed, are others now; any other is, with its
    attempts counted.
    """
    past = _failures(folder)
    if entry := find_entry(folder):
        return _success(song, stage, entry, past["attempts"] + 1, earlier)
    final = past["status"] and not Status(past["status"]).retryable
    if final and past.get("limits") == limits:
        return _failure(song, stage, past, earlier, worked=False)
    try:
        entry = make_entry(folder, make)
    except SongError as error:
        message = without_paths(str(error), folder, song)
        failed = {"status": error.status, "message": message, "attempts": past["attempts"] + 1}
        failed["limits"] = limits
        write_json(_failure_path(folder), failed)
        return _failure(song, stage, failed, earlier, worked=True)
    return _success(song, stage, entry, past["attempts"] + 1, earlier)


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


def failed_before(folder: Path) -> bool:
    """True where making the entry at `folder` has failed, in whatever run."""
    return _failure_path(folder).exists()


def _failure_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.failed.json")


def _failures(folder: Path) -> dict[str, Any]:
    path = _failure_path(folder)
    return read_json(path) if path.exists() else {"status": "", "message": "", "attempts": 0}


def _success(song: Song, stage: str, entry: Entry, attempts: int, earlier: dict[str, Any]) -> Outcome:
    record = {**earlier, **entry.record}
    return Outcome(song, stage, Status.OK, "", attempts, entry, record, entry.made)


def _failure(
    song: Song, stage: str, failed: dict[str, Any], earlier: dict[str, Any], *, worked: bool
) -> Outcome:
    status, message, attempts = Status(failed["status"]), failed["message"], failed["attempts"]
    return Outcome(song, stage, status, message, attempts, None, earlier, worked)
