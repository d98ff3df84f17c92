import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from samuel.audio import read_wav
from samuel.config import SongsConfig
from samuel.errors import InputError
from samuel.popdb.songs import (
    Rule,
    Song,
    SongList,
    list_songs,
    normalise_title,
)


def folder_songs(path: Path, **settings: Any) -> list[Song]:
    return list_songs(SongsConfig(source="folder", path=path, **settings), path.parent / "data").songs


def put(path: Path, content: bytes = b"sound") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("title", "normal"),
    [
        ("\u200bHello", "Hello"),
        ("a\u200db\ufeff", "ab"),
        ("  a \t\u00a0 b\n", "a b"),
        ("\ufb01ne \uff21", "fine A"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("Keep CASE!", "Keep CASE!"),
    ],
)
def test_normalised_title(title: str, normal: str) -> None:
    assert normalise_title(title) == normal


def test_table_has_a_row_for_each_rule() -> None:
    rules = [Rule("rows", 0, 5), Rule("too long", 2, 3)]
    assert SongList([], rules).table() == [
        {"rule": "rows", "taken": 0, "left": 5},
        {"rule": "too long", "taken": 2, "left": 3},
    ]


# --- synthetic ---


def test_synthetic_songs_are_written_and_listed(tmp_path: Path) -> None:
    seen: list[int] = []

    def track(numbers: Sequence[int]) -> Iterable[int]:
        seen.extend(numbers)
        return numbers

    config = SongsConfig(limit=1)
    listed = list_songs(config, tmp_path, track)
    [song] = listed.songs
    mix = Path.from_uri(song.url) if sys.version_info >= (3, 13) else Path((song.url or "")[7:])
    assert seen == [0]
    assert mix.name == "mix.wav"
    assert mix.is_relative_to(tmp_path / "demo")
    assert read_wav(mix).shape[1] == round((song.duration_s or 0) * 44_100)
    assert song.title
    assert listed.rules == [Rule("songs made here", 0, 1)]
    assert list_songs(config, tmp_path) == listed


def test_synthetic_songs_are_twelve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeEntry:
        def __init__(self, folder: Path) -> None:
            self.folder, self.path, self.record = folder, folder.joinpath, {"title": "t", "duration_s": 1.0}

    asked: list[tuple[int, int]] = []

    def write_song(seed: int, index: int, root: Path) -> FakeEntry:
        asked.append((seed, index))
        return FakeEntry(root / f"{seed}-{index}")

    monkeypatch.setattr("samuel.synthetic.write_song", write_song)
    songs = list_songs(SongsConfig(seed=5), tmp_path).songs
    assert asked == [(5, index) for index in range(12)]
    assert len({song.song_id for song in songs}) == 12


# --- folder ---


def test_folder_lists_audio_below_it_by_relative_path(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    for name in ("b.WAV", "a/z.mp3", "a/y.opus", "a-b.flac", "c.m4a", "d.txt", "cover.jpg", "e", "mp3"):
        put(root / name)
    songs = folder_songs(root)
    assert [song.title for song in songs] == ["a-b", "y", "z", "b", "c"]
    assert songs[1].url == (root / "a" / "y.opus").as_uri()


def test_folder_keeps_to_the_limit(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    for name in "abc":
        put(root / f"{name}.wav")
    files = Rule("audio files in the folder", 0, 3)
    for limit, titles, rules in (
        (None, ["a", "b", "c"], [files]),
        (3, ["a", "b", "c"], [files]),
        (2, ["a", "b"], [files, Rule("over the limit of 2", 1, 2)]),
    ):
        listed = list_songs(SongsConfig(source="folder", path=root, limit=limit), tmp_path / "data")
        assert [song.title for song in listed.songs] == titles
        assert listed.rules == rules


def test_folder_song_id_is_of_path_and_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    put(one / "x" / "a.wav")
    put(two / "x" / "a.wav")
    put(two / "x" / "b.wav")
    [song] = folder_songs(one)
    assert [other.song_id == song.song_id for other in folder_songs(two)] == [True, False]
    put(one / "x" / "a.wav", b"other sound")
    assert folder_songs(one)[0].song_id != song.song_id


def test_folder_leaves_out_hidden_files_and_its_own_data(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    put(root / "a.wav")
    put(root / ".b.wav")
    put(root / ".trash" / "c.wav")
    put(root / "data" / "raw" / "x" / "audio.wav")
    (root / "pipe.wav").mkdir()
    config = SongsConfig(source="folder", path=root)
    assert [song.title for song in list_songs(config, root / "data").songs] == ["a"]
    assert [song.title for song in list_songs(config, tmp_path / "data").songs] == ["a", "audio"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_folder_ignores_links_that_leave_it(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    inside = put(root / "a.wav")
    outside = put(tmp_path / "elsewhere" / "b.wav")
    (root / "leaves.wav").symlink_to(outside)
    (root / "leaves").symlink_to(outside.parent)
    (root / "stays.wav").symlink_to(inside)
    (root / "broken.wav").symlink_to(root / "gone.wav")
    (root / "loop.wav").symlink_to(root / "loop.wav")
    assert [song.title for song in folder_songs(root)] == ["a", "stays"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on this system")
def test_folder_lists_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    put(tmp_path / "songs" / os.fsdecode(b"caf\xe9.wav"))
    [song] = folder_songs(tmp_path / "songs")
    assert song.title == "caf\\xe9"


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    put(empty / "notes.txt")
    file = put(tmp_path / "song.wav")
    for path, what in (
        (tmp_path / "gone", "no such folder; give"),
        (file, "is a file, not a folder; give"),
        (empty, "no audio file in it; put"),
    ):
        with pytest.raises(InputError) as caught:
            folder_songs(path)
        assert f"{path}: {what}" in str(caught.value)


def test_what_this_project_made_is_no_song(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    put(root / "song.wav")
    put(root / "artifacts" / "run" / "track" / "entry.json", b"{}")
    put(root / "artifacts" / "run" / "track" / "mix.wav")
    assert [song.title for song in folder_songs(root)] == ["song"]


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    put(tmp_path / "songs" / "locked.wav")
    monkeypatch.setattr("samuel.popdb.songs.sha256", deny)  # root may read everything
    with pytest.raises(InputError, match=r"locked\.wav: Permission denied; make it readable"):
        folder_songs(tmp_path / "songs")
