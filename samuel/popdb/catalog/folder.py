"""Audio files that the user owns."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, cast

from samuel.config import SongsConfig
from samuel.errors import InputError
from samuel.files import MANIFEST, digest, sha256
from samuel.popdb.catalog.song import Rule, Song, SongList, Track, over_limit

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
