"""Who is compared on what: tracks, each a vocal, and systems, each with an accompaniment for every track.

A system is a folder; a file belongs to the track of its own name, whatever its suffix says about the format.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from samuel.errors import InputError

REAL = "real"
CEILING = "real (through the codec)"
OURS = "SAMUeL"
ABOUT = "system.json"
VOCALS = "the vocals"
RESERVED = (REAL, CEILING, VOCALS, "vocal", "mix")
NOT_SCORED = "not scored"
LONGEST_NAME = 60
LARGEST_RECORD = 2**24
"""Bytes of `system.json` that are read: some 50,000 tracks."""

Words = Annotated[str, Field(max_length=200)]
Seconds = Annotated[float, Field(ge=1e-6, le=1e7)]
Count = Annotated[int, Field(gt=0, lt=2**63)]


class RenderedTrack(BaseModel):
    """Duration of a track, and of making it."""

    model_config = ConfigDict(frozen=True, strict=True)

    seconds: Seconds
    duration_s: Annotated[float, Field(ge=1e-3, le=1e6)]


class SystemRecord(BaseModel):
    """`system.json`: what the maker of a folder states of its cost; anybody may have written it."""

    model_config = ConfigDict(frozen=True, strict=True)

    parameters: Count | None = None
    conditioning: Words | None = None
    device: Words | None = None
    machine: Words | None = None
    memory: Words | None = None
    peak_memory_bytes: Count | None = None
    tracks: dict[str, RenderedTrack] = {}


@dataclass(frozen=True)
class Track:
    """A vocal that is accompanied."""

    name: str  # that of its accompaniments
    title: str  # for people; anybody's text
    vocal: Path


@dataclass(frozen=True)
class System:
    """Somebody's accompaniments."""

    name: str
    files: dict[str, Path]  # by track; some may be missing
    record: SystemRecord | None = None  # what its maker states of it


@dataclass(frozen=True)
class Problem:
    """A remark on a track, or on a whole system where `track` is empty."""

    system: str
    track: str
    message: str


@dataclass(frozen=True)
class Lineup:
    """Everything that is compared, and what was found wrong with it so far."""

    tracks: tuple[Track, ...]  # in the order of their names
    systems: tuple[System, ...]  # the true accompaniments first, where they are known
    problems: tuple[Problem, ...] = ()

    def system(self, name: str) -> System | None:
        """The system of that name."""
        return next((system for system in self.systems if system.name == name), None)

    def reference(self) -> System | None:
        """The true accompaniments: as recorded, or through the codec where no recordings are known."""
        return self.system(REAL) or self.system(CEILING)

    def with_ceiling(self, ceiling: System, problems: Sequence[Problem] = ()) -> "Lineup":
        """With a system that comes right after the true accompaniments."""
        first = [system for system in self.systems if system.name == REAL]
        rest = [system for system in self.systems if system.name != REAL]
        return replace(self, systems=(*first, ceiling, *rest), problems=(*self.problems, *problems))


def folders(vocals: Path, systems: Mapping[str, Path], references: Path | None = None) -> Lineup:
    """Match what folders of vocals, of each system and of the true accompaniments hold, by file name.

    Missing, surplus and doubtful files become problems, and the rest is compared.

    Raises:
        InputError: A folder is not there, no vocal is in the first, or a name is reserved.
    """
    _check_names(systems)
    problems: list[Problem] = []
    found = _audio_files(vocals, VOCALS, problems)
    if not found:
        raise InputError(f"{vocals}: holds no vocals; put an audio file there for each track")
    named = {**({} if references is None else {REAL: references}), **systems}
    return Lineup(
        tuple(Track(name, name, path) for name, path in found.items()),
        tuple(_system(name, folder, found, problems) for name, folder in named.items()),
        tuple(problems),
    )


def read_record(folder: Path) -> SystemRecord | None:
    """Read `system.json` of a system; None without one.

    Raises:
        InputError: It is not what a system states of itself.
    """
    path = folder / ABOUT
    try:
        with path.open("rb") as opened:
            content = opened.read(LARGEST_RECORD + 1)
        if len(content) > LARGEST_RECORD:
            raise InputError(f"{ABOUT} is larger than {LARGEST_RECORD >> 20} MiB")
        return SystemRecord.model_validate_json(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{ABOUT} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{ABOUT}: {where or 'not its format'}: {first['msg']}") from error


def _check_names(systems: Mapping[str, Path]) -> None:
    """Refuse names that a reader could take for another's."""
    if not systems:
        raise InputError("no system is given: name at least one folder of accompaniments")
    seen = {_as_read(name): "it stands for the true accompaniments or the vocals" for name in RESERVED}
    for name in systems:
        if not name.isprintable() or not name.strip() or len(name) > LONGEST_NAME or not _is_text(name):
            raise InputError(
                f"{name!a:.100} cannot be a system's name: give at most {LONGEST_NAME} printable characters"
            )
        if reason := seen.get(_as_read(name)):
            raise InputError(f"{name!r} cannot be a system's name: {reason}")
        seen[_as_read(name)] = "it reads like another one"


def _as_read(name: str) -> str:
    """Without case, spaces and look-alike forms."""
    return "".join(unicodedata.normalize("NFKC", name).split()).casefold()


def _is_text(name: str) -> bool:
    """True where it can be written as UTF-8; a file name may be any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _system(name: str, folder: Path, vocals: Mapping[str, Path], problems: list[Problem]) -> System:
    found = _audio_files(folder, name, problems)
    doubtful = {problem.track for problem in problems if problem.system == name}
    missing = [track for track in vocals if track not in found and track not in doubtful]
    surplus = [track for track in found if track not in vocals]
    problems += [Problem(name, track, f"no file of this name: {NOT_SCORED}") for track in missing]
    problems += [Problem(name, track, f"no vocal of this name: {NOT_SCORED}") for track in surplus]
    try:
        record = read_record(folder)
    except InputError as error:
        record = None
        problems.append(Problem(name, "", f"{error}: its figures are left out"))
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
        faults = list(_faults(path))
        if not faults:
            by_name.setdefault(path.stem, []).append(path)
        shown = path.stem.encode(errors="replace").decode()
        problems += [Problem(whose, shown, f"{fault}: {NOT_SCORED}") for fault in faults[:1]]
    for name, paths in by_name.items():
        if len(paths) > 1:
            listed = ", ".join(path.name for path in paths)
            problems.append(Problem(whose, name, f"{listed}: which one is meant? {NOT_SCORED}"))
    return {name: paths[0] for name, paths in by_name.items() if len(paths) == 1}


def _faults(path: Path) -> Iterator[str]:
    """Reasons why something in a folder is no file that could be scored."""
    if not _is_text(path.name):
        yield "its name is not UTF-8; rename it"
    if path.is_symlink() and not path.exists():
        yield "a link to nothing"
    if not path.is_file():
        yield "not a file"
