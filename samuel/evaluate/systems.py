"""Who is compared on what: tracks, each a vocal, and systems, each with an accompaniment for every track.

A system is a folder; a file belongs to the track of its own name, whatever its suffix says about the format.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from samuel.errors import InputError, first_fault
from samuel.reading import read_bounded

REAL = "real"
CEILING = "real (through the codec)"
OURS = "SAMUeL"
ABOUT = "system.json"
VOCALS = "the vocals"
RESERVED = (REAL, CEILING, VOCALS, "vocal", "mix")
NOT_SCORED = "not scored"
LONGEST_NAME = 60
MOST_BYTES = 2**31  # of a file, which is digested whole: three hours of a CD are less

Words = Annotated[str, Field(max_length=500)]
Seconds = Annotated[float, Field(ge=1e-6, le=1e7)]
Count = Annotated[int, Field(gt=0, lt=2**63)]


class RenderedTrack(BaseModel):
    """How an accompaniment was made. `seconds` are of rendering alone; the first may load libraries."""

    model_config = ConfigDict(frozen=True, strict=True)

    file: str | None = None
    sha256: str | None = None
    vocal_sha256: str | None = None
    seed: int | None = None
    seconds: Seconds
    warm_up: bool | None = None
    duration_s: Seconds
    cut_s: float | None = None
    padded_s: float | None = None
    overshoot_db: float | None = None


class SystemRecord(BaseModel):
    """`system.json`: how the tracks of a folder were made, at what cost; anybody may have written it."""

    model_config = ConfigDict(frozen=True, strict=True)

    system: Words | None = None
    model: Words | None = None
    parameters: Count | None = None
    conditioning: Words | None = None
    settings: dict[str, Any] = {}
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


def folders(vocals: Path, systems: Mapping[str, Path], references: Path | None = None) -> Lineup:
    """Match what folders of vocals, of each system and of the true accompaniments hold, by file name.

    Missing, surplus and doubtful files become problems. InputError for absent folders and reserved names.
    """

    def listed(folder: Path, whose: str) -> tuple[dict[str, Path], list[Problem]]:
        files, faults = files_by_name(folder, whose, lambda path: path.name != ABOUT)
        return files, [Problem(whose, name, f"{fault}: {NOT_SCORED}") for name, _, fault in faults]

    _check_names(systems)
    tracks, problems = listed(vocals, VOCALS)
    if not tracks:
        raise InputError(f"{vocals}: holds no vocals; put an audio file there for each track")
    compared = []
    for name, folder in {**({} if references is None else {REAL: references}), **systems}.items():
        files, faults = listed(folder, name)
        absent = [track for track in tracks if track not in files.keys() | {fault.track for fault in faults}]
        faults += [Problem(name, track, f"no file of this name: {NOT_SCORED}") for track in absent]
        surplus = [track for track in files if track not in tracks]
        faults += [Problem(name, track, f"no vocal of this name: {NOT_SCORED}") for track in surplus]
        record = None
        try:
            record = read_record(folder)
        except InputError as error:
            faults.append(Problem(name, "", f"{error}: its figures are left out"))
        compared.append(System(name, {track: files[track] for track in files if track in tracks}, record))
        problems += faults
    named = tuple(Track(name, name, path) for name, path in tracks.items())
    return Lineup(named, tuple(compared), tuple(problems))


def read_record(folder: Path) -> SystemRecord | None:
    """Read `system.json` of a system; None without one, InputError where it is something else."""
    try:
        return SystemRecord.model_validate_json(read_bounded(folder / ABOUT))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{ABOUT}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise InputError(f"{ABOUT}: {first_fault(error).removeprefix(': ')}") from error


def _check_names(systems: Mapping[str, Path]) -> None:
    """Refuse names that a reader could take for another's, but for case, spaces and look-alike forms."""
    if not systems:
        raise InputError("no system is given: name at least one folder of accompaniments")
    seen = {"".join(name.split()).casefold(): "it stands for others" for name in RESERVED}
    for name in systems:
        as_read = "".join(unicodedata.normalize("NFKC", name).split()).casefold()
        if not name.isprintable() or not as_read or len(name) > LONGEST_NAME:  # as is no surrogate
            wanted = f"give at most {LONGEST_NAME} printable characters"
            raise InputError(f"{name!a:.100} cannot be a system's name: {wanted}")
        if reason := seen.get(as_read):
            raise InputError(f"{name!r} cannot be a system's name: {reason}")
        seen[as_read] = "it reads like another one"


def files_by_name(
    folder: Path, whose: str, wanted: Callable[[Path], bool]
) -> tuple[dict[str, Path], list[tuple[str, Path, str]]]:
    """Wanted files of a folder, no hidden ones, by name without suffix; (name, path, fault) of doubtful ones.

    InputError where there is no such folder.
    """
    if not folder.is_dir():
        wrong = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {wrong} ({whose})")
    by_name, faults = dict[str, list[Path]](), list[tuple[str, Path, str]]()
    for path in sorted(path for path in folder.iterdir() if path.name[0] != "." and wanted(path)):
        if path.name.encode(errors="replace").decode() != path.name:
            shown = path.stem.encode(errors="replace").decode()
            faults.append((shown, path, "its name is not UTF-8; rename it"))
        elif not path.is_file():
            broken = path.is_symlink() and not path.exists()
            faults.append((path.stem, path, "a link to nothing" if broken else "not a file"))
        elif path.stat().st_size > MOST_BYTES:
            faults.append((path.stem, path, "larger than 2 GiB; give a part of it"))
        else:
            by_name.setdefault(path.stem, []).append(path)
    doubtful = {name: paths for name, paths in by_name.items() if len(paths) > 1}
    for name, paths in doubtful.items():
        faults.append((name, paths[0], f"{', '.join(path.name for path in paths)}: several of one name"))
    return {name: paths[0] for name, paths in by_name.items() if name not in doubtful}, faults
