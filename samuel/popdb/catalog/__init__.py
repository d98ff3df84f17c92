"""The song list: where songs come from (paper §III-C)."""

from pathlib import Path

from samuel.config import SongsConfig
from samuel.popdb.catalog.folder import AUDIO_SUFFIXES, folder_songs
from samuel.popdb.catalog.kaggle import fetch_list
from samuel.popdb.catalog.selection import csv_songs
from samuel.popdb.catalog.song import Rule, Song, SongList, Track, normalise_title
from samuel.popdb.catalog.synthetic import synthetic_songs

__all__ = ["AUDIO_SUFFIXES", "Rule", "Song", "SongList", "list_songs", "normalise_title"]


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
