"""The song list: where songs come from (paper §III-C)."""

from dataclasses import dataclass


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
