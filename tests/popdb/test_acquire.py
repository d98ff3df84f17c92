"""Songs searched for, chosen and downloaded by real yt-dlp, from a site that may send anything."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from samuel import audio
from samuel.audio import read_wav
from samuel.config import DownloadConfig
from samuel.doctor import require
from samuel.errors import InputError, MissingPartError, OperatorError, SongError
from samuel.popdb import acquire as acquisition
from samuel.popdb.download import measure
from samuel.popdb.parts import Parts
from samuel.popdb.site import YtDlp, site_options
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import Answer, LocalSite, encoded, serving, sine

TONE = Answer(encoded(sine()))
BLOCKED, GONE = Answer(b"no", 403), Answer(b"no", 404)


def verdicts(outcome: Outcome) -> list[tuple[str, str]]:
    return [(candidate["video_id"], candidate["verdict"]) for candidate in outcome.record["candidates"]]


# --- search and choice ---


def test_first_acceptable_hit_is_downloaded(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("first", TONE, title="Its title there", live_status="was_live")
    site.add_video("second", TONE)
    record = workplace.search("My title")
    assert site.queries == ["My title"]
    assert site.requests == ["/search", "/watch/first", "/media/first"]
    assert workplace.names() == ["audio.wav", "entry.json"]
    assert read_wav(workplace.audio()).shape == (2, 3 * 44_100)
    assert record["peak"] == pytest.approx(0.5, abs=1e-4)
    found = {name: record[name] for name in ("video_id", "video_title", "duration_s")}
    assert found == {"video_id": "first", "video_title": "Its title there", "duration_s": 3.0}


def test_the_best_candidate_is_taken_and_all_are_kept(site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("other", title="Another title altogether", duration=3)
    site.add_hit("long", title="Wanted", duration=40)
    site.add_hit("live", title="Wanted", duration=3, live_status="is_live")
    site.add_video("spare", TONE, title="Wanted", duration=5.5)
    site.add_video("best", TONE, title="Artist - Wanted", duration=3.0)
    [outcome] = workplace.outcomes(Song("1", "Wanted", duration_s=3.0), policy="scored")
    assert verdicts(outcome) == [
        ("best", "chosen"), ("spare", "spare"), ("other", "no_match"), ("long", "no_match"), ("live", "live"),
    ]  # fmt: skip
    assert outcome.record["match_score"] == outcome.record["candidates"][0]["score"] >= 90
    assert "0.0 s off" in outcome.record["match_reason"]


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
    media = {"format_id": "audio", "url": f"{site.base}/media/audio", "ext": "flac", "vcodec": "none"}
    film = {"format_id": "video", "url": f"{site.base}/media/video", "ext": "mp4", "height": 1080}
    site.add_page("a", formats=[media | {"abr": 128}, film | {"abr": 128}], duration=3)
    site.answers["/media/audio"] = TONE
    workplace.search()
    assert site.requests[-1] == "/media/audio"


# --- candidates, tries and runs ---


def test_the_next_best_comes_when_the_best_is_gone(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("gone", GONE)
    site.add_video("there", TONE)
    [outcome] = workplace.outcomes("Any")
    assert outcome.record["video_id"] == "there"
    assert verdicts(outcome) == [("gone", "unavailable"), ("there", "chosen")]
    assert "404" in outcome.record["candidates"][0]["reason"]
    site.requests.clear()
    assert not workplace.outcomes("Any")[0].did_work
    assert site.requests == []


def test_a_blocked_video_gives_way_to_the_next_best_which_stays(
    site: LocalSite, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquisition, "PATIENCE", 3)
    site.add_video("blocked", BLOCKED)
    site.add_video("there", TONE)
    statuses = [workplace.outcomes("Any")[0].status for _ in range(3)]
    assert statuses == [Status.FORBIDDEN, Status.FORBIDDEN, Status.OK]
    site.answers["/media/blocked"] = TONE
    site.requests.clear()
    [outcome] = workplace.outcomes("Any")
    assert (outcome.record["video_id"], outcome.did_work) == ("there", False)
    assert site.requests == []


def test_one_title_is_searched_once_and_one_video_fetched_once(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", TONE)
    songs = [Song(str(number), "Any", duration_s=3.0 + number) for number in range(3)]
    outcomes = workplace.outcomes(*songs, workers=3)
    assert [outcome.song for outcome in outcomes] == songs
    assert site.requests == ["/search", "/watch/a", "/media/a"]
    other = workplace.outcomes("Another title", workers=2)
    assert site.requests == ["/search", "/watch/a", "/media/a", "/search"]
    assert len({outcome.record["audio_sha256"] for outcome in outcomes + other}) == 1


@pytest.mark.parametrize("page_s", [3.0, None])
def test_a_limit_holds_for_what_a_hit_understates(
    page_s: float | None, site: LocalSite, workplace: Workplace
) -> None:
    site.add_hit("a", duration=1)
    site.add_page("a", duration=page_s)
    site.answers["/media/a"] = TONE
    for _ in range(2):
        assert workplace.outcomes("Any", max_duration_s=2)[0].status == Status.TOO_LONG
    asked = ["/search", "/watch/a"] if page_s else ["/search", "/watch/a", "/media/a"]
    assert site.requests == asked
    assert workplace.outcomes("Any", max_duration_s=4)[0].ok
    asked += ["/watch/a", "/media/a"]
    [refused] = workplace.outcomes("Any", max_duration_s=2)
    assert (refused.status, refused.artifact) == (Status.TOO_LONG, None)
    assert workplace.outcomes("Any", max_duration_s=4)[0].ok
    assert site.requests == asked


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("Sign in to confirm your age", Status.AGE_GATED),
        ("not available in your country", Status.GEO_BLOCKED),
    ],
)
def test_what_a_setting_mends_is_tried_again(
    words: str, status: Status, site: LocalSite, workplace: Workplace, tmp_path: Path
) -> None:
    site.add_video("a", TONE)
    site.add_page("a", error=words)
    assert workplace.outcomes("Any")[0].status == status
    site.add_page("a", duration=3.0)
    assert workplace.outcomes("Any")[0].status == status
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n")
    assert workplace.outcomes("Any", cookies=cookies)[0].ok


def test_what_is_held_for_the_site_is_held_only_where_it_is_asked(
    site: LocalSite, workplace: Workplace
) -> None:
    site.add_video("there", TONE)
    before, done = list[int](), list[bool]()

    @contextmanager
    def asking() -> Iterator[None]:
        before.append(len(site.requests))
        yield

    def acquire(*titles: str) -> list[bool]:
        done.clear()
        songs = [Song(title, title) for title in titles]
        outcomes = acquisition.acquire_songs(
            songs, Parts(workplace.settings), lambda outcome: done.append(outcome.did_work), asking()
        )
        return [outcome.did_work for outcome in outcomes]

    assert acquire("Any") == done == [True]
    asked = len(site.requests)
    assert acquire("Any") == done == [False]
    assert acquire("Another", "Any") == [True, False]
    assert done == [False, True]  # what is known comes first
    assert before == [0, asked]


# --- hostile titles, hits and pages ---


HOSTILE_TITLES = (
    "file:///etc/passwd", "https://example.com/watch?v=dQw4w9WgXcQ", "1979", "TRUE", "dQw4w9WgXcQ",
    "--exec touch x", "../../x", "a" * 300, "\N{GUITAR}\N{MICROPHONE}", "two\nlines", "%(title)s",
    "ytsearch3:x", "+", "x#__youtubedl_smuggle=x",
)  # fmt: skip


def test_hostile_titles_are_only_searched_for(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", TONE)
    outcomes = workplace.outcomes(*HOSTILE_TITLES, " \n", workers=1)
    assert [outcome.status for outcome in outcomes] == [Status.OK] * 14 + [Status.NO_MATCH]
    assert site.queries == list(HOSTILE_TITLES)
    assert set(site.requests) == {"/search", "/watch/a", "/media/a"}
    assert workplace.names() == ["audio.wav", "entry.json"]


def test_a_hit_leads_to_no_other_extractor_playlist_or_file(
    site: LocalSite, workplace: Workplace, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.flac"
    secret.write_bytes(TONE.body)
    site.answers["/media/inner"] = Answer(TONE.body, kind="audio/flac")
    inner = {"_type": "url", "id": "inner", "url": f"{site.base}/media/inner"}
    playlist = {"_type": "playlist", "id": "list", "title": "A list", "entries": [inner]}
    site.add_hit("generic", title="Generic", duration=3, ie_key="Generic", url=f"{site.base}/media/inner")
    site.add_hit("list", title="List", duration=3)
    site.answers["/watch/list"] = Answer(json.dumps(playlist).encode())
    site.add_hit("file", title="File", duration=3)
    site.add_page("file", url=secret.as_uri(), duration=3)
    outcomes = workplace.outcomes("Generic", "List", "File", policy="scored")
    assert [outcome.status for outcome in outcomes] == [Status.UNAVAILABLE] * 3
    assert "file:// URLs are disabled" in outcomes[2].message
    assert "/media/inner" not in site.requests


PAGES: list[Any] = [
    {"formats": 5}, {"formats": ["x"]}, {"url": "http://["}, {"abr": []}, {"chapters": 5}, {"subtitles": 5},
    {"http_headers": 5}, {"protocol": 5}, {"_type": "zzz"}, {"thumbnails": 7}, {"error": "\ud800"},
    {"timestamp": [], "upload_date": 5}, None, 5, [], {"duration": 10**400}, {"duration": "3"},
    {"duration": -1}, {"duration": [3]},
]  # fmt: skip


def test_a_page_can_hold_anything(site: LocalSite, workplace: Workplace) -> None:
    for number, page in enumerate(PAGES):
        site.add_song(f"Song {number}", f"v{number}", TONE)
        if isinstance(page, dict):
            site.add_page(f"v{number}", **{"duration": 3.0, **page})
        else:
            site.answers[f"/watch/v{number}"] = Answer(json.dumps(page).encode())
    for outcome in workplace.outcomes(*(f"Song {number}" for number in range(len(PAGES)))):
        assert outcome.ok or outcome.status.retryable or outcome.status == Status.UNAVAILABLE
        outcome.message.encode()


def test_a_search_can_answer_anything(site: LocalSite, workplace: Workplace) -> None:
    for body in ("null", "5", "[null]", "[5]", "[" * 100_000, '{"a": 1}', '[{"url": "http://["}]'):
        site.answers["/search"] = Answer(body.encode())
        [outcome] = workplace.outcomes(body[:30])
        assert outcome.status in (Status.SERVER_ERROR, Status.NO_MATCH)


@pytest.mark.parametrize("record", [{}, {"hits": [{"video_id": 5}]}, {"hits": 5}])
def test_a_search_that_was_tampered_with_is_named(
    record: dict[str, Any], site: LocalSite, workplace: Workplace
) -> None:
    workplace.outcomes("Any")
    [path] = workplace.root.glob("data/searches/*/entry.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"record": record}))
    with pytest.raises(OperatorError, match=f"{path.parent.name}: not what a search answers; remove it"):
        workplace.outcomes("Any")


@pytest.mark.parametrize("code", [-9, 255])
def test_an_ffmpeg_that_was_stopped_is_no_verdict(
    code: int, site: LocalSite, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(command: list[str], **options: Any) -> "subprocess.CompletedProcess[bytes]":
        assert options["start_new_session"]  # a Ctrl-C at the terminal does not reach it
        return subprocess.CompletedProcess(command, code, b"", b"Exiting normally, received signal 2.")

    site.add_video("a", TONE)
    with monkeypatch.context() as patch:
        patch.setattr(audio.subprocess, "run", stopped)
        with pytest.raises(OperatorError, match="ffmpeg was stopped from outside"):
            workplace.outcomes("Any")
    Parts(workplace.settings).rate_limiter.start_run()
    site.requests.clear()
    [outcome] = workplace.outcomes("Any")
    assert (outcome.ok, outcome.attempts) == (True, 1)
    assert site.requests == ["/watch/a"]  # the media had arrived


# --- files at hand ---


def test_a_file_gives_the_whole_song_and_nothing_else(tmp_path: Path, workplace: Workplace) -> None:
    audio = sine(3.0)
    audio[100:110] = 1.25
    path = tmp_path / "My song.wav"
    soundfile.write(path, audio, 44_100, subtype="FLOAT")
    # Files wait for no turn.
    record = workplace.read(path, download_interval_s=600, search_interval_s=600)
    np.testing.assert_array_equal(read_wav(workplace.audio()), audio.T)
    assert workplace.names() == ["audio.wav", "entry.json"]
    assert record.pop("fingerprint")
    assert record.pop("audio_sha256")
    assert record == {
        "video_id": None,
        "video_title": None,
        "channel": None,
        "duration_s": 3.0,
        "peak": 1.25,
        "clipped_share": 10 / len(audio),
    }


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF"])
def test_mono_at_22_khz_is_converted(kind: str, tmp_path: Path, workplace: Workplace) -> None:
    path = tmp_path / f"song.{kind.lower()}"
    path.write_bytes(encoded(sine(2.0, 22_050, channels=1), 22_050, kind))
    record = workplace.read(path)
    audio = read_wav(workplace.audio())
    assert record["duration_s"] == pytest.approx(2.0, abs=0.1)
    assert record["duration_s"] == audio.shape[1] / 44_100
    np.testing.assert_array_equal(audio[0], audio[1])
    middle = audio[0, 22_050:66_150]
    assert int(np.argmax(np.abs(np.fft.rfft(middle)))) == 440  # one-hertz bins: same pitch, same speed


def test_hostile_file_names_are_read(tmp_path: Path, workplace: Workplace) -> None:
    names = ["a: b", "100%41", "-rf", "two\nlines", "\N{GUITAR}", "no #1", "why?", "a%(id)s", "~", "$HOME"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"caf\xe9"))
    songs: list[Song] = []
    for name in names:
        path = tmp_path / f"{name}.flac"
        path.write_bytes(TONE.body)
        songs.append(Song(digest_of(name), "title", url=path.as_uri()))
    assert [outcome.record.get("duration_s") for outcome in workplace.outcomes(*songs)] == [3.0] * len(songs)
    assert set(workplace.names()) == {"audio.wav", "entry.json"}


def digest_of(name: str) -> str:
    return os.fsencode(name).hex()[:20]


def test_what_is_no_audio_is_no_song(site: LocalSite, tmp_path: Path, workplace: Workplace) -> None:
    site.answers["/secret"] = TONE
    playlist = f"#EXTM3U\n#EXTINF:1,\n{site.base}/secret\n#EXT-X-ENDLIST\n".encode()
    path = tmp_path / "song.flac"
    for content in (b"", b"<html><title>Not found</title></html>", b"\x00\x01" * 5000, playlist):
        path.write_bytes(content)
        assert workplace.failure(lambda: workplace.read(path)).status == Status.DECODE_FAILED
        for failure in workplace.root.glob("data/raw/*.failed.json"):
            failure.unlink()
    assert site.requests == []
    error = workplace.failure(lambda: workplace.read(tmp_path / "gone.wav"))
    assert (error.status, str(error)) == (Status.UNAVAILABLE, "gone.wav: no such file")


def test_a_file_over_the_longest_duration_is_too_long(tmp_path: Path, workplace: Workplace) -> None:
    path = tmp_path / "song.flac"
    path.write_bytes(encoded(sine(2.0)))
    error = workplace.failure(lambda: workplace.read(path, max_duration_s=1.9))
    assert error.status == Status.TOO_LONG
    assert workplace.read(path, max_duration_s=2.0)["duration_s"] == 2.0  # the limit was raised: tried again
    [outcome] = workplace.outcomes(Song("0" * 20, "song", url=path.as_uri()), max_duration_s=1.9)
    assert (outcome.status, outcome.artifact) == (Status.TOO_LONG, None)  # fetched under a larger limit
    os.truncate(workplace.audio(), 2**32)
    with pytest.raises(SongError, match="do not fit a WAV"):
        measure(workplace.audio())


# --- what yt-dlp may do and say ---

HEADER = "# Netscape HTTP Cookie File\n"
COOKIES = f"{HEADER}#HttpOnly_127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tsecret-value\n"


def test_production_searches_youtube_and_no_setting_gets_round_it(tmp_path: Path) -> None:
    loose = {"outtmpl": "%(title)s", "allowed_extractors": ["all"], "skip_unavailable_fragments": True}
    config = DownloadConfig().model_copy(update={"ytdlp": loose})  # past the check of the settings
    options = site_options(config, tmp_path)
    assert options["outtmpl"] == {"default": "source-%(format_id)s.%(ext)s"}
    assert options["skip_unavailable_fragments"] is options["geo_bypass"] is False
    with YtDlp(options) as ydl:
        assert sorted(vars(ydl)["_ies"]) == ["Youtube", "YoutubeSearch"]
        assert not ydl.params.get("enable_file_urls")


def test_cookies_are_sent_and_stay_secret_and_nothing_is_printed(
    site: LocalSite,
    workplace: Workplace,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(COOKIES)
    site.add_song("Here", "here", TONE, 1.0)
    site.add_song("Refused", "refused", BLOCKED)
    before = cookies.stat()
    outcomes = workplace.outcomes("Here", "Refused", cookies=cookies)
    assert [outcome.status for outcome in outcomes] == [Status.OK, Status.FORBIDDEN]
    assert {headers["Cookie"] for headers in site.headers} == {"session=secret-value"}
    assert (cookies.read_text(), cookies.stat().st_mtime_ns) == (COOKIES, before.st_mtime_ns)
    assert capfd.readouterr() == ("", "")
    assert "HTTP Error 403" in caplog.text
    assert "secret" not in caplog.text + str(outcomes)
    written = [path for path in workplace.root.rglob("*") if path.is_file()]
    assert not [path for path in written if b"secret-value" in path.read_bytes()]


@pytest.mark.parametrize(
    "content",
    [
        "secret",
        '[{"name": "session", "value": "secret"}]',
        COOKIES.removeprefix(HEADER),
        f"{COOKIES}127.0.0.1 FALSE / FALSE 0 other secret\n",
        f"{COOKIES}127.0.0.1\tFALSE\t/\tFALSE\tsecret\tother\tsecret\n",
        b"\xff\xfesecret",
        None,
    ],
)
def test_cookies_that_cannot_be_read_are_refused(
    content: str | bytes | None, workplace: Workplace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cookies = tmp_path / "cookies.txt"
    if content is not None:
        cookies.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"download\.cookies .*cookies\.txt: .*; (give|export)") as caught:
        workplace.outcomes("Any", cookies=cookies)
    with pytest.raises(MissingPartError, match=r"download\.cookies") as told:
        require(workplace.with_(cookies=cookies), {"csv"})
    assert "secret" not in "".join((str(caught.value), str(told.value), *capfd.readouterr()))


def test_a_proxy_sees_every_request_and_further_options_reach_yt_dlp(
    site: LocalSite, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers["/search"] = Answer(b"[]", bytes_per_s=0.5)  # a byte, and two seconds of silence
    [outcome] = workplace.outcomes("Slow", ytdlp={"socket_timeout": 1})
    assert (outcome.status, "timed out" in outcome.message) == (Status.NETWORK, True)
    nobody = "http://127.0.0.1:1"  # only the proxy answers for it
    monkeypatch.setenv("SAMUEL_TEST_SITE", nobody)
    with serving() as proxy:
        address, proxy.base = proxy.base, nobody
        proxy.add_video("a", TONE)
        assert workplace.outcomes("Any", proxy=address)[0].ok
    assert proxy.requests == ["/search", "/watch/a", "/media/a"]
    assert all(headers[":path"].startswith(nobody) for headers in proxy.headers)
