import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from samuel.config import LIST_RULES, SongsConfig
from samuel.errors import InputError
from samuel.popdb.songs import (
    Rule,
    Song,
    SongList,
    list_songs,
    normalise_title,
)

REAL_LIST = Path(__file__).parents[3] / "shared" / "data" / "song_data.csv"
NO_REAL_LIST = pytest.mark.skipif(not REAL_LIST.exists(), reason=f"the Kaggle list is not at {REAL_LIST}")
HEADER = "song_name,song_popularity,song_duration_ms\n"
FEATURES = "song_name,song_popularity,song_duration_ms,instrumentalness,speechiness\n"
FIVE = FEATURES + (
    "Quiet,30,200000,0.1,0.1\n"
    "Short,60,59999,0.1,0.1\n"
    "Edge,50,60000,0.5,0.33\n"
    "Long,90,900001,0.1,0.1\n"
    "Band,70,300000,0.501,0.9\n"
)


def csv_list(folder: Path, text: str, **settings: Any) -> SongList:
    path = folder / "list.csv"
    path.write_text(text, "utf-8", newline="")
    return list_songs(SongsConfig(source="csv", path=path, **settings), folder / "data")


def csv_songs(folder: Path, text: str, **settings: Any) -> list[Song]:
    return csv_list(folder, text, **settings).songs


def csv_titles(folder: Path, text: str, **settings: Any) -> list[str]:
    return [song.title for song in csv_songs(folder, text, **settings)]


def real_list(**settings: Any) -> SongList:
    return list_songs(SongsConfig(source="csv", path=REAL_LIST, **settings), Path("data"))


# --- rows ---


def test_csv_song(tmp_path: Path) -> None:
    [song] = csv_songs(
        tmp_path, "key,song_duration_ms,song_name,song_popularity\r\n1,211500,In  The End,66\r\n"
    )
    assert (song.title, song.duration_s, song.popularity, song.url) == ("In The End", 211.5, 66, None)
    assert song.song_id == hashlib.sha256(b'["csv","in the end",212]').hexdigest()[:20]


def test_csv_titles_stay_text(tmp_path: Path) -> None:
    rows = "22,1,60000\nTRUE,1,60000\n1979,1,60000\nNA,1,60000\nnan,1,60000\n+,1,60000\n007,1,60000\n"
    titles = csv_titles(tmp_path, "\ufeff" + HEADER + rows)
    assert titles == ["22", "TRUE", "1979", "NA", "nan", "+", "007"]


@pytest.mark.parametrize("cell", ["", "abc", "nan", "inf", "-1", "1,5"])
@pytest.mark.parametrize("column", ["song_popularity", "song_duration_ms"])
def test_csv_cell_that_is_no_number(cell: str, column: str, tmp_path: Path) -> None:
    cells = {"song_popularity": "50", "song_duration_ms": "60000", column: f'"{cell}"'}
    row = f"Good,1,60000\nBad,{cells['song_popularity']},{cells['song_duration_ms']}\n"
    with pytest.raises(InputError) as caught:
        csv_songs(tmp_path, HEADER + row)
    assert f"list.csv, row 3, {column}: {cell!r} is not a number from 0 up; mend" in str(caught.value)


@pytest.mark.parametrize("cell", ["", "much", "nan", "-0.01", "1.01"])
@pytest.mark.parametrize("column", ["instrumentalness", "speechiness"])
def test_csv_share_is_typed_where_its_limit_is_set(cell: str, column: str, tmp_path: Path) -> None:
    shares = {"instrumentalness": "0", "speechiness": "1", column: cell}
    text = FEATURES + f"Good,1,60000,0,1\nBad,1,60000,{shares['instrumentalness']},{shares['speechiness']}\n"
    other = ({"instrumentalness", "speechiness"} - {column}).pop()
    assert csv_titles(tmp_path, text, **{f"max_{other}": 1.0}) == ["Good", "Bad"]
    with pytest.raises(InputError) as caught:
        csv_songs(tmp_path, text, **{f"max_{column}": 1.0})
    assert f"list.csv, row 3, {column}: {cell!r} is not a number from 0 to 1; mend" in str(caught.value)


@pytest.mark.parametrize("column", ["instrumentalness", "speechiness"])
def test_csv_share_is_demanded_where_its_limit_is_set(column: str, tmp_path: Path) -> None:
    assert csv_titles(tmp_path, HEADER + "Song,1,60000\n") == ["Song"]
    with pytest.raises(InputError, match=f"no column {column}; found: 'song_name', 'song_popularity'"):
        csv_songs(tmp_path, HEADER + "Song,1,60000\n", **{f"max_{column}": 0.5})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "song_name,tempo\nx,1\n",
            "no column song_popularity, song_duration_ms; found: 'song_name', 'tempo'.",
        ),
        ("", "no column song_name, song_popularity, song_duration_ms; found: nothing."),
        ("\x1b[2Jevil,b\nx,1\n", r"found: '\x1b[2Jevil', 'b'."),
        (HEADER, "no song in it"),
        (HEADER + " \u200b,1,60000\n", "row 2, song_name: empty"),
        (HEADER + "short,1\n", "row 2, song_duration_ms: ''"),
        (HEADER + "x" * 200_000 + ",1,1\n", "not CSV"),
        (
            HEADER + "x,1," + "9" * 100_000 + "z\n",
            "row 2, song_duration_ms: '999999999999...999999999999z' is",
        ),
    ],
)
def test_csv_that_cannot_be_used(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        csv_songs(tmp_path, text)
    assert str(tmp_path / "list.csv") in str(caught.value)
    assert complaint in str(caught.value)


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes((HEADER + "Café,1,60000\n").encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        list_songs(SongsConfig(source="csv", path=path), tmp_path)


def test_csv_path_that_is_no_file(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "gone.csv", "no such file"), (tmp_path, "is a folder, not a file")):
        with pytest.raises(InputError) as caught:
            list_songs(SongsConfig(source="csv", path=path), tmp_path)
        assert f"{path}: {what}" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that even root cannot read")
def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    path = Path("/proc/self/mem")
    with pytest.raises(InputError, match=f"song list {path}: Input/output error; make it readable"):
        list_songs(SongsConfig(source="csv", path=path), tmp_path)


# --- recordings ---


def test_csv_merges_rows_of_one_recording(tmp_path: Path) -> None:
    rows = [
        "Better,10,200000\n",
        "Other,1,100000\n",
        "BETTER,70,202900\n",
        "Better,20,205900\n",  # within 3 s of its neighbour
        "\u200bBetter,30,205900\n",
        "Better,40,208901\n",  # a gap of 3.001 s: another recording
    ]
    listed = csv_list(tmp_path, HEADER + "".join(rows))
    summary = [(song.title, song.duration_s, song.popularity) for song in listed.songs]
    assert summary == [("Better", 200.0, 70), ("Other", 100.0, 1), ("Better", 208.901, 40)]
    assert listed.rules == [Rule("rows of the list", 0, 6), Rule("same name, duration within 3 s", 3, 3)]
    shuffled = csv_songs(tmp_path, HEADER + "".join(reversed(rows)))
    assert {song.song_id: song for song in shuffled} == {song.song_id: song for song in listed.songs}


@pytest.mark.parametrize(
    ("instrumentalness", "passes"),
    [
        (("0.9", "0.1", "0.9"), True),  # that of the most popular row, not the first one or a mean
        (("0.1", "0.9", "0.1"), False),
    ],
)
def test_features_are_of_the_most_popular_row(
    instrumentalness: tuple[str, ...], passes: bool, tmp_path: Path
) -> None:
    first, second, third = instrumentalness
    # the third is the shortest and as popular as the second, which the list has first
    rows = f"Song,1,200000,{first},0\nSong,8,202000,{second},0\nSong,8,199000,{third},0\nOther,1,60000,0,0\n"
    titles = csv_titles(tmp_path, FEATURES + rows, max_instrumentalness=0.5)
    assert titles == (["Song", "Other"] if passes else ["Other"])


# --- selection ---


@pytest.mark.parametrize(
    ("settings", "titles", "rule"),
    [
        ({"min_popularity": 50}, ["Short", "Edge", "Long", "Band"], Rule("popularity under 50", 1, 4)),
        ({"min_popularity": 51}, ["Short", "Long", "Band"], Rule("popularity under 51", 2, 3)),
        ({"min_popularity": 0}, ["Quiet", "Short", "Edge", "Long", "Band"], Rule("popularity under 0", 0, 5)),
        ({"min_duration_s": 60}, ["Quiet", "Edge", "Long", "Band"], Rule("duration under 60 s", 1, 4)),
        ({"max_duration_s": 900}, ["Quiet", "Short", "Edge", "Band"], Rule("duration over 900 s", 1, 4)),
        ({"max_duration_s": 59.999}, ["Short"], Rule("duration over 59.999 s", 4, 1)),
        (
            {"max_instrumentalness": 0.5},
            ["Quiet", "Short", "Edge", "Long"],
            Rule("instrumentalness over 0.5", 1, 4),
        ),
        (
            {"max_speechiness": 0.33},
            ["Quiet", "Short", "Edge", "Long"],
            Rule("speechiness over 0.33", 1, 4),
        ),
    ],
)
def test_each_filter_takes_what_is_beyond_its_bound(
    settings: dict[str, float], titles: list[str], rule: Rule, tmp_path: Path
) -> None:
    listed = csv_list(tmp_path, FIVE, **settings)
    assert [song.title for song in listed.songs] == titles
    assert listed.rules[2:] == [rule]


def test_filters_follow_one_another(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "max_speechiness": 0.9,
        "max_instrumentalness": 0.5,
        "max_duration_s": 900,
        "min_duration_s": 60,
        "min_popularity": 31,
    }
    assert set(settings) == set(LIST_RULES) - {"order"}
    listed = csv_list(tmp_path, FIVE, **settings)
    assert [song.title for song in listed.songs] == ["Edge"]
    assert listed.rules[1:] == [
        Rule("same name, duration within 3 s", 0, 5),
        Rule("popularity under 31", 1, 4),
        Rule("duration under 60 s", 1, 3),
        Rule("duration over 900 s", 1, 2),
        Rule("instrumentalness over 0.5", 1, 1),
        Rule("speechiness over 0.9", 0, 1),
    ]


def test_the_sort_comes_before_the_limit(tmp_path: Path) -> None:
    rows = "A,5,60000\nB,9,60000\nC,5,60000\nD,9,60000\nC,7,61000\n"
    assert csv_titles(tmp_path, HEADER + rows) == ["A", "B", "C", "D"]
    assert csv_titles(tmp_path, HEADER + rows, order="popularity") == ["B", "D", "C", "A"]
    assert csv_titles(tmp_path, HEADER + rows, limit=2) == ["A", "B"]
    listed = csv_list(tmp_path, HEADER + rows, order="popularity", limit=3)
    assert [song.title for song in listed.songs] == ["B", "D", "C"]
    assert listed.rules[2:] == [Rule("over the limit of 3", 1, 3)]
    assert csv_list(tmp_path, HEADER + rows, limit=4).rules[2:] == []


def test_no_song_left(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        csv_list(tmp_path, FIVE + "Edge,1,61000,0,0\n", min_popularity=60, max_duration_s=59.5)
    assert str(caught.value).splitlines() == [
        f"song list {tmp_path / 'list.csv'}: no song is left; loosen songs.min_popularity, "
        "songs.max_duration_s",
        "  rows of the list: 0 taken, 6 left",
        "  same name, duration within 3 s: 1 taken, 5 left",
        "  popularity under 60: 2 taken, 3 left",
        "  duration over 59.5 s: 3 taken, 0 left",
    ]


# --- the real list ---


@NO_REAL_LIST
def test_real_list() -> None:
    listed = real_list()
    songs = listed.songs
    assert listed.rules == [
        Rule("rows of the list", 0, 18_835),
        Rule("same name, duration within 3 s", 4_848, 13_987),
    ]
    assert len({song.song_id for song in songs}) == len(songs) == 13_987
    assert len({normalise_title(song.title).casefold() for song in songs}) == 12_963
    assert sum(song.title.casefold() == "fire" for song in songs) == 6
    assert sum(song.title == "Better" for song in songs) == 4  # six durations, two pairs within 3 s
    assert max(song.duration_s or 0 for song in songs) == pytest.approx(1799, abs=1)


@NO_REAL_LIST
def test_real_songs_keep_their_names() -> None:
    songs = real_list().songs
    assert [(song.song_id, song.title) for song in songs[:2]] == [
        ("02f45b6b8d13045a0da7", "Boulevard of Broken Dreams"),
        ("c09a5382f982e2517b35", "In The End"),
    ]
    titles = {song.song_id: song.title for song in songs}
    assert titles["16d0d8143a308b40f4ba"] == "22"
    assert titles["975c932ace5af45d75f2"] == titles["c66bf611cf5238c588f7"] == "1979"
    assert titles["c40b8b34aa1a6716b1e5"] == titles["3b83bff1b3215e26b031"] == "TRUE"
    assert "앞자리" in titles.values()  # after a zero-width space in the list


@NO_REAL_LIST
def test_real_list_is_chosen_as_pandas_chooses() -> None:
    import pandas as pd

    frame = pd.read_csv(REAL_LIST, dtype={"song_name": str}, keep_default_na=False)
    assert int((frame.instrumentalness > 0.5).sum()) == 1_434
    frame["key"] = frame.song_name.map(lambda name: normalise_title(normalise_title(name).casefold()))
    frame["position"] = range(len(frame))
    frame = frame.sort_values(["key", "song_duration_ms"])
    gap = frame.song_duration_ms.diff() > 3000
    frame["recording"] = (gap | (frame.key != frame.key.shift())).cumsum()
    groups = frame.groupby("recording")
    best = frame.sort_values(["song_popularity", "position"], ascending=[False, True])
    wanted = best.drop_duplicates("recording").set_index("recording").sort_index()
    wanted["duration_s"] = groups.song_duration_ms.min() / 1000
    wanted["first"] = groups.position.min()
    wanted = wanted.query("song_popularity >= 50 and 60 <= duration_s <= 900")
    wanted = wanted.query("instrumentalness <= 0.5 and speechiness <= 0.33")
    wanted = wanted.sort_values(["song_popularity", "first"], ascending=[False, True])
    bounds = {"min_duration_s": 60, "max_duration_s": 900, "max_instrumentalness": 0.5}
    songs = real_list(**bounds, min_popularity=50, max_speechiness=0.33, order="popularity").songs
    found = [(normalise_title(song.title.casefold()), song.duration_s, song.popularity) for song in songs]
    assert found == list(zip(wanted.key, wanted.duration_s, wanted.song_popularity, strict=True))
