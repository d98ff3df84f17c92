"""The rows of a song list, a CSV file: every cell is read as text, and typed here."""

import csv
import math
import reprlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samuel.errors import InputError
from samuel.popdb.catalog.song import normalise_title

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
