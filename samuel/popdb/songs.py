"""Sources of songs (paper §III-C): each gives its songs in a fixed order and accounts for what it left out.

synthetic: songs made here, whose true stems are known
folder:    audio files of the user
csv:       a song list, whose titles are searched for; the paper's comes from Kaggle

A source is a function in `SOURCES` and a name in `SongsConfig.source`.
"""

import csv
import io
import logging
import os
import reprlib
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import pandas as pd

from samuel.artifacts import MANIFEST, digest, sha256
from samuel.config import SongsConfig
from samuel.errors import InputError, MissingPartError

Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Song:
    """One song of the list.

    Attributes:
        song_id: Stable name, twenty hexadecimal digits; the same song of the same list always has it.
        title: As the list writes it; hostile text.
        url: A file URL for songs on this machine (`synthetic`, `folder`); None: to be searched by title.
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
    """How many entries of the list a rule removed, and how many it left."""

    name: str
    removed: int
    left: int


@dataclass(frozen=True)
class SongList:
    """The songs in a fixed order, and the rules that chose them, in the order applied."""

    songs: list[Song]
    rules: list[Rule]

    def table(self) -> list[dict[str, str | int]]:
        """A row per rule, for people: rule, removed, left."""
        return [{"rule": rule.name, "removed": rule.removed, "left": rule.left} for rule in self.rules]


def list_songs(config: SongsConfig, data: Path, track: Track = iter) -> SongList:
    """List the songs that `config` asks for, in a fixed order, and what each rule removed.

    Args:
        config: Which source, where it lies, which songs of it.
        data: The data folder; `synthetic` writes its songs to `demo/` in it.
        track: Wraps the loop over the songs to be made or read, e.g. in a progress bar.

    Raises:
        InputError: The folder or the list cannot be used, or no song passes the filters.
        MissingPartError: The Kaggle list could not be fetched.
    """
    return SOURCES[config.source](config, data, track)


def _limit_rules(found: int, limit: int | None) -> list[Rule]:
    return [Rule(f"over the limit of {limit}", found - limit, limit)] if limit and found > limit else []


# --- synthetic ---

SYNTHETIC_SONGS = 12


def synthetic_songs(config: SongsConfig, data: Path, track: Track) -> SongList:
    """Write `config.limit` songs, or twelve, to `demo/` in the data folder `data`."""
    from samuel.synthetic.song import write_song  # two seconds of imports, for those who want these songs

    count = config.limit or SYNTHETIC_SONGS
    made = (write_song(config.seed, index, data / "demo") for index in track(range(count)))
    songs = [
        Song(
            song_id=digest("synthetic", artifact.folder.name),
            title=artifact.record["title"],
            url=artifact.path("mix.wav").resolve().as_uri(),
            duration_s=artifact.record["duration_s"],
        )
        for artifact in made
    ]
    return SongList(songs, [Rule("songs made here", 0, count)])


# --- folder ---

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".wma", ".webm", ".mp4",
)  # fmt: skip


def folder_songs(config: SongsConfig, data: Path, track: Track) -> SongList:
    """List the audio files below `config.path`, by relative path; `data` is this project's own folder.

    Raises:
        InputError: The folder holds no audio, or something in it cannot be read.
    """
    root = cast("Path", config.path).expanduser()  # SongsConfig demands one for this source
    if not root.is_dir():
        found = "is a file, not a folder" if root.exists() else "no such folder"
        raise InputError(f"songs.path {root}: {found}; give the folder that holds your audio files")
    files = sorted(_audio_files(root, data), key=lambda path: path.relative_to(root).as_posix())
    if not files:
        suffixes = ", ".join(AUDIO_SUFFIXES)
        raise InputError(f"songs.path {root}: no audio file in it; put some there ({suffixes})")
    songs = [_folder_song(path, root) for path in track(files[: config.limit])]
    rules = [Rule("audio files in the folder", 0, len(files)), *_limit_rules(len(files), config.limit)]
    return SongList(songs, rules)


def _audio_files(root: Path, data: Path) -> Iterator[Path]:
    inside, own = root.resolve(), data.resolve()
    for folder, subfolders, names in os.walk(root, onerror=_refuse_unreadable):
        if MANIFEST in names:  # an artifact: something this project made, not a song of the user's
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


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: {error.strerror}; make it readable, or move it away") from error


def _folder_song(path: Path, root: Path) -> Song:
    # A file name may hold bytes that are no UTF-8; JSON and Parquet take none of the stand-ins for them.
    name, title = (
        os.fsencode(text).decode("utf-8", "backslashreplace")
        for text in (path.relative_to(root).as_posix(), path.stem)
    )
    try:
        content = sha256(path)
    except OSError as error:
        _refuse_unreadable(error)
    return Song(song_id=digest("folder", name, content), title=title, url=path.resolve().as_uri())


# --- csv: a song list ---

NAME, POPULARITY, DURATION = COLUMNS = ("song_name", "song_popularity", "song_duration_ms")
SHARES = ("instrumentalness", "speechiness")  # read where their limit is set
SAME_RECORDING_MS = 3000.0
# What pandas makes of a list grows with its cells: the paper's has 1.7 MB and 280,000.
MOST_LIST_BYTES, MOST_CELLS, MOST_COLUMNS = 32 * 2**20, 4_000_000, 1000
MOST_TITLE, MOST_NUMBER = 1000, 1e9
# setting → the column it bounds, and what it removes, in words
FILTERS = {
    "min_popularity": ("popularity", "popularity under {:g}"),
    "min_duration_s": ("duration_s", "duration under {:g} s"),
    "max_duration_s": ("duration_s", "duration over {:g} s"),
    "max_instrumentalness": ("instrumentalness", "instrumentalness over {:g}"),
    "max_speechiness": ("speechiness", "speechiness over {:g}"),
}


def csv_songs(config: SongsConfig, _: Path, __: Track) -> SongList:
    """Choose the songs of the list at `config.path`, or of the paper's, that pass the filters.

    Raises:
        InputError: The list cannot be used, or no song passes.
        MissingPartError: The Kaggle list could not be fetched.
    """
    path = config.path.expanduser() if config.path else fetch_kaggle_list()
    bounds = {name: bound for name in FILTERS if (bound := getattr(config, name)) is not None}
    rows = read_song_list(path, [share for share in SHARES if f"max_{share}" in bounds])
    songs = merge_recordings(rows)
    rules = [Rule("rows of the list", 0, len(rows))]
    rules.append(Rule("same name, duration within 3 s", len(rows) - len(songs), len(songs)))
    for name, bound in bounds.items():
        column, words = FILTERS[name]
        kept = songs.query(f"{column} {'>=' if name.startswith('min_') else '<='} @bound")
        rules.append(Rule(words.format(bound), len(songs) - len(kept), len(kept)))
        songs = kept
    if songs.empty:
        table = "\n".join(f"  {rule.name}: {rule.removed} removed, {rule.left} left" for rule in rules)
        settings = ", ".join(f"songs.{name}" for name in bounds)
        raise InputError(f"song list {path}: no song is left; loosen {settings}\n{table}")
    if config.order == "popularity":
        songs = songs.sort_values("popularity", ascending=False, kind="stable")  # ties as listed
    rules += _limit_rules(len(songs), config.limit)
    chosen: Any = songs[: config.limit][["key", "title", "duration_s", "popularity"]]
    return SongList([_listed_song(*cells) for cells in chosen.itertuples(index=False)], rules)


def _listed_song(key: str, title: str, duration_s: float, popularity: float) -> Song:
    song_id = digest("csv", key, round(duration_s))
    return Song(song_id, title, duration_s=duration_s, popularity=int(popularity))


def read_song_list(path: Path, shares: Sequence[str] = ()) -> pd.DataFrame:
    """Read the rows of a song list, and type their cells.

    Args:
        path: A CSV file in UTF-8 whose header names `COLUMNS` and `shares`.
        shares: Columns of numbers in [0, 1].

    Returns:
        A row per row of the list, by its number in the file, where the header is row 1: title (normalised),
        key (the same for all spellings of a title), duration_ms, popularity, and the shares.

    Raises:
        InputError: There is no such file, it is no such list, or a cell is not what its column holds.
    """

    def refuse(row: Any, column: str, what: str) -> NoReturn:
        raise InputError(f"song list {path}, row {row}, {column}: {what}; mend or delete the row")

    def numbers(column: str, most: float = MOST_NUMBER) -> pd.Series:
        values = pd.Series(pd.to_numeric(cells[column], errors="coerce"), dtype=float)
        if (wrong := ~values.between(0, most)).any():  # what is no number is NaN, and in no interval
            cell = reprlib.repr(cells[column][wrong.idxmax()])
            refuse(wrong.idxmax(), column, f"{cell} is not a number from 0 to {most:,.0f}")
        return values

    cells = _read_cells(path, (*COLUMNS, *shares))
    typed = {"duration_ms": numbers(DURATION), "popularity": numbers(POPULARITY).round()}
    typed |= {share: numbers(share, most=1.0) for share in shares}
    if (wrong := cells[NAME].str.len() > MOST_TITLE).any():
        refuse(wrong.idxmax(), NAME, f"over {MOST_TITLE:,} characters")
    titles = cells[NAME].map(normalise_title)
    if (wrong := titles.str.len() == 0).any():
        refuse(wrong.idxmax(), NAME, "empty")
    keys = titles.map(lambda title: unicodedata.normalize("NFKC", title.casefold()))
    return pd.DataFrame({"title": titles, "key": keys, **typed})


def _read_cells(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """Read the columns `needed` as text, by row number."""
    content = _read_list(path)
    try:
        header = next(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")), [])
        if missing := [column for column in needed if column not in header]:
            found = ", ".join(map(reprlib.repr, header[:20])) or "nothing"
            raise InputError(
                f"song list {path}: no column {', '.join(missing)}; found: {found}. "
                f"The header must name {', '.join(needed)}"
            )
        if len(header) > MOST_COLUMNS:  # pandas would name each for minutes
            raise InputError(f"song list {path}: over {MOST_COLUMNS:,} columns; leave out those in excess")
        cells = pd.read_csv(
            io.BytesIO(content),
            encoding="utf-8-sig",
            dtype=str,
            keep_default_na=False,
            usecols=list(needed),
            index_col=False,
        )
    except UnicodeDecodeError as error:
        raise InputError(f"song list {path}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (csv.Error, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"song list {path}: not CSV ({reason}); save it as comma-separated text") from error
    if cells.empty:
        raise InputError(f"song list {path}: no song in it; it needs at least one row below the header")
    return cells.set_axis(cells.index + 2)


def _read_list(path: Path) -> bytes:
    if not path.is_file():
        found = "is a folder, not a file" if path.exists() else "no such file"
        raise InputError(f"songs.path {path}: {found}; give the song list, a CSV file")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_LIST_BYTES + 1)
    except OSError as error:
        raise InputError(f"song list {path}: {error.strerror}; make it readable") from error
    if len(content) > MOST_LIST_BYTES or sum(map(content.count, (b",", b"\n", b"\r"))) > MOST_CELLS:
        most = f"{MOST_LIST_BYTES / 2**20:.0f} MiB or {MOST_CELLS:,} cells"
        raise InputError(f"song list {path}: over {most}; give it in parts, or without the columns in excess")
    return content


def normalise_title(title: str) -> str:
    """Bring `title` to NFKC, without zero-width and other format characters, single spaces between words."""
    text = unicodedata.normalize("NFKC", title)
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def merge_recordings(rows: pd.DataFrame) -> pd.DataFrame:
    """Merge rows of the same recording, in the order in which the list first names each.

    Two rows are of one recording where they have one key and no gap over 3 s between the durations of
    neighbours. It has title and duration of the shortest row, and popularity and shares of the most popular.

    Args:
        rows: As `read_song_list` gives them.

    Returns:
        The same columns, and duration_s.
    """
    rows = rows.sort_values(["key", "duration_ms", "title"])
    is_first = rows["key"].ne(rows["key"].shift()) | rows["duration_ms"].diff().gt(SAME_RECORDING_MS)
    rows = rows.assign(recording=is_first.cumsum(), position=rows.index)
    merged = rows.groupby("recording").first()
    merged["position"] = rows.groupby("recording")["position"].min()
    best = rows.sort_values(["popularity", "position"], ascending=[False, True]).groupby("recording").first()
    features = best.columns.difference(["title", "key", "duration_ms", "position"])
    merged[features] = best[features]
    merged["duration_s"] = merged["duration_ms"] / 1000
    return merged.sort_values("position")


# --- the paper's list, from Kaggle ---

KAGGLE_DATASET, KAGGLE_FILE = "yasserh/song-popularity-dataset", "song_data.csv"
KAGGLE_REMEDY = (
    "put Kaggle credentials into ~/.kaggle/kaggle.json (or KAGGLE_USERNAME and KAGGLE_KEY), or download "
    f"the list from https://www.kaggle.com/datasets/{KAGGLE_DATASET} yourself and give songs.path"
)


def fetch_kaggle_list() -> Path:
    """Fetch the list into kagglehub's cache, unless the newest version is there; return its path.

    Raises:
        MissingPartError: It could not be fetched; says why, and what to do.
    """
    import kagglehub
    from kagglehub import clients, exceptions
    from kagglehub.config import get_kaggle_credentials
    from tqdm import tqdm

    # kagglehub writes its log to standard output, shows a bar and advertises its next version.
    log = logging.getLogger("kagglehub")
    log.handlers = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    log.propagate = True
    clients.tqdm = partial(tqdm, disable=True)  # type: ignore[misc]
    clients.already_printed_version_warning = True
    try:
        get_kaggle_credentials()
    except (OSError, ValueError) as error:
        raise MissingPartError(f"the Kaggle credentials cannot be read ({error}); {KAGGLE_REMEDY}") from error
    try:
        folder = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except (
        OSError, ValueError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
        exceptions.BackendError, exceptions.CredentialError, exceptions.DataCorruptionError,
    ) as error:  # fmt: skip
        # What a site says may repeat the key that it was sent: it stays out of message and traceback.
        status = getattr(getattr(error, "response", None), "status_code", None)
        refused = "refuses the credentials" if status in (401, 403) else "answers with an error"
        reason = f"Kaggle {refused} (HTTP {status})" if status else _local_reason(error)
        message = f"the Kaggle song list could not be fetched: {reason}; {KAGGLE_REMEDY}"
        raise MissingPartError(message) from (None if status else error)
    if not (path := folder / KAGGLE_FILE).is_file():
        raise MissingPartError(f"the Kaggle dataset holds no {KAGGLE_FILE} ({folder}); {KAGGLE_REMEDY}")
    return path


def _local_reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or "Kaggle cannot be reached, or the connection broke off"
    return f"kagglehub cannot use what it found ({type(error).__name__})"


SOURCES: dict[str, Callable[[SongsConfig, Path, Track], SongList]] = {
    "synthetic": synthetic_songs,
    "folder": folder_songs,
    "csv": csv_songs,
}
