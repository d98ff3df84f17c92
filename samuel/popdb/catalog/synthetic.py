"""Songs made here, whose true stems are known."""

from pathlib import Path

from samuel.config import SongsConfig
from samuel.files import digest
from samuel.popdb.catalog.song import Rule, Song, SongList, Track

SYNTHETIC_SONGS = 12


def synthetic_songs(config: SongsConfig, data: Path, track: Track) -> SongList:
    """Write `config.limit` songs, or twelve, to `demo/` in the data folder `data`."""
    count = config.limit or SYNTHETIC_SONGS
    songs = [_song(config.seed, index, data / "demo") for index in track(range(count))]
    return SongList(songs, [Rule("songs made here", 0, count)])


def _song(seed: int, index: int, folder: Path) -> Song:
    from samuel.demo import write_song  # two seconds of imports, for those who want these songs

    entry = write_song(seed, index, folder)
    return Song(
        song_id=digest("synthetic", entry.folder.name),
        title=entry.record["title"],
        url=entry.path("mix.wav").resolve().as_uri(),
        duration_s=entry.record["duration_s"],
    )
