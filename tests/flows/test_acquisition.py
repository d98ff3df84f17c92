"""build-popdb from a song list, by real yt-dlp from a site of our own."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.build_popdb import build_popdb
from samuel.config import Settings
from samuel.errors import OperatorError
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.dataset import open_popdb
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from tests.flows.conftest import song
from tests.flows.runs import latest_artifacts
from tests.popdb.latents import small_settings
from tests.popdb.site import AT_ONCE, Answer, LocalSite, encoded, serving, yt_dlp_plugin

SECONDS = 7.0
TITLES = ("--exec touch x", "TRUE", "../../x", "Nowhere to be found", "Broken", "Blocked", "22")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSite]:
    monkeypatch.setenv("NO_PROXY", "*")
    with yt_dlp_plugin(), serving() as local:
        monkeypatch.setenv("SAMUEL_TEST_SITE", local.base)
        for number, title in enumerate(TITLES):
            if not title.startswith("Nowhere"):
                media = Answer(encoded(song(number, SECONDS)))
                local.add_video(f"v{number}", media, SECONDS, title=f"Some Artist - {title}")
        local.answers["/media/v4"] = Answer(b"no audio")
        local.answers["/media/v5"] = Answer(b"", 403)
        yield local


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    rows = [f'"{title}",{50 + number},{SECONDS * 1000:.0f}\n' for number, title in enumerate(TITLES)]
    path = tmp_path / "list.csv"
    path.write_text("song_name,song_popularity,song_duration_ms\n" + "".join(rows))
    songs = {"source": "csv", "path": path, "min_popularity": 51}
    download = {**AT_ONCE, "policy": "scored", "search_results": 10}
    return small_settings(tmp_path, songs=songs, download=download)


def test_every_song_of_the_list_is_accounted_for(
    server: str, site: LocalSite, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    build_popdb(settings=settings)
    table = open_popdb(settings.popdb_path).songs()
    rows = {row["title"]: row for row in table.to_pylist()}
    assert {title: (row["stage"], row["status"]) for title, row in rows.items()} == {
        "TRUE": ("encode", "ok"),
        "../../x": ("encode", "ok"),
        "Nowhere to be found": ("match", "no_match"),
        "Broken": ("download", "decode_failed"),
        "Blocked": ("download", "forbidden"),
        "22": ("encode", "ok"),
    }
    assert rows["22"]["video_id"] == "v6"
    assert [len(row["candidates"]) for row in rows.values()] == [6] * 6
    shown = latest_artifacts()
    for words in ("popularity under 51", "rows of the list"):
        assert words in shown["song-list"]
    for words in ("no_match 1", "decode_failed 1", "forbidden 1", "downloaded", "encoded"):
        assert words in shown["songs"]
    assert float(shown["download"]) == 100
    assert "6 of 6 songs" in caplog.text


def test_a_rerun_fetches_only_what_is_worth_it(server: str, site: LocalSite, settings: Settings) -> None:
    build_popdb(settings=settings)
    site.requests.clear()
    site.answers["/media/v5"] = Answer(encoded(song(5, SECONDS)))
    assert build_popdb(settings=settings)["songs_kept"] == 4
    assert site.requests == ["/watch/v5", "/media/v5"]


def test_a_bot_check_ends_the_flow_with_its_own_words(
    server: str, site: LocalSite, settings: Settings
) -> None:
    site.add_page("v6", error="Sign in to confirm you are not a bot")
    with pytest.raises(OperatorError, match=r"download\.download_interval_s"):
        build_popdb(settings=settings)
    site.add_page("v6", duration=SECONDS)
    assert build_popdb(settings=settings)["songs_kept"] == 3


def test_groups_to_come_download_nothing_for_a_flow_that_broke(
    server: str, site: LocalSite, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    made: list[Parts] = []

    def remember(settings: Settings) -> Parts:
        made.append(Parts(settings))
        return made[-1]

    monkeypatch.setattr("samuel.popdb.stages.separate", broken)
    monkeypatch.setattr("flows.build_popdb.Parts", remember)
    with pytest.raises(RuntimeError, match="a bug"):
        build_popdb(settings=settings)
    with pytest.raises(OperatorError, match="the run has ended"):
        acquire_songs([Song("later", "Later")], made[0])
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SAMUEL_TEST_SITE", site.base)
    assert build_popdb(settings=settings)["songs_kept"] == 3
