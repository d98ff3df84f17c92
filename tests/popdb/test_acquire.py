"""Songs searched for, chosen and downloaded by real yt-dlp, from a site that may send anything."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from samuel.config import DownloadConfig
from samuel.errors import InputError
from samuel.popdb.site import YtDlp, site_options
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import Answer, LocalSite, encoded, serving, sine

TONE = Answer(encoded(sine()))
BLOCKED, GONE = Answer(b"no", 403), Answer(b"no", 404)


def verdicts(outcome: Outcome) -> list[tuple[str, str]]:
    return [(candidate["video_id"], candidate["verdict"]) for candidate in outcome.record["candidates"]]


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


def test_one_title_is_searched_once_and_one_video_fetched_once(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", TONE)
    songs = [Song(str(number), "Any", duration_s=3.0 + number) for number in range(3)]
    outcomes = workplace.outcomes(*songs, workers=3)
    assert [outcome.song for outcome in outcomes] == songs
    assert site.requests == ["/search", "/watch/a", "/media/a"]
    other = workplace.outcomes("Another title", workers=2)
    assert site.requests == ["/search", "/watch/a", "/media/a", "/search"]
    assert len({outcome.record["audio_sha256"] for outcome in outcomes + other}) == 1


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


def test_a_hit_leads_nowhere_else(site: LocalSite, workplace: Workplace, tmp_path: Path) -> None:
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


def test_no_signature_of_an_address_is_kept_or_logged(
    site: LocalSite, workplace: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    url = "http://127.0.0.1:99999/a?sig=s3cret"
    for number, page in enumerate(({"url": url}, {"error": f"see {url} or http://me:s3cret@host"})):
        site.add_song(f"Song {number}", f"v{number}", TONE)
        site.add_page(f"v{number}", duration=3.0, **page)
    with caplog.at_level(logging.DEBUG):
        outcomes = workplace.outcomes("Song 0", "Song 1")
    assert all("127.0.0.1:99999/a?…" in outcome.message for outcome in outcomes)
    kept = "".join(path.read_text(errors="replace") for path in workplace.root.rglob("*") if path.is_file())
    assert "s3cret" not in kept + caplog.text + str(outcomes)


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


@pytest.mark.parametrize(
    "content",
    [
        "secret",
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
    assert "secret" not in "".join((str(caught.value), *capfd.readouterr()))
