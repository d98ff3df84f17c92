"""Sources of songs (paper §III-C): each gives its songs in a fixed order and accounts for what it left out.

A source is a function in `SOURCES` and a name in `SongsConfig.source`: made here (synthetic), audio files of
the user (folder), or a song list, whose titles are searched for (csv; the paper's comes from Kaggle).
"""

import io
import logging
import os
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import pandas as pd

from samuel.artifacts import MANIFEST, digest, sha256
from samuel.config import SongsConfig, without_secrets
from samuel.errors import InputError, MissingPartError
from samuel.reading import read_bounded

Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Song:
    """One song of the list; the same song of the same list always has the same id."""

    song_id: str  # twenty hexadecimal digits
    title: str  # as the list writes it; hostile text
    url: str | None = None  # a file URL for songs on this machine; None: to be searched by title
    duration_s: float | None = None  # as the list states it
    popularity: int | None = None


@dataclass(frozen=True)
class SongList:
    """The songs in a fixed order, and a row per rule that chose them: how many it removed, and left."""

    songs: list[Song]
    rules: list[dict[str, str | int]]


def rule(name: str, removed: int, left: int) -> dict[str, str | int]:
    """A row of the table of rules."""
    return {"rule": name, "removed": removed, "left": left}


def list_songs(config: SongsConfig, data: Path, track: Track = iter) -> SongList:
    """The songs that `config` asks for, in a fixed order, and what each rule removed; or an InputError.

    Synthetic songs are written to `demo/` of the data folder; `track` wraps the loop over songs, as a bar
    does.
    """
    return SOURCES[config.source](config, data, track)


def synthetic_songs(config: SongsConfig, data: Path, track: Track) -> SongList:
    """Write `config.limit` songs, or twelve, to `demo/` in the data folder."""
    from samuel.synthetic.song import write_song  # two seconds of imports, for those who want these songs

    count = config.limit or 12
    songs: list[Song] = []
    for index in track(range(count)):
        made = write_song(config.seed, index, data / "demo")
        song_id, url = digest("synthetic", made.folder.name), made.path("mix.wav").resolve().as_uri()
        songs.append(Song(song_id, made.record["title"], url, made.record["duration_s"]))
    return SongList(songs, [rule("songs made here", 0, count)])


AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".wma", ".webm", ".mp4",
)  # fmt: skip


def folder_songs(config: SongsConfig, data: Path, track: Track) -> SongList:
    """Audio files below `config.path`: nothing hidden, no link that leads out, nothing of this project."""
    root = cast("Path", config.path).expanduser()  # SongsConfig demands one for this source
    if not root.is_dir():
        raise InputError(f"songs.path {root}: no such folder; give the one that holds your audio files")
    root, own, files = root.resolve(), data.resolve(), list[Path]()

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename}: {error.strerror}; make it readable, or move it away") from error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        if MANIFEST in names:
            continue
        # A data folder below the songs holds copies of them: a second run would take those for songs.
        subfolders[:] = [n for n in subfolders if n[0] != "." and Path(folder, n).resolve() != own]
        paths = [Path(folder, n) for n in names if n[0] != "." and n.lower().endswith(AUDIO_SUFFIXES)]
        files += [path for path in paths if path.is_file() and path.resolve().is_relative_to(root)]
    files.sort(key=lambda path: path.relative_to(root).as_posix())
    if not files:
        suffixes = ", ".join(AUDIO_SUFFIXES)
        raise InputError(f"songs.path {root}: no audio file in it; put some there ({suffixes})")
    songs: list[Song] = []
    for path in track(files[: config.limit]):
        # A name may hold bytes that are no UTF-8; JSON and Parquet take none of the stand-ins for them.
        texts = (path.relative_to(root).as_posix(), path.stem)
        name, title = (os.fsencode(text).decode("utf-8", "backslashreplace") for text in texts)
        try:
            song_id = digest("folder", name, sha256(path))
        except OSError as error:
            refuse(error)
        songs.append(Song(song_id, title, path.resolve().as_uri()))
    rules = [rule("audio files in the folder", 0, len(files)), *_limit_rules(len(files), config.limit)]
    return SongList(songs, rules)


def _limit_rules(found: int, limit: int | None) -> list[dict[str, str | int]]:
    return [rule(f"over the limit of {limit}", found - limit, limit)] if limit and found > limit else []


NAME, POPULARITY, DURATION = COLUMNS = ("song_name", "song_popularity", "song_duration_ms")
SHARES = ("instrumentalness", "speechiness")  # read where their limit is set
SAME_RECORDING_MS = 3000.0
# What pandas makes of a list grows with its cells: the paper's has 1.7 MB and 280,000.
MOST_LIST_BYTES, MOST_CELLS, MOST_COLUMNS = 32 * 2**20, 4_000_000, 1000
MOST_TITLE, MOST_NUMBER = 1000, 1e9
FILTERS = ("min_popularity", "min_duration_s", "max_duration_s", "max_instrumentalness", "max_speechiness")


def csv_songs(config: SongsConfig, _: Path, __: Track) -> SongList:
    """Choose the songs of the list at `config.path`, or of the paper's, that pass the filters."""
    path = config.path.expanduser() if config.path else fetch_kaggle_list()
    bounds = {name: bound for name in FILTERS if (bound := getattr(config, name)) is not None}
    rows = read_song_list(path, [share for share in SHARES if f"max_{share}" in bounds])
    songs: Any = merge_recordings(rows)
    rules = [rule("rows of the list", 0, len(rows))]
    rules.append(rule("same name, duration within 3 s", len(rows) - len(songs), len(songs)))
    for name, bound in bounds.items():
        least, column = name.startswith("min_"), name[len("min_") :]
        kept = songs[songs[column] >= bound] if least else songs[songs[column] <= bound]
        what, unit = column.removesuffix("_s"), " s" if column.endswith("_s") else ""
        removed = f"{what} {'under' if least else 'over'} {bound:g}{unit}"
        rules.append(rule(removed, len(songs) - len(kept), len(kept)))
        songs = kept
    if songs.empty:
        table = "\n".join("  {rule}: {removed} removed, {left} left".format(**row) for row in rules)
        settings = ", ".join(f"songs.{name}" for name in bounds)
        raise InputError(f"song list {path}: no song is left; loosen {settings}\n{table}")
    if config.order == "popularity":
        songs = songs.sort_values("popularity", ascending=False, kind="stable")  # ties as listed
    rules += _limit_rules(len(songs), config.limit)
    chosen: Any = songs[: config.limit][["key", "title", "duration_s", "popularity"]]
    listed = [
        Song(digest("csv", key, round(duration_s)), title, None, duration_s, int(popularity))
        for key, title, duration_s, popularity in chosen.itertuples(index=False)
    ]
    return SongList(listed, rules)


def read_song_list(path: Path, shares: Sequence[str] = ()) -> pd.DataFrame:
    """Read the rows of a song list, a CSV file in UTF-8, and type their cells; or an InputError.

    A row per row of the list, by its number in the file, where the header is row 1: title (normalised), key
    (the same for all spellings of a title), duration_ms, popularity, and `shares`, each in [0, 1].
    """
    needed = [*COLUMNS, *shares]
    cells = _read_cells(path, needed)
    if missing := [column for column in needed if column not in cells]:
        fault = f"no column {', '.join(missing)}; the header must name {', '.join(needed)}"
        raise InputError(f"song list {path}: {fault}")
    if cells.empty:
        raise InputError(f"song list {path}: no song in it; it needs at least one row below the header")
    cells.index += 2

    def require(fits: pd.Series, column: str, what: str) -> None:
        if not fits.all():
            row = fits.idxmin()
            cell = reprlib.repr(cells[column][row])
            raise InputError(f"song list {path}, row {row}, {column}: {cell} {what}; mend or delete the row")

    def numbers(column: str, most: float = MOST_NUMBER) -> pd.Series:
        values = pd.Series(pd.to_numeric(cells[column], errors="coerce"), dtype=float)
        # What is no number is NaN, and in no interval.
        require(values.between(0, most), column, f"is not a number from 0 to {most:,.0f}")
        return values

    typed = {"duration_ms": numbers(DURATION), "popularity": numbers(POPULARITY).round()}
    typed |= {share: numbers(share, most=1.0) for share in shares}
    require(cells[NAME].str.len() <= MOST_TITLE, NAME, f"has over {MOST_TITLE:,} characters")
    titles = cells[NAME].map(normalise_title)
    require(titles.str.len() > 0, NAME, "is empty")
    keys = titles.map(lambda title: unicodedata.normalize("NFKC", title.casefold()))
    return pd.DataFrame({"title": titles, "key": keys, **typed})


def _read_cells(path: Path, needed: list[str]) -> pd.DataFrame:
    """Read the columns `needed` as text."""
    try:
        content = read_bounded(path.resolve(), MOST_LIST_BYTES)
        header = re.split(rb"[\r\n]", content, maxsplit=1)[0]
        separators = sum(map(content.count, (b",", b"\n", b"\r")))
        if separators <= MOST_CELLS and header.count(b",") < MOST_COLUMNS:
            options: Any = {"keep_default_na": False, "index_col": False, "usecols": needed.__contains__}
            return pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", dtype=str, **options)
        fault = f"over {MOST_CELLS:,} cells or {MOST_COLUMNS:,} columns; leave out those in excess"
    except OSError as error:
        fault = f"{error.strerror}; give songs.path, a CSV file"
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 ({error.reason}); save it as UTF-8"
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        fault = f"not CSV ({' '.join(str(error).split())}); save it as comma-separated text"
    raise InputError(f"song list {path}: {fault}")


def normalise_title(title: str) -> str:
    """Bring `title` to NFKC, without zero-width and other format characters, single spaces between words."""
    text = unicodedata.normalize("NFKC", title)
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def merge_recordings(rows: pd.DataFrame) -> pd.DataFrame:
    """Merge rows of one recording: of one key, with no gap over 3 s between the durations of neighbours.

    Title and duration are those of the shortest row, popularity and shares those of the most popular.
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


KAGGLE_DATASET, KAGGLE_FILE = "yasserh/song-popularity-dataset", "song_data.csv"
KAGGLE_REMEDY = (
    "put Kaggle credentials into ~/.kaggle/kaggle.json (or KAGGLE_USERNAME and KAGGLE_KEY), or download "
    f"the list from https://www.kaggle.com/datasets/{KAGGLE_DATASET} yourself and give songs.path"
)


def fetch_kaggle_list() -> Path:
    """Fetch the list into kagglehub's cache, unless the newest version is there; or a MissingPartError."""
    import kagglehub
    from kagglehub import clients
    from tqdm import tqdm

    # kagglehub writes its log to standard output, shows a bar and advertises its next version.
    log = logging.getLogger("kagglehub")
    log.handlers = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    log.propagate = True
    clients.tqdm = partial(tqdm, disable=True)  # type: ignore[misc]
    clients.already_printed_version_warning = True
    try:
        path = Path(kagglehub.dataset_download(KAGGLE_DATASET)) / KAGGLE_FILE
    except Exception as error:  # noqa: BLE001 - it trusts what it is sent, and a credentials file
        # What it says may repeat the key that was sent: it stays out of message and traceback.
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"HTTP {status}" if status else without_secrets(f"{type(error).__name__}: {error}")[:300]
        raise MissingPartError(f"the Kaggle song list: not fetched ({why}); {KAGGLE_REMEDY}") from None
    if not path.is_file():
        raise MissingPartError(f"the Kaggle dataset holds no {path}; {KAGGLE_REMEDY}")
    return path


SOURCES = {"synthetic": synthetic_songs, "folder": folder_songs, "csv": csv_songs}
