"""Search and choice on a site of our own, by real yt-dlp."""

import json
from pathlib import Path
from typing import Any

import pytest

from samuel.audio import read_wav
from samuel.popdb.status import Status
from tests.popdb.download.conftest import Workplace
from tests.popdb.site import (
    Answer,
    LocalSite,
    encoded,
    sine,
)


def test_first_acceptable_hit_is_downloaded(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("first", Answer(encoded(sine(3.0))), title="Its title there", live_status="was_live")
    site.add_video("second", Answer(encoded(sine(3.0))))
    record = workplace.search("My title")
    assert site.queries == ["My title"]
    assert site.requests == ["/search", "/watch/first", "/media/first"]
    assert workplace.names() == ["audio.wav", "entry.json"]
    assert read_wav(workplace.audio()).shape == (2, 3 * 44_100)
    assert record["peak"] == pytest.approx(0.5, abs=1e-4)
    found = {name: record[name] for name in ("video_id", "video_title", "duration_s")}
    assert found == {"video_id": "first", "video_title": "Its title there", "duration_s": 3.0}


def test_record_is_the_same_in_every_place(site: LocalSite, tmp_path: Path) -> None:
    site.add_video("a", Answer(encoded(sine())))
    one, two = (Workplace(tmp_path / name).search() for name in ("one", "two"))
    found = [record | {"candidates": list(record["candidates"])} for record in (one, two)]
    assert found[0] == found[1]
    assert "127.0.0.1" not in repr(found[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"duration": 900.5},
        {"duration": 3.0, "live_status": "is_live"},
        {"duration": 3.0, "live_status": "is_upcoming"},
        {"duration": 3.0, "live_status": "post_live"},
        {"duration": None},
        {"duration": 3.0, "url": "file:///etc/passwd"},
    ],
)
def test_unwanted_hit_is_passed_over(fields: dict[str, Any], site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("bad", **fields)
    site.add_page("bad", **fields)
    site.add_video("good", Answer(encoded(sine())))
    assert workplace.search()["video_id"] == "good"
    assert site.requests == ["/search", "/watch/good", "/media/good"]


@pytest.mark.parametrize(
    ("hits", "status"),
    [
        ([{"duration": 901}, {"duration": 5000}], Status.TOO_LONG),
        ([{"duration": 3, "live_status": "is_live"}, {"live_status": "is_upcoming"}], Status.LIVE),
        ([{"duration": 901}, {"live_status": "is_live"}], Status.NO_MATCH),
        ([{"duration": None}], Status.NO_MATCH),
        ([], Status.NO_MATCH),
    ],
)
def test_reason_when_no_hit_will_do(
    hits: list[dict[str, Any]], status: Status, site: LocalSite, workplace: Workplace
) -> None:
    for number, fields in enumerate(hits):
        site.add_hit(f"hit{number}", **fields)
    assert workplace.failure(workplace.search).status == status
    assert site.requests == ["/search"]


def test_only_as_many_hits_as_asked_for_are_looked_at(site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("long", duration=1000)
    site.add_video("good", Answer(encoded(sine())))
    error = workplace.failure(lambda: workplace.search(search_results=1))
    assert error.status == Status.TOO_LONG
    assert workplace.search(search_results=2)["video_id"] == "good"


@pytest.mark.parametrize(
    ("page", "status"),
    [({"duration": 1000}, Status.TOO_LONG), ({"live_status": "is_live"}, Status.LIVE)],
)
def test_hit_that_turns_out_otherwise_is_not_downloaded(
    page: dict[str, Any], status: Status, site: LocalSite, workplace: Workplace
) -> None:
    site.add_hit("a", duration=3)
    site.add_page("a", **page)
    assert workplace.failure(workplace.search).status == status
    assert site.requests == ["/search", "/watch/a"]


def test_audio_is_preferred_to_video(site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("a", duration=3)
    formats = [
        {
            "format_id": "audio",
            "url": f"{site.base}/media/audio",
            "ext": "flac",
            "vcodec": "none",
            "abr": 128,
        },
        {"format_id": "video", "url": f"{site.base}/media/video", "ext": "mp4", "height": 1080, "abr": 128},
    ]
    site.add_page("a", formats=formats, duration=3)
    site.answers["/media/audio"] = Answer(encoded(sine()))
    workplace.search()
    assert site.requests[-1] == "/media/audio"


def test_a_playlist_behind_a_hit_is_not_downloaded(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("inner", Answer(encoded(sine())))
    inner = site.hits.pop()
    site.add_hit("list", duration=3)
    page = {"_type": "playlist", "id": "list", "title": "A list", "entries": [inner | {"_type": "url"}]}
    site.answers["/watch/list"] = Answer(json.dumps(page).encode())
    assert workplace.failure(workplace.search).status == Status.UNAVAILABLE
    assert "/media/inner" not in site.requests


@pytest.mark.parametrize(
    "title",
    [
        "file:///etc/passwd", "https://example.com/watch?v=dQw4w9WgXcQ", "Backstreets", "Radioactive", "1979",
        "TRUE", "dQw4w9WgXcQ", "--exec touch x",
        "--exec id", "../../x", "a" * 300, "\N{GUITAR}\N{MICROPHONE}", "two\nlines", "%(title)s",
        "ytsearch3:x", "+", "x#__youtubedl_smuggle=x",
    ],
)  # fmt: skip
def test_hostile_titles_are_only_searched_for(title: str, site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(encoded(sine())))
    assert workplace.search(title)["video_id"] == "a"
    assert site.queries == [title]
    assert site.requests == ["/search", "/watch/a", "/media/a"]
    assert workplace.names() == ["audio.wav", "entry.json"]


@pytest.mark.parametrize("title", ["", "  \n"])
def test_empty_title_is_not_searched_for(title: str, site: LocalSite, workplace: Workplace) -> None:
    assert workplace.failure(lambda: workplace.search(title)).status == Status.NO_MATCH
    assert site.requests == []


def test_other_extractors_do_not_run(site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("a", duration=3, ie_key="Generic", url=f"{site.base}/media/a")
    site.answers["/media/a"] = Answer(encoded(sine()), kind="audio/flac")
    error = workplace.failure(workplace.search)
    assert error.status == Status.UNAVAILABLE
    assert site.requests == ["/search"]


def test_file_url_from_a_video_page_is_refused(site: LocalSite, tmp_path: Path, workplace: Workplace) -> None:
    secret = tmp_path / "secret.flac"
    secret.write_bytes(encoded(sine()))
    site.add_hit("a", duration=3)
    site.add_page("a", url=secret.as_uri(), duration=3)
    error = workplace.failure(workplace.search)
    assert error.status == Status.UNAVAILABLE
    assert "file:// URLs are disabled" in str(error)
