import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from samuel.audio import read_wav
from samuel.config import SongsConfig
from samuel.errors import InputError, MissingPartError
from samuel.popdb.catalog import Song, list_songs, normalise_title

REAL_LIST = Path(__file__).parents[3] / "shared" / "data" / "song_data.csv"
HEADER = "song_name,song_popularity,song_duration_ms\n"


def csv_songs(path: Path, text: str, **settings: Any) -> list[Song]:
    path = path / "list.csv"
    path.write_text(text, "utf-8", newline="")
    return list_songs(SongsConfig(source="csv", path=path, **settings), path.parent / "data")


def folder_songs(path: Path, **settings: Any) -> list[Song]:
    return list_songs(SongsConfig(source="folder", path=path, **settings), path.parent / "data")


def put(path: Path, content: bytes = b"sound") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- synthetic ---


def test_synthetic_songs_are_written_and_listed(tmp_path: Path) -> None:
    seen: list[int] = []

    def track(numbers: Sequence[int]) -> Iterable[int]:
        seen.extend(numbers)
        return numbers

    config = SongsConfig(limit=1)
    [song] = list_songs(config, tmp_path, track)
    mix = Path.from_uri(song.url) if sys.version_info >= (3, 13) else Path((song.url or "")[7:])
    assert seen == [0]
    assert mix.name == "mix.wav"
    assert mix.is_relative_to(tmp_path / "demo")
    assert read_wav(mix).shape[1] == round((song.duration_s or 0) * 44_100)
    assert song.title
    assert list_songs(config, tmp_path) == [song]


def test_synthetic_songs_are_twelve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeEntry:
        def __init__(self, folder: Path) -> None:
            self.folder, self.path, self.record = folder, folder.joinpath, {"title": "t", "duration_s": 1.0}

    asked: list[tuple[int, int]] = []

    def write_song(seed: int, index: int, root: Path) -> FakeEntry:
        asked.append((seed, index))
        return FakeEntry(root / f"{seed}-{index}")

    monkeypatch.setattr("samuel.popdb.catalog.write_song", write_song)
    songs = list_songs(SongsConfig(seed=5), tmp_path)
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
    assert [song.title for song in folder_songs(root, limit=2)] == ["a-b", "y"]


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
    assert [song.title for song in list_songs(config, root / "data")] == ["a"]
    assert [song.title for song in list_songs(config, tmp_path / "data")] == ["a", "audio"]


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


# --- csv ---


def test_csv_song(tmp_path: Path) -> None:
    [song] = csv_songs(
        tmp_path, "key,song_duration_ms,song_name,song_popularity\r\n1,211500,In  The End,66\r\n"
    )
    assert (song.title, song.duration_s, song.popularity, song.url) == ("In The End", 211.5, 66, None)


def test_csv_titles_stay_text(tmp_path: Path) -> None:
    rows = "22,1,60000\nTRUE,1,60000\n1979,1,60000\nNA,1,60000\nnan,1,60000\n+,1,60000\n007,1,60000\n"
    titles = [song.title for song in csv_songs(tmp_path, "\ufeff" + HEADER + rows)]
    assert titles == ["22", "TRUE", "1979", "NA", "nan", "+", "007"]


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


def test_csv_merges_rows_of_one_recording(tmp_path: Path) -> None:
    rows = [
        "Better,10,200000\n",
        "Other,1,100000\n",
        "BETTER,70,202900\n",
        "Better,20,205900\n",  # within 3 s of its neighbour
        "\u200bBetter,30,205900\n",
        "Better,40,208901\n",  # a gap of 3.001 s: another recording
    ]
    songs = csv_songs(tmp_path, HEADER + "".join(rows))
    summary = [(song.title, song.duration_s, song.popularity) for song in songs]
    assert summary == [("Better", 200.0, 70), ("Other", 100.0, 1), ("Better", 208.901, 40)]
    assert [song.title for song in csv_songs(tmp_path, HEADER + "".join(rows), limit=2)] == [
        "Better",
        "Other",
    ]
    shuffled = csv_songs(tmp_path, HEADER + "".join(reversed(rows)))
    assert sorted(shuffled, key=lambda song: song.song_id) == sorted(songs, key=lambda song: song.song_id)


@pytest.mark.parametrize("cell", ["", "abc", "nan", "inf", "-1", "1,5"])
@pytest.mark.parametrize("column", ["song_popularity", "song_duration_ms"])
def test_csv_cell_that_is_no_number(cell: str, column: str, tmp_path: Path) -> None:
    cells = {"song_popularity": "50", "song_duration_ms": "60000", column: f'"{cell}"'}
    row = f"Good,1,60000\nBad,{cells['song_popularity']},{cells['song_duration_ms']}\n"
    with pytest.raises(InputError) as caught:
        csv_songs(tmp_path, HEADER + row)
    assert f"list.csv, row 3, {column}: {cell!r} is not a number" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("song_name,tempo\nx,1\n", "no column song_popularity, song_duration_ms; found: song_name, tempo."),
        ("", "no column song_name, song_popularity, song_duration_ms; found: nothing."),
        (HEADER, "no song in it"),
        (HEADER + " \u200b,1,60000\n", "row 2, song_name: empty"),
        (HEADER + "short,1\n", "row 2, song_duration_ms: ''"),
        (HEADER + "x" * 200_000 + ",1,1\n", "not CSV"),
    ],
)
def test_csv_that_cannot_be_used(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        csv_songs(tmp_path, text)
    assert str(tmp_path / "list.csv") in str(caught.value)
    assert complaint in str(caught.value)


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    path = put(tmp_path / "list.csv", (HEADER + "Café,1,60000\n").encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        list_songs(SongsConfig(source="csv", path=path), tmp_path)


def test_csv_path_that_is_no_file(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "gone.csv", "no such file"), (tmp_path, "is a folder, not a file")):
        with pytest.raises(InputError) as caught:
            list_songs(SongsConfig(source="csv", path=path), tmp_path)
        assert f"{path}: {what}" in str(caught.value)


def test_csv_is_fetched_from_kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def dataset_download(handle: str) -> str:
        asked.append(handle)
        return str(tmp_path)

    monkeypatch.setattr("kagglehub.dataset_download", dataset_download)
    config = SongsConfig(source="csv")
    with pytest.raises(MissingPartError, match=r"holds no song_data\.csv"):
        list_songs(config, tmp_path)
    put(tmp_path / "song_data.csv", (HEADER + "Song,1,60000\n").encode())
    assert [song.title for song in list_songs(config, tmp_path)] == ["Song"]
    assert asked == ["yasserh/song-popularity-dataset"] * 2


@pytest.mark.parametrize("kind", ["network", "credentials"])
def test_kaggle_that_fails_names_the_remedies(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests
    from kagglehub.exceptions import CredentialError

    error = requests.ConnectionError("no route") if kind == "network" else CredentialError("no key")

    def dataset_download(handle: str) -> str:
        raise error

    monkeypatch.setattr("kagglehub.dataset_download", dataset_download)
    with pytest.raises(MissingPartError) as caught:
        list_songs(SongsConfig(source="csv"), tmp_path)
    for part in (str(error), "kaggle.json", "KAGGLE_KEY", "songs.path", "yasserh/song-popularity-dataset"):
        assert part in str(caught.value)


@pytest.mark.skipif(not REAL_LIST.exists(), reason=f"the Kaggle list is not at {REAL_LIST}")
def test_real_list(tmp_path: Path) -> None:
    songs = list_songs(SongsConfig(source="csv", path=REAL_LIST), tmp_path)
    assert len(songs) == 13_987
    assert len({song.song_id for song in songs}) == 13_987
    assert len({normalise_title(song.title).casefold() for song in songs}) == 12_963
    assert songs[0].title == "Boulevard of Broken Dreams"
    assert sum(song.title.casefold() == "fire" for song in songs) == 6
    assert sum(song.title == "Better" for song in songs) == 4  # six durations, two pairs within 3 s
    assert max(song.duration_s or 0 for song in songs) == pytest.approx(1799, abs=1)


def test_what_this_project_made_is_no_song(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"a song")
    made = tmp_path / "artifacts" / "run" / "track"
    made.mkdir(parents=True)
    (made / "entry.json").write_text("{}")
    (made / "mix.wav").write_bytes(b"ours")
    config = SongsConfig(source="folder", path=tmp_path)
    assert [song.title for song in list_songs(config, tmp_path / "data")] == ["song"]


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "locked.wav").write_bytes(b"a song")
    monkeypatch.setattr("samuel.popdb.catalog.sha256", deny)  # root may read everything
    with pytest.raises(InputError, match=r"locked\.wav: Permission denied; make it readable"):
        list_songs(SongsConfig(source="folder", path=tmp_path), tmp_path / "data")
