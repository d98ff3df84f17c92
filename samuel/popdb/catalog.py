"""The song list: where songs come from (paper §III-C)."""

import csv
import math
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from samuel.config import SongsConfig
from samuel.demo import write_song
from samuel.errors import InputError, MissingPartError
from samuel.files import MANIFEST, digest, sha256

Track = Callable[[Sequence[Any]], Iterable[Any]]

SYNTHETIC_SONGS = 12
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".wma", ".webm", ".mp4",
)  # fmt: skip
KAGGLE_DATASET = "yasserh/song-popularity-dataset"
KAGGLE_FILE = "song_data.csv"
NAME, POPULARITY, DURATION = COLUMNS = ("song_name", "song_popularity", "song_duration_ms")
SAME_RECORDING_MS = 3000.0


@dataclass(frozen=True)
class Song:
    """One song of the list.

    Attributes:
        song_id: Stable name, twenty hexadecimal digits; the same song of the same list always has it.
        title: As the list writes it; hostile text.
        url: A file URL for songs that are at hand (`synthetic`, `folder`); None: to be searched by title.
        duration_s: Duration the list states, None where it states none.
        popularity: Popularity the list states, None where it states none.
    """

    song_id: str
    title: str
    url: str | None = None
    duration_s: float | None = None
    popularity: int | None = None


def list_songs(config: SongsConfig, data: Path, track: Track = iter) -> list[Song]:
    """The songs that `config` asks for, in a fixed order.

    Args:
        config: Which source, where it lies, how many songs.
        data: The data folder; `synthetic` writes its songs to `demo/` in it.
        track: Wraps the loop over the songs to be made or read, e.g. in a progress bar.

    Raises:
        InputError: The folder or the list cannot be used.
        MissingPartError: The Kaggle list could not be fetched.
    """
    if config.source == "synthetic":
        return _synthetic_songs(config, data, track)
    if config.source == "folder":
        return _folder_songs(config, data, track)
    return _csv_songs(config)


def normalise_title(title: str) -> str:
    """`title` in NFKC, without zero-width and other format characters, single spaces between words."""
    text = unicodedata.normalize("NFKC", title)
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


# --- synthetic ---


def _synthetic_songs(config: SongsConfig, data: Path, track: Track) -> list[Song]:
    songs: list[Song] = []
    for index in track(range(config.limit or SYNTHETIC_SONGS)):
        entry = write_song(config.seed, index, data / "demo")
        songs.append(
            Song(
                song_id=digest("synthetic", entry.folder.name),
                title=entry.record["title"],
                url=entry.path("mix.wav").resolve().as_uri(),
                duration_s=entry.record["duration_s"],
            )
        )
    return songs


# --- folder ---


def _folder_songs(config: SongsConfig, data: Path, track: Track) -> list[Song]:
    root = cast("Path", config.path).expanduser()  # SongsConfig demands one for this source
    if not root.is_dir():
        found = "is a file, not a folder" if root.exists() else "no such folder"
        raise InputError(f"songs.path {root}: {found}; give the folder that holds your audio files")
    files = sorted(_audio_files(root, data), key=lambda path: path.relative_to(root).as_posix())
    if not files:
        raise InputError(
            f"songs.path {root}: no audio file in it; put some there ({', '.join(AUDIO_SUFFIXES)})"
        )
    return [_folder_song(path, root) for path in track(files[: config.limit])]


def _audio_files(root: Path, data: Path) -> Iterator[Path]:
    inside, own = root.resolve(), data.resolve()
    for folder, subfolders, names in os.walk(root, onerror=_unreadable):
        if MANIFEST in names:  # an entry: something this project made, not a song of the user's
            continue
        # A data folder below the songs holds copies of them: a second run would take those for songs.
        subfolders[:] = [
            name for name in subfolders if name[0] != "." and Path(folder, name).resolve() != own
        ]
        for name in names:
            path = Path(folder, name)
            if name[0] == "." or path.suffix.lower() not in AUDIO_SUFFIXES:
                continue
            if path.is_file() and path.resolve().is_relative_to(inside):
                yield path


def _unreadable(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: {error.strerror}; make it readable, or move it away") from error


def _folder_song(path: Path, root: Path) -> Song:
    name = _text(path.relative_to(root).as_posix())
    try:
        content = sha256(path)
    except OSError as error:
        _unreadable(error)
    return Song(song_id=digest("folder", name, content), title=_text(path.stem), url=path.resolve().as_uri())


def _text(name: str) -> str:
    # A file name may hold bytes that are no UTF-8; JSON and Parquet take none of the stand-ins for them.
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- csv ---


@dataclass(frozen=True)
class _Row:
    key: str
    title: str
    duration_ms: float
    popularity: int
    position: int


def _csv_songs(config: SongsConfig) -> list[Song]:
    path = config.path.expanduser() if config.path else _fetch_kaggle_list()
    recordings = sorted(_recordings(_read_rows(path)), key=lambda rows: min(row.position for row in rows))
    return [_csv_song(rows) for rows in recordings[: config.limit]]


def _fetch_kaggle_list() -> Path:
    import kagglehub
    from kagglehub import exceptions as kaggle

    failures = (
        OSError, ValueError, kaggle.BackendError, kaggle.CredentialError, kaggle.DataCorruptionError,
        kaggle.KaggleEnvironmentError, kaggle.NotFoundError, kaggle.UnauthenticatedError,
    )  # fmt: skip
    remedy = (
        "put Kaggle credentials into ~/.kaggle/kaggle.json (or KAGGLE_USERNAME and KAGGLE_KEY), or download "
        f"the list from https://www.kaggle.com/datasets/{KAGGLE_DATASET} yourself and give songs.path"
    )
    try:
        path = Path(kagglehub.dataset_download(KAGGLE_DATASET)) / KAGGLE_FILE
    except failures as error:
        raise MissingPartError(f"the Kaggle song list could not be fetched ({error}); {remedy}") from error
    if not path.is_file():
        raise MissingPartError(f"the Kaggle dataset holds no {KAGGLE_FILE} ({path.parent}); {remedy}")
    return path


def _read_rows(path: Path) -> list[_Row]:
    if not path.is_file():
        found = "is a folder, not a file" if path.exists() else "no such file"
        raise InputError(f"songs.path {path}: {found}; give the song list, a CSV file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            _check_columns(path, reader.fieldnames or [])
            rows = [_row(path, reader.line_num, cells) for cells in reader]
    except UnicodeDecodeError as error:
        raise InputError(f"song list {path}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"song list {path}: not CSV ({error}); save it as comma-separated text") from error
    if not rows:
        raise InputError(f"song list {path}: no song in it; it needs at least one row below the header")
    return rows


def _check_columns(path: Path, found: Sequence[str]) -> None:
    if missing := [column for column in COLUMNS if column not in found]:
        raise InputError(
            f"song list {path}: no column {', '.join(missing)}; found: {', '.join(found) or 'nothing'}. "
            f"The header must name {', '.join(COLUMNS)}"
        )


def _row(path: Path, line: int, cells: dict[str, str]) -> _Row:
    def number(column: str) -> float:
        try:
            value = float(cells[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise InputError(
                f"song list {path}, row {line}, {column}: {cells[column]!r} is not a number from 0 up; "
                "mend or delete the row"
            )
        return value

    title = normalise_title(cells[NAME])
    if not title:
        raise InputError(f"song list {path}, row {line}, {NAME}: empty; mend or delete the row")
    key = unicodedata.normalize("NFKC", title.casefold())
    return _Row(key, title, number(DURATION), round(number(POPULARITY)), line)


def _recordings(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """Rows of the same recording: one name, and no gap over 3 s between neighbouring durations.

    Each group is in an order that does not depend on the order of the rows.
    """
    names: defaultdict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        names[row.key].append(row)
    for same_name in names.values():
        same_name.sort(key=lambda row: (row.duration_ms, row.title))
        start = 0
        for i in range(1, len(same_name) + 1):
            if i == len(same_name) or _gap(same_name[i - 1], same_name[i]) > SAME_RECORDING_MS:
                yield same_name[start:i]
                start = i


def _gap(shorter: _Row, longer: _Row) -> float:
    return longer.duration_ms - shorter.duration_ms


def _csv_song(rows: Sequence[_Row]) -> Song:
    first = rows[0]
    duration_s = first.duration_ms / 1000
    return Song(
        song_id=digest("csv", first.key, round(duration_s)),
        title=first.title,
        duration_s=duration_s,
        popularity=max(row.popularity for row in rows),
    )
