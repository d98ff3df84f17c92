"""A song of the list, and what was kept of the list."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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
