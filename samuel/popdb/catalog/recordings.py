"""Rows of a song list that name the same recording, merged into one song."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from samuel.files import digest
from samuel.popdb.catalog.rows import Row
from samuel.popdb.catalog.song import Song

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
