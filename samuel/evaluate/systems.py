"""Who is compared on what: tracks, each a vocal, and systems, each with an accompaniment for every track.

A system is a folder; a file belongs to the track of its own name, whatever its suffix says about the format.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from samuel.errors import InputError

REAL = "real"
CEILING = "real (through the codec)"
OURS = "SAMUeL"
ABOUT = "system.json"
VOCALS = "the vocals"
RESERVED = (REAL, CEILING, VOCALS, "vocal", "mix")
NOT_SCORED = "not scored"
LONGEST_NAME = 60


@dataclass(frozen=True)
class Track:
    """A vocal that is accompanied.

    Attributes:
        name: What its accompaniments are called.
        title: For people; anybody's text.
        vocal: An audio file.
    """

    name: str
    title: str
    vocal: Path


@dataclass(frozen=True)
class System:
    """Somebody's accompaniments.

    Attributes:
        name: What the report calls it.
        files: An audio file by track; some may be missing.
        about: What its maker recorded, `system.json`; empty without one.
    """

    name: str
    files: dict[str, Path]
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What a reader must know of a track, or of a whole system where `track` is empty."""

    system: str
    track: str
    message: str


@dataclass(frozen=True)
class Lineup:
    """Everything that is compared.

    Attributes:
        tracks: In the order of their names.
        systems: The true accompaniments first, where they are known.
        problems: What was found wrong so far.
    """

    tracks: tuple[Track, ...]
    systems: tuple[System, ...]
    problems: tuple[Problem, ...] = ()

    def system(self, name: str) -> System | None:
        """The system of that name."""
        return next((system for system in self.systems if system.name == name), None)

    def with_ceiling(self, ceiling: System, problems: Sequence[Problem] = ()) -> "Lineup":
        """With a system that comes right after the true accompaniments."""
        first = [system for system in self.systems if system.name == REAL]
        rest = [system for system in self.systems if system.name != REAL]
        return replace(self, systems=(*first, ceiling, *rest), problems=(*self.problems, *problems))


def folders(vocals: Path, systems: Mapping[str, Path], references: Path | None = None) -> Lineup:
    """What folders hold, matched by file name.

    Missing, surplus and doubtful files become problems, and the rest is compared.

    Args:
        vocals: A folder of vocals: the tracks.
        systems: Folder of each system by its name.
        references: A folder of the true accompaniments.

    Raises:
        InputError: A folder is not there, no vocal is in the first, or a name is reserved.
    """
    problems: list[Problem] = []
    found = _audio_files(vocals, VOCALS, problems)
    if not found:
        raise InputError(f"{vocals}: holds no vocals; put an audio file there for each track")
    tracks = tuple(Track(name, name, path) for name, path in found.items())
    named = {**({} if references is None else {REAL: references}), **_checked(systems)}
    return Lineup(
        tracks,
        tuple(_system(name, folder, found, problems) for name, folder in named.items()),
        tuple(problems),
    )


def about(folder: Path) -> tuple[dict[str, Any], str | None]:
    """What `system.json` says of a system, nothing without one, and what is wrong with it."""
    try:
        record = json.loads((folder / ABOUT).read_text("utf-8"))
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{ABOUT} cannot be read ({error}): its figures are left out"
    if not isinstance(record, dict):
        return {}, f"{ABOUT} is not an object: its figures are left out"
    return record, None


def _checked(systems: Mapping[str, Path]) -> Mapping[str, Path]:
    """Refuse names that a reader could take for another's."""
    if not systems:
        raise InputError("no system is given: name at least one folder of accompaniments")
    seen = {_seen_as(name): "it stands for the true accompaniments or the vocals" for name in RESERVED}
    for name in systems:
        if not name.isprintable() or not name.strip() or len(name) > LONGEST_NAME or not _writable(name):
            raise InputError(
                f"{name!a:.100} cannot be a system's name: give at most {LONGEST_NAME} printable characters"
            )
        if reason := seen.get(_seen_as(name)):
            raise InputError(f"{name!r} cannot be a system's name: {reason}")
        seen[_seen_as(name)] = "it reads like another one"
    return systems


def _seen_as(name: str) -> str:
    """What a reader sees: without case, spaces and look-alike forms."""
    return "".join(unicodedata.normalize("NFKC", name).split()).casefold()


def _writable(name: str) -> bool:
    """Whether it is text; a file name may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _system(name: str, folder: Path, vocals: Mapping[str, Path], problems: list[Problem]) -> System:
    found = _audio_files(folder, name, problems)
    doubtful = {problem.track for problem in problems if problem.system == name}
    record, fault = about(folder)
    surplus = [track for track in found if track not in vocals]
    missing = [track for track in vocals if track not in found and track not in doubtful]
    problems += [
        *(Problem(name, track, f"no file of this name: {NOT_SCORED}") for track in missing),
        *(Problem(name, track, f"no vocal of this name: {NOT_SCORED}") for track in surplus),
        *([Problem(name, "", fault)] if fault else []),
    ]
    return System(name, {track: path for track, path in found.items() if track in vocals}, record)


def _audio_files(folder: Path, whose: str, problems: list[Problem]) -> dict[str, Path]:
    """Files of a folder by name without suffix, in order; hidden ones and folders are none."""
    if not folder.is_dir():
        wrong = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {wrong} ({whose})")
    by_name: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == ABOUT:
            continue
        if reason := _unusable(path):
            shown = path.stem.encode(errors="replace").decode()
            problems.append(Problem(whose, shown, f"{reason}: {NOT_SCORED}"))
        else:
            by_name.setdefault(path.stem, []).append(path)
    for name, paths in by_name.items():
        if len(paths) > 1:
            listed = ", ".join(path.name for path in paths)
            problems.append(Problem(whose, name, f"{listed}: which one is meant? {NOT_SCORED}"))
    return {name: paths[0] for name, paths in by_name.items() if len(paths) == 1}


def _unusable(path: Path) -> str | None:
    """Why something in a folder is no file that could be scored."""
    if not _writable(path.name):
        return "its name is not UTF-8; rename it"
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    return None if path.is_file() else "not a file"
