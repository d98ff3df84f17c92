"""The song list: where songs come from (paper §III-C)."""

import csv
import logging
import math
import os
import reprlib
import tarfile
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

from samuel.artifacts import MANIFEST, digest, sha256
from samuel.config import SongsConfig
from samuel.errors import InputError, MissingPartError

# A song of the list, and what was kept of the list.


Track = Callable[[Sequence[Any]], Iterable[Any]]


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


@dataclass(frozen=True)
class Rule:
    """How many entries of the list a rule took away, and how many it left."""

    name: str
    taken: int
    left: int


@dataclass(frozen=True)
class SongList:
    """The songs in a fixed order, and the rules that chose them, in the order applied."""

    songs: list[Song]
    rules: list[Rule]

    def table(self) -> list[dict[str, str | int]]:
        """A row per rule, for people: rule, taken, left."""
        return [{"rule": rule.name, "taken": rule.taken, "left": rule.left} for rule in self.rules]


def over_limit(found: int, limit: int | None) -> list[Rule]:
    """What a limit does to `found` songs: one rule, or none where it takes none."""
    if limit is None or found <= limit:
        return []
    return [Rule(f"over the limit of {limit}", found - limit, limit)]


def normalise_title(title: str) -> str:
    """`title` in NFKC, without zero-width and other format characters, single spaces between words."""
    text = unicodedata.normalize("NFKC", title)
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


# The rows of a song list, a CSV file: every cell is read as text, and typed here.


NAME, POPULARITY, DURATION = COLUMNS = ("song_name", "song_popularity", "song_duration_ms")


@dataclass(frozen=True)
class Row:
    """One row of the list.

    Attributes:
        key: The name without what tells two spellings of it apart.
        title: The name, normalised; hostile text.
        duration_ms: Duration.
        popularity: 0 to 100.
        position: Line of the file it ends on.
        shares: Those of the features in [0, 1] that were asked for, by column.
    """

    key: str
    title: str
    duration_ms: float
    popularity: int
    position: int
    shares: dict[str, float]


def read_rows(path: Path, shares: Sequence[str]) -> list[Row]:
    """The rows of the list at `path`, with the columns `shares` beside those every list must have.

    Raises:
        InputError: There is no such file, it is no CSV in UTF-8, or a cell is not what its column holds.
    """
    if not path.is_file():
        found = "is a folder, not a file" if path.exists() else "no such file"
        raise InputError(f"songs.path {path}: {found}; give the song list, a CSV file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            _check_columns(path, (*COLUMNS, *shares), reader.fieldnames or [])
            rows = [_row(path, reader.line_num, cells, shares) for cells in reader]
    except UnicodeDecodeError as error:
        raise InputError(f"song list {path}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"song list {path}: not CSV ({error}); save it as comma-separated text") from error
    except OSError as error:
        raise InputError(f"song list {path}: {error.strerror}; make it readable") from error
    if not rows:
        raise InputError(f"song list {path}: no song in it; it needs at least one row below the header")
    return rows


def _check_columns(path: Path, needed: Sequence[str], found: Sequence[str]) -> None:
    if missing := [column for column in needed if column not in found]:
        raise InputError(
            f"song list {path}: no column {', '.join(missing)}; "
            f"found: {', '.join(map(reprlib.repr, found)) or 'nothing'}. "
            f"The header must name {', '.join(needed)}"
        )


def _row(path: Path, line: int, cells: dict[str, str], shares: Sequence[str]) -> Row:
    def number(column: str, ceiling: float = math.inf) -> float:
        value = _number(cells[column], ceiling)
        if value is None:
            bounds = "from 0 up" if ceiling == math.inf else f"from 0 to {ceiling:g}"
            raise InputError(
                f"song list {path}, row {line}, {column}: {reprlib.repr(cells[column])} is not a number "
                f"{bounds}; mend or delete the row"
            )
        return value

    title = normalise_title(cells[NAME])
    if not title:
        raise InputError(f"song list {path}, row {line}, {NAME}: empty; mend or delete the row")
    return Row(
        key=unicodedata.normalize("NFKC", title.casefold()),
        title=title,
        duration_ms=number(DURATION),
        popularity=round(number(POPULARITY)),
        position=line,
        shares={column: number(column, ceiling=1.0) for column in shares},
    )


def _number(cell: str, ceiling: float) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= ceiling else None


# Rows of a song list that name the same recording, merged into one song.


SAME_RECORDING_MS = 3000.0


@dataclass(frozen=True)
class Recording:
    """A song, where the list first names it, and what the list says of it in numbers, by name."""

    song: Song
    position: int
    measures: dict[str, float]


def merge(rows: Iterable[Row]) -> list[Recording]:
    """The recordings that `rows` name, in the order of the list.

    Two rows are of one recording where they have one name and no gap over 3 s between the durations of
    neighbours.
    """
    return sorted(map(_recording, _same_recording(rows)), key=lambda recording: recording.position)


def _same_recording(rows: Iterable[Row]) -> Iterator[list[Row]]:
    # Each group comes in an order that does not depend on the order of the rows.
    names: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        names[row.key].append(row)
    for same_name in names.values():
        same_name.sort(key=lambda row: (row.duration_ms, row.title))
        start = 0
        for i in range(1, len(same_name) + 1):
            if i == len(same_name) or _gap(same_name[i - 1], same_name[i]) > SAME_RECORDING_MS:
                yield same_name[start:i]
                start = i


def _gap(shorter: Row, longer: Row) -> float:
    return longer.duration_ms - shorter.duration_ms


def _recording(rows: Sequence[Row]) -> Recording:
    shortest, best = rows[0], max(rows, key=lambda row: (row.popularity, -row.position))
    duration_s = shortest.duration_ms / 1000
    song = Song(
        song_id=digest("csv", shortest.key, round(duration_s)),
        title=shortest.title,
        duration_s=duration_s,
        popularity=best.popularity,
    )
    measures = {"popularity": best.popularity, "duration_s": duration_s, **best.shares}
    return Recording(song, min(row.position for row in rows), measures)


# The song list of the paper, fetched from Kaggle.


DATASET = "yasserh/song-popularity-dataset"
FILE = "song_data.csv"
REMEDY = (
    "put Kaggle credentials into ~/.kaggle/kaggle.json (or KAGGLE_USERNAME and KAGGLE_KEY), or download "
    f"the list from https://www.kaggle.com/datasets/{DATASET} yourself and give songs.path"
)
ARCHIVE_FAILURES = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


def fetch_list() -> Path:
    """The list in kagglehub's cache, fetched where Kaggle has a version that is not there yet.

    Raises:
        MissingPartError: It could not be fetched; says why, and what to do.
    """
    _quieten()
    _check_credentials()
    path = _fetch() / FILE
    if not path.is_file():
        raise MissingPartError(f"the Kaggle dataset holds no {FILE} ({path.parent}); {REMEDY}")
    return path


def _fetch() -> Path:
    import kagglehub
    from kagglehub import exceptions as kaggle

    try:
        return Path(kagglehub.dataset_download(DATASET))
    except (
        OSError, ValueError, *ARCHIVE_FAILURES,
        kaggle.BackendError, kaggle.CredentialError, kaggle.DataCorruptionError,
    ) as error:  # fmt: skip
        # What a site says may repeat the key that it was sent: it stays out of message and traceback.
        cause = None if _status(error) else error
        raise MissingPartError(
            f"the Kaggle song list could not be fetched: {_reason(error)}; {REMEDY}"
        ) from cause


def _quieten() -> None:
    # kagglehub writes its log to standard output, shows a bar and advertises its next version.
    from kagglehub import clients
    from tqdm import tqdm

    log = logging.getLogger("kagglehub")
    log.handlers = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    log.propagate = True
    clients.tqdm = partial(tqdm, disable=True)  # type: ignore[misc]
    clients.already_printed_version_warning = True


def _check_credentials() -> None:
    from kagglehub.config import get_kaggle_credentials

    try:
        get_kaggle_credentials()
    except (OSError, ValueError) as error:
        raise MissingPartError(f"the Kaggle credentials cannot be read ({error}); {REMEDY}") from error


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    status = _status(error)
    if status in (401, 403):
        return f"Kaggle refuses the credentials (HTTP {status})"
    if status:
        return f"Kaggle answers with an error (HTTP {status})"
    if isinstance(error, OSError):
        return error.strerror or "Kaggle cannot be reached, or the connection broke off"
    return f"kagglehub cannot use what it found ({type(error).__name__})"


# Which recordings of a song list are taken.


# setting → the measure it bounds, and what is taken away, in words
FILTERS = {
    "min_popularity": ("popularity", "popularity under {:g}"),
    "min_duration_s": ("duration_s", "duration under {:g} s"),
    "max_duration_s": ("duration_s", "duration over {:g} s"),
    "max_instrumentalness": ("instrumentalness", "instrumentalness over {:g}"),
    "max_speechiness": ("speechiness", "speechiness over {:g}"),
}
SHARES = ("instrumentalness", "speechiness")


def csv_songs(config: SongsConfig, path: Path) -> SongList:
    """The songs of the list at `path` that pass the filters, in the order wanted.

    Raises:
        InputError: The list cannot be used, or no song passes.
    """
    filters = [name for name in FILTERS if getattr(config, name) is not None]
    rows = read_rows(path, [share for share in SHARES if f"max_{share}" in filters])
    recordings = merge(rows)
    rules = [Rule("rows of the list", 0, len(rows))]
    rules.append(Rule("same name, duration within 3 s", len(rows) - len(recordings), len(recordings)))
    for name in filters:
        before, recordings = recordings, _passing(recordings, name, getattr(config, name))
        words = FILTERS[name][1].format(getattr(config, name))
        rules.append(Rule(words, len(before) - len(recordings), len(recordings)))
    if not recordings:
        raise InputError(_nothing_left(path, filters, rules))
    if config.order == "popularity":
        recordings.sort(key=lambda recording: -recording.measures["popularity"])  # stable: ties by position
    rules += over_limit(len(recordings), config.limit)
    return SongList([recording.song for recording in recordings[: config.limit]], rules)


def _passing(recordings: Sequence[Recording], name: str, bound: float) -> list[Recording]:
    measure = FILTERS[name][0]
    sign = 1 if name.startswith("min_") else -1
    return [recording for recording in recordings if sign * (recording.measures[measure] - bound) >= 0]


def _nothing_left(path: Path, filters: Sequence[str], rules: Sequence[Rule]) -> str:
    settings = ", ".join(f"songs.{name}" for name in filters)
    table = "\n".join(f"  {rule.name}: {rule.taken} taken, {rule.left} left" for rule in rules)
    return f"song list {path}: no song is left; loosen {settings}\n{table}"


# Audio files that the user owns.


AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".wma", ".webm", ".mp4",
)  # fmt: skip


def folder_songs(config: SongsConfig, data: Path, track: Track) -> SongList:
    """The audio files below `config.path`, by relative path; `data` is this project's own folder.

    Raises:
        InputError: The folder holds no audio, or something in it cannot be read.
    """
    root = cast("Path", config.path).expanduser()  # SongsConfig demands one for this source
    if not root.is_dir():
        found = "is a file, not a folder" if root.exists() else "no such folder"
        raise InputError(f"songs.path {root}: {found}; give the folder that holds your audio files")
    files = sorted(_audio_files(root, data), key=lambda path: path.relative_to(root).as_posix())
    if not files:
        raise InputError(
            f"songs.path {root}: no audio file in it; put some there ({', '.join(AUDIO_SUFFIXES)})"
        )
    songs = [_song(path, root) for path in track(files[: config.limit])]
    return SongList(
        songs, [Rule("audio files in the folder", 0, len(files)), *over_limit(len(files), config.limit)]
    )


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


def _song(path: Path, root: Path) -> Song:
    name = _text(path.relative_to(root).as_posix())
    try:
        content = sha256(path)
    except OSError as error:
        _unreadable(error)
    return Song(song_id=digest("folder", name, content), title=_text(path.stem), url=path.resolve().as_uri())


def _text(name: str) -> str:
    # A file name may hold bytes that are no UTF-8; JSON and Parquet take none of the stand-ins for them.
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# Songs made here, whose true stems are known.


SYNTHETIC_SONGS = 12


def synthetic_songs(config: SongsConfig, data: Path, track: Track) -> SongList:
    """Write `config.limit` songs, or twelve, to `demo/` in the data folder `data`."""
    count = config.limit or SYNTHETIC_SONGS
    songs = [_synthetic_song(config.seed, index, data / "demo") for index in track(range(count))]
    return SongList(songs, [Rule("songs made here", 0, count)])


def _synthetic_song(seed: int, index: int, folder: Path) -> Song:
    from samuel.synthetic.song import write_song  # two seconds of imports, for those who want these songs

    entry = write_song(seed, index, folder)
    return Song(
        song_id=digest("synthetic", entry.folder.name),
        title=entry.record["title"],
        url=entry.path("mix.wav").resolve().as_uri(),
        duration_s=entry.record["duration_s"],
    )


def list_songs(config: SongsConfig, data: Path, track: Track = iter) -> SongList:
    """The songs that `config` asks for, in a fixed order, and what each rule took away.

    Args:
        config: Which source, where it lies, which songs of it.
        data: The data folder; `synthetic` writes its songs to `demo/` in it.
        track: Wraps the loop over the songs to be made or read, e.g. in a progress bar.

    Raises:
        InputError: The folder or the list cannot be used, or no song passes the filters.
        MissingPartError: The Kaggle list could not be fetched.
    """
    if config.source == "synthetic":
        return synthetic_songs(config, data, track)
    if config.source == "folder":
        return folder_songs(config, data, track)
    return csv_songs(config, config.path.expanduser() if config.path else fetch_list())
