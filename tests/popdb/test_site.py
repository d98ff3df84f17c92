"""What yt-dlp may do and say: on a site of our own."""

import logging
from pathlib import Path

import pytest

from samuel.config import DownloadConfig
from samuel.doctor import require
from samuel.errors import InputError, MissingPartError
from samuel.popdb.site import YtDlp, file_options, read_cookies, site_options
from samuel.popdb.status import Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import Answer, LocalSite, encoded, serving, sine

HEADER = "# Netscape HTTP Cookie File\n"
COOKIES = f"{HEADER}#HttpOnly_127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tsecret-value\n"
SONG = encoded(sine(1.0))


def test_production_searches_youtube_and_nothing_else(tmp_path: Path) -> None:
    config = DownloadConfig()
    assert config.search == "ytsearch"
    options = site_options(config, tmp_path)
    with YtDlp(options) as ydl:
        assert sorted(vars(ydl)["_ies"]) == ["Youtube", "YoutubeSearch"]
        assert not ydl.params.get("enable_file_urls")
    assert options["skip_unavailable_fragments"] is False
    assert options["geo_bypass"] is False
    assert options["sleep_interval_requests"] == 0.75


def test_no_setting_gets_round_the_rules(tmp_path: Path) -> None:
    loose = {"outtmpl": "%(title)s", "allowed_extractors": ["all"], "skip_unavailable_fragments": True}
    config = DownloadConfig().model_copy(update={"ytdlp": loose})  # past the check of the settings
    options = site_options(config, tmp_path)
    assert {name: options[name] for name in loose} == {
        "outtmpl": file_options(config, tmp_path)["outtmpl"],
        "allowed_extractors": ["youtube:search$", "youtube$"],
        "skip_unavailable_fragments": False,
    }


def test_nothing_is_printed(
    site: LocalSite,
    workplace: Workplace,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    site.add_song("Here", "here", Answer(SONG), 1.0)
    site.add_song("Gone", "gone", Answer(b"", 404))
    assert [outcome.ok for outcome in workplace.outcomes("Here", "Gone")] == [True, False]
    assert capfd.readouterr() == ("", "")
    ours = [record for record in caplog.records if record.name == "samuel.popdb.site"]
    assert any("HTTP Error 404" in record.getMessage() for record in ours)
    assert {record.levelname for record in ours} == {"DEBUG"}


# --- cookies ---


@pytest.fixture
def cookies(tmp_path: Path) -> Path:
    path = tmp_path / "cookies.txt"
    path.write_text(COOKIES)
    return path


def test_cookies_are_sent_and_stay_secret(
    site: LocalSite,
    workplace: Workplace,
    cookies: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    site.add_song("Here", "here", Answer(SONG), 1.0)
    site.add_song("Refused", "refused", Answer(b"", 403))
    before = cookies.stat()
    outcomes = workplace.outcomes("Here", "Refused", cookies=cookies)
    assert [outcome.status for outcome in outcomes] == [Status.OK, Status.FORBIDDEN]
    assert len(site.headers) == 6
    assert {headers["Cookie"] for headers in site.headers} == {"session=secret-value"}
    assert (cookies.read_text(), cookies.stat().st_mtime_ns) == (COOKIES, before.st_mtime_ns)
    said = caplog.text + "".join(capfd.readouterr()) + str(outcomes)
    assert "secret" not in said
    written = [path for path in workplace.root.rglob("*") if path.is_file()]
    assert not [path for path in written if b"secret-value" in path.read_bytes()]


@pytest.mark.parametrize(
    "content",
    [
        "secret",
        "",
        '[{"name": "session", "value": "secret"}]',
        COOKIES.removeprefix(HEADER),
        f"{COOKIES}127.0.0.1 FALSE / FALSE 0 other secret\n",
        f"{COOKIES}127.0.0.1\tFALSE\t/\tsecret\n",
        f"{COOKIES}127.0.0.1\tFALSE\t/\tFALSE\tsecret\tother\tsecret\n",
        b"\xff\xfesecret",
        None,
    ],
)
def test_cookies_that_cannot_be_read_are_refused(
    content: str | bytes | None,
    cookies: Path,
    workplace: Workplace,
    site: LocalSite,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cookies.unlink()
    if content is not None:
        cookies.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"download\.cookies .*cookies\.txt: .*; (give|export)") as caught:
        workplace.outcomes("Any", cookies=cookies)
    with pytest.raises(MissingPartError, match=r"download\.cookies") as told:
        require(workplace.with_(cookies=cookies), {"csv"})
    assert "secret" not in "".join((str(caught.value), str(told.value), *capfd.readouterr()))
    assert site.requests == []


@pytest.mark.parametrize(
    "line",
    ["# a comment", "", "   ", ".x.com\tTRUE\t/\tTRUE\t\tname\t", ".x.com\tTRUE\t/\tTRUE\t1.5\tname\tv"],
)
def test_lines_that_yt_dlp_reads_are_taken(line: str, cookies: Path) -> None:
    cookies.write_text(f"{COOKIES}{line}\n")
    assert read_cookies(cookies).read() == f"{COOKIES}{line}\n"


# --- proxy, further options ---


def test_a_proxy_sees_every_request(
    site: LocalSite, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = "http://127.0.0.1:1"  # only the proxy answers for it
    monkeypatch.setenv("SAMUEL_TEST_SITE", nobody)
    with serving() as proxy:
        address, proxy.base = proxy.base, nobody
        proxy.add_video("a", Answer(SONG), 1.0)
        [outcome] = workplace.outcomes("Any", proxy=address)
    assert outcome.ok
    assert proxy.requests == ["/search", "/watch/a", "/media/a"]
    assert all(headers[":path"].startswith(nobody) for headers in proxy.headers)
    assert site.requests == []


def test_further_options_reach_yt_dlp(site: LocalSite, workplace: Workplace) -> None:
    site.answers["/search"] = Answer(b"[]", bytes_per_s=0.5)  # a byte, and two seconds of silence
    [outcome] = workplace.outcomes("Any", ytdlp={"socket_timeout": 1})
    assert (outcome.status, "timed out" in outcome.message) == (Status.NETWORK, True)
