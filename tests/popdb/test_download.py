"""Real yt-dlp against files and a site of our own."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from yt_dlp.networking.exceptions import TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, YoutubeDLError

from samuel.audio import read_wav
from samuel.config import DownloadConfig
from samuel.errors import OperatorError, SongError
from samuel.popdb import download
from samuel.popdb.catalog import Song
from samuel.popdb.download import YOUTUBE, acquire, classify
from samuel.popdb.status import Status
from tests.popdb.site import TEST_SITE, Answer, LocalSite, encoded, serving, sine, yt_dlp_plugin

CONFIG = DownloadConfig(sleep_s=0, retries=0)
SONG = Song("0" * 20, "Any song")


@pytest.fixture(scope="module")
def _plugin() -> Iterator[None]:
    with yt_dlp_plugin():
        yield


@pytest.fixture
def site(_plugin: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSite]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as local:
        monkeypatch.setenv("SAMUEL_TEST_SITE", local.base)
        yield local


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "100 % of #1 songs?"
    path.mkdir()
    return path


def search(folder: Path, title: str = "Any song", config: DownloadConfig = CONFIG) -> dict[str, Any]:
    return acquire(replace(SONG, title=title), config, folder, TEST_SITE)


def read_file(path: Path, folder: Path, config: DownloadConfig = CONFIG) -> dict[str, Any]:
    return acquire(Song("0" * 20, path.stem, url=path.as_uri()), config, folder)


def failure(make: Callable[[], Any], folder: Path) -> SongError:
    """The error of `make`, after which the folder must be empty."""
    with pytest.raises(SongError) as caught:
        make()
    assert list(folder.iterdir()) == []
    Status(caught.value.status)
    return caught.value


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- files at hand ---


def test_file_url_gives_the_whole_song_and_nothing_else(tmp_path: Path, folder: Path) -> None:
    audio = sine(3.0)
    audio[100:110] = 1.25
    path = tmp_path / "My song.wav"
    soundfile.write(path, audio, 44_100, subtype="FLOAT")
    record = read_file(path, folder)
    np.testing.assert_array_equal(read_wav(folder / "audio.wav"), audio.T)
    assert names(folder) == ["audio.wav"]
    assert soundfile.info(folder / "audio.wav").subtype == "FLOAT"
    assert record == {
        "title": "My song",
        "video_id": None,
        "video_title": None,
        "match_score": None,
        "duration_s": 3.0,
        "peak": 1.25,
        "clipped_share": 10 / len(audio),
    }


@pytest.mark.parametrize(
    ("kind", "suffix"), [("FLAC", "flac"), ("OGG", "ogg"), ("MP3", "mp3"), ("AIFF", "aiff")]
)
def test_mono_at_22_khz_is_converted(kind: str, suffix: str, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / f"song.{suffix}"
    path.write_bytes(encoded(sine(2.0, 22_050, channels=1), 22_050, kind))
    record = read_file(path, folder)
    audio = read_wav(folder / "audio.wav")
    assert record["duration_s"] == pytest.approx(2.0, abs=0.1)
    assert record["duration_s"] == audio.shape[1] / 44_100
    np.testing.assert_array_equal(audio[0], audio[1])
    middle = audio[0, 22_050:66_150]
    assert int(np.argmax(np.abs(np.fft.rfft(middle)))) == 440  # one-hertz bins: same pitch, same speed


@pytest.mark.parametrize(
    "name",
    [
        "a: b",
        "100%",
        "100%41",
        "-rf",
        "--exec echo",
        "two\nlines",
        "\N{GUITAR}",
        "no #1",
        "why?",
        "a%(id)s",
        "~",
        "$HOME",
    ],
)
def test_hostile_file_names_are_read(name: str, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / f"{name}.flac"
    path.write_bytes(encoded(sine(1.0)))
    record = read_file(path, folder)
    assert (record["title"], record["duration_s"]) == (name, 1.0)
    assert names(folder) == ["audio.wav"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on this system")
def test_file_name_that_is_not_utf8_fails_alone(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.flac")
    path.write_bytes(encoded(sine(1.0)))
    song = Song("0" * 20, "caf", url=path.as_uri())
    error = failure(lambda: acquire(song, CONFIG, folder), folder)  # urllib reads the escapes as UTF-8
    assert error.status == Status.UNAVAILABLE
    str(error).encode()


@pytest.mark.parametrize("content", [b"", b"<html><title>Not found</title></html>", b"\x00\x01" * 5000])
def test_what_is_no_audio_fails_to_decode(content: bytes, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(content)
    assert failure(lambda: read_file(path, folder), folder).status == Status.DECODE_FAILED


def test_playlist_dressed_up_as_audio_is_not_followed(site: LocalSite, tmp_path: Path, folder: Path) -> None:
    site.answers["/secret"] = Answer(encoded(sine(1.0)))
    path = tmp_path / "song.flac"
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{site.base}/secret\n#EXT-X-ENDLIST\n")
    assert failure(lambda: read_file(path, folder), folder).status == Status.DECODE_FAILED
    assert site.requests == []


def test_audio_without_samples_fails_to_decode(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(encoded(sine(0.0), kind="WAV"))
    assert failure(lambda: read_file(path, folder), folder).status == Status.DECODE_FAILED


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value: float, tmp_path: Path, folder: Path) -> None:
    audio = sine(1.0)
    audio[-1, 1] = value
    path = tmp_path / "song.wav"
    soundfile.write(path, audio, 44_100, subtype="FLOAT")
    assert failure(lambda: read_file(path, folder), folder).status == Status.NOT_FINITE


def test_file_that_is_gone_is_unavailable(tmp_path: Path, folder: Path) -> None:
    error = failure(lambda: read_file(tmp_path / "gone.wav", folder), folder)
    assert error.status == Status.UNAVAILABLE
    assert "gone.wav" in str(error)


def test_file_over_the_longest_duration_is_too_long(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "song.flac"
    path.write_bytes(encoded(sine(2.0)))
    config = DownloadConfig(max_duration_s=1.9)
    assert failure(lambda: read_file(path, folder, config), folder).status == Status.TOO_LONG
    assert read_file(path, folder, DownloadConfig(max_duration_s=2.0))["duration_s"] == 2.0


def test_wav_beyond_its_format_is_too_long(tmp_path: Path) -> None:
    wav = tmp_path / "audio.wav"
    wav.write_bytes(encoded(sine(1.0), kind="WAV"))
    assert download._measure(wav)["duration_s"] == 1.0
    os.truncate(wav, 2**32)
    with pytest.raises(SongError) as caught:
        download._measure(wav)
    assert caught.value.status == Status.TOO_LONG


def test_a_song_is_never_a_link(site: LocalSite, folder: Path) -> None:
    site.answers["/media/a"] = Answer(encoded(sine()))
    song = Song("0" * 20, "x", url=f"{site.base}/media/a")
    assert failure(lambda: acquire(song, CONFIG, folder), folder).status == Status.UNAVAILABLE
    assert site.requests == []


# --- the search and the choice ---


def test_first_acceptable_hit_is_downloaded(site: LocalSite, folder: Path) -> None:
    site.add_video("first", Answer(encoded(sine(3.0))), title="Its title there", live_status="was_live")
    site.add_video("second", Answer(encoded(sine(3.0))))
    record = search(folder, "My title")
    assert site.queries == ["My title"]
    assert site.requests == ["/search", "/watch/first", "/media/first"]
    assert names(folder) == ["audio.wav"]
    assert read_wav(folder / "audio.wav").shape == (2, 3 * 44_100)
    assert record["peak"] == pytest.approx(0.5, abs=1e-4)
    assert {
        key: record[key] for key in ("title", "video_id", "video_title", "match_score", "duration_s")
    } == {
        "title": "My title",
        "video_id": "first",
        "video_title": "Its title there",
        "match_score": None,
        "duration_s": 3.0,
    }


def test_record_is_the_same_in_every_place(site: LocalSite, tmp_path: Path) -> None:
    site.add_video("a", Answer(encoded(sine())))
    records: list[str] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        records.append(json.dumps(search(tmp_path / name)))
    assert records[0] == records[1]
    assert "127.0.0.1" not in records[0]


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
def test_unwanted_hit_is_passed_over(fields: dict[str, Any], site: LocalSite, folder: Path) -> None:
    site.add_hit("bad", **fields)
    site.add_page("bad", **fields)
    site.add_video("good", Answer(encoded(sine())))
    assert search(folder)["video_id"] == "good"
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
    hits: list[dict[str, Any]], status: Status, site: LocalSite, folder: Path
) -> None:
    for number, fields in enumerate(hits):
        site.add_hit(f"hit{number}", **fields)
    assert failure(lambda: search(folder), folder).status == status
    assert site.requests == ["/search"]


def test_only_as_many_hits_as_asked_for_are_looked_at(site: LocalSite, folder: Path) -> None:
    site.add_hit("long", duration=1000)
    site.add_video("good", Answer(encoded(sine())))
    one, two = (DownloadConfig(sleep_s=0, search_results=count) for count in (1, 2))
    assert failure(lambda: search(folder, config=one), folder).status == Status.TOO_LONG
    assert search(folder, config=two)["video_id"] == "good"


@pytest.mark.parametrize(
    ("page", "status"),
    [({"duration": 1000}, Status.TOO_LONG), ({"live_status": "is_live"}, Status.LIVE)],
)
def test_hit_that_turns_out_otherwise_is_not_downloaded(
    page: dict[str, Any], status: Status, site: LocalSite, folder: Path
) -> None:
    site.add_hit("a", duration=3)
    site.add_page("a", **page)
    assert failure(lambda: search(folder), folder).status == status
    assert site.requests == ["/search", "/watch/a"]


def test_audio_is_preferred_to_video(site: LocalSite, folder: Path) -> None:
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
    search(folder)
    assert site.requests[-1] == "/media/audio"


def test_a_playlist_behind_a_hit_is_not_downloaded(site: LocalSite, folder: Path) -> None:
    site.add_video("inner", Answer(encoded(sine())))
    inner = site.hits.pop()
    site.add_hit("list", duration=3)
    page = {"_type": "playlist", "id": "list", "title": "A list", "entries": [inner | {"_type": "url"}]}
    site.answers["/watch/list"] = Answer(json.dumps(page).encode())
    assert failure(lambda: search(folder), folder).status == Status.UNAVAILABLE
    assert "/media/inner" not in site.requests


@pytest.mark.parametrize(
    "title",
    [
        "file:///etc/passwd", "https://example.com/watch?v=dQw4w9WgXcQ", "Backstreets", "Radioactive", "1979",
        "--exec id", "../../x", "a" * 300, "\N{GUITAR}\N{MICROPHONE}", "two\nlines", "%(title)s",
        "ytsearch3:x", "+", "x#__youtubedl_smuggle=x",
    ],
)  # fmt: skip
def test_hostile_titles_are_only_searched_for(title: str, site: LocalSite, folder: Path) -> None:
    site.add_video("a", Answer(encoded(sine())))
    assert search(folder, title)["title"] == title
    assert site.queries == [title]
    assert site.requests == ["/search", "/watch/a", "/media/a"]
    assert names(folder) == ["audio.wav"]


@pytest.mark.parametrize("title", ["", "  \n"])
def test_empty_title_is_not_searched_for(title: str, site: LocalSite, folder: Path) -> None:
    assert failure(lambda: search(folder, title), folder).status == Status.NO_MATCH
    assert site.requests == []


def test_other_extractors_do_not_run(site: LocalSite, folder: Path) -> None:
    site.add_hit("a", duration=3, ie_key="Generic", url=f"{site.base}/media/a")
    site.answers["/media/a"] = Answer(encoded(sine()), kind="audio/flac")
    error = failure(lambda: search(folder), folder)
    assert error.status == Status.UNAVAILABLE
    assert site.requests == ["/search"]


def test_file_url_from_a_video_page_is_refused(site: LocalSite, tmp_path: Path, folder: Path) -> None:
    secret = tmp_path / "secret.flac"
    secret.write_bytes(encoded(sine()))
    site.add_hit("a", duration=3)
    site.add_page("a", url=secret.as_uri(), duration=3)
    error = failure(lambda: search(folder), folder)
    assert error.status == Status.UNAVAILABLE
    assert "file:// URLs are disabled" in str(error)


def test_production_searches_youtube_and_nothing_else() -> None:
    assert YOUTUBE.search == "ytsearch"
    options = download._site_options(DownloadConfig(), Path("x"), YOUTUBE)
    with download.YoutubeDL(options) as ydl:
        assert sorted(vars(ydl)["_ies"]) == ["Youtube", "YoutubeSearch"]
        assert not ydl.params.get("enable_file_urls")
    assert options["sleep_interval"] == 10.0


def test_only_the_network_is_paced(
    site: LocalSite, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("yt_dlp.downloader.common.time.sleep", slept.append)
    config = DownloadConfig(sleep_s=7)
    path = tmp_path / "song.flac"
    path.write_bytes(encoded(sine(1.0)))
    read_file(path, folder, config)
    assert slept == []
    site.add_video("a", Answer(encoded(sine())))
    search(folder, config=config)
    assert slept == [7]


# --- faults of the site ---


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (404, Status.UNAVAILABLE),
        (410, Status.UNAVAILABLE),
        (403, Status.FORBIDDEN),
        (402, Status.RATE_LIMITED),
        (429, Status.RATE_LIMITED),
        (400, Status.SERVER_ERROR),
        (500, Status.SERVER_ERROR),
        (503, Status.SERVER_ERROR),
    ],
)
def test_http_error_of_the_media(code: int, status: Status, site: LocalSite, folder: Path) -> None:
    site.add_video("a", Answer(b"no", code))
    error = failure(lambda: search(folder), folder)
    assert (error.status, f"HTTP Error {code}" in str(error)) == (status, True)
    assert site.requests == ["/search", "/watch/a", "/media/a"]


@pytest.mark.parametrize("where", ["/search", "/watch/a"])
@pytest.mark.parametrize(("code", "status"), [(429, Status.RATE_LIMITED), (503, Status.SERVER_ERROR)])
def test_http_error_on_the_way(where: str, code: int, status: Status, site: LocalSite, folder: Path) -> None:
    site.add_video("a", Answer(encoded(sine())))
    site.answers[where] = Answer(b"no", code)
    error = failure(lambda: search(folder, "Captcha, 404 Not a Bot"), folder)
    assert error.status == status
    assert site.requests[-1] == where
    assert "\x1b" not in str(error)


def test_truncated_body_is_a_network_fault(site: LocalSite, folder: Path) -> None:
    body = encoded(sine())
    site.add_video("a", Answer(body, sent=len(body) // 2))
    assert failure(lambda: search(folder), folder).status == Status.NETWORK


def test_retries_are_made(site: LocalSite, folder: Path) -> None:
    site.add_video("a", Answer(b"", 500))
    config = DownloadConfig(sleep_s=0, retries=2)
    assert failure(lambda: search(folder, config=config), folder).status == Status.SERVER_ERROR
    assert site.requests.count("/media/a") == 3


def test_less_sound_than_promised_is_a_network_fault(site: LocalSite, folder: Path) -> None:
    site.add_video("a", Answer(encoded(sine(4.0))), duration=7.0)
    error = failure(lambda: search(folder), folder)
    assert error.status == Status.NETWORK
    assert "4.0 s arrived of the 7.0 s promised" in str(error)
    site.add_page("a", duration=5.9)
    assert search(folder)["duration_s"] == 4.0


@pytest.mark.parametrize("body", [b"<!doctype html><title>Sorry</title>", bytes(range(256)) * 100])
def test_what_is_sent_instead_of_audio_fails_to_decode(body: bytes, site: LocalSite, folder: Path) -> None:
    site.add_video("a", Answer(body, kind="audio/flac"))
    assert failure(lambda: search(folder), folder).status == Status.DECODE_FAILED


def test_damaged_audio_fails_to_decode(site: LocalSite, folder: Path) -> None:
    body = bytearray(encoded(sine()))
    body[len(body) // 2 : len(body) // 2 + 4000] = b"\xff" * 4000
    site.add_video("a", Answer(bytes(body)))
    assert failure(lambda: search(folder), folder).status == Status.DECODE_FAILED


@pytest.mark.parametrize(
    "message", ["Sign in to confirm you\u2019re not a bot", "requiring a captcha challenge"]
)
def test_bot_check_stops_the_run(message: str, site: LocalSite, folder: Path) -> None:
    site.add_hit("a", duration=3)
    site.answers["/watch/a"] = Answer(json.dumps({"error": message}).encode())
    with pytest.raises(OperatorError, match="sleep_s"):
        search(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("page", "status"),
    [
        ({"error": "Video unavailable"}, Status.UNAVAILABLE),
        ({"error": "Private video. Sign in if you've been granted access"}, Status.UNAVAILABLE),
        ({"error": "Sign in to confirm your age. It may be inappropriate for some"}, Status.AGE_GATED),
        ({"error": "This content isn't available, try again later."}, Status.RATE_LIMITED),
        ({"error": "The uploader has not made this video available in your country"}, Status.GEO_BLOCKED),
        ({"geo_restricted": "Blocked where you are"}, Status.GEO_BLOCKED),
        ({"error": "This live event will begin in 3 hours."}, Status.LIVE),
        ({"bug": "Unable to extract the player"}, Status.SERVER_ERROR),
    ],
)
def test_what_the_page_says(page: dict[str, Any], status: Status, site: LocalSite, folder: Path) -> None:
    site.add_hit("a", duration=3)
    site.answers["/watch/a"] = Answer(json.dumps(page).encode())
    assert failure(lambda: search(folder), folder).status == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (
            DownloadError("ERROR: [download] Got error: HTTP Error 503: x. Giving up after 3 retries"),
            "server_error",
        ),
        (
            DownloadError("ERROR: Got error: 5 bytes read, 7 more expected. Giving up after 3 retries"),
            "network",
        ),
        (TransportError("Connection refused"), "network"),
        (ExtractorError("Unable to download", expected=True, cause=TransportError("no route")), "network"),
        (GeoRestrictedError("Elsewhere"), "geo_blocked"),
        (YoutubeDLError("HTTP Error 408: Request Timeout"), "network"),
        (YoutubeDLError("whatever"), "unavailable"),
    ],
)
def test_errors_without_a_site(error: YoutubeDLError, status: str) -> None:
    assert classify(error) == status


# --- a full disk ---


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_while_downloading_stops_the_run(site: LocalSite, folder: Path) -> None:
    site.add_video("a", Answer(encoded(sine())))
    (folder / "source.flac.part").symlink_to("/dev/full")
    with pytest.raises(OperatorError, match="disk is full"):
        search(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_while_decoding_stops_the_run(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "song.flac"
    path.write_bytes(encoded(sine()))
    (folder / "decoded.wav").symlink_to("/dev/full")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OperatorError, match=r"disk of .* is full"):
        read_file(path, folder)


def test_nothing_is_printed(
    site: LocalSite, folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.add_video("a", Answer(encoded(sine())))
    search(folder)
    site.answers["/media/a"] = Answer(b"", 404)
    (folder / "audio.wav").unlink()
    failure(lambda: search(folder), folder)
    assert capfd.readouterr() == ("", "")
    ours = [record for record in caplog.records if record.name == "samuel.popdb.download"]
    assert any("HTTP Error 404" in record.getMessage() for record in ours)
    assert {record.levelname for record in ours} == {"DEBUG"}
