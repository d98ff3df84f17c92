"""Which recordings of a song list are taken."""

from collections.abc import Sequence
from pathlib import Path

from samuel.config import SongsConfig
from samuel.errors import InputError
from samuel.popdb.catalog.recordings import Recording, merge
from samuel.popdb.catalog.rows import read_rows
from samuel.popdb.catalog.song import Rule, SongList, over_limit

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
