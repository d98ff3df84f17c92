"""A download that broke off goes on where it was, by real yt-dlp."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from samuel.audio import read_wav
from samuel.popdb.status import Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import PLUGIN_FOLDER, Answer, LocalSite, encoded, sine

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys
from samuel.config import Settings
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song

parts = Parts(Settings.model_validate_json(sys.argv[1]))
print([outcome.status.value for outcome in acquire_songs([Song("0" * 20, "Any song")], parts)])
"""
BODY = encoded(sine(20.0), kind="WAV")


def start(workplace: Workplace) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CODE, workplace.settings.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(PLUGIN_FOLDER)}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def arrived(workplace: Workplace) -> int:
    parts = list(workplace.root.glob("data/raw/.*.part/*.part"))
    return parts[0].stat().st_size if parts else 0


def media_requests(site: LocalSite) -> list[str | None]:
    """The ranges that were asked of the media, in order; None: the whole."""
    return [
        headers.get("Range")
        for path, headers in zip(site.requests, site.headers, strict=True)
        if path.startswith("/media/")
    ]


def assert_whole(workplace: Workplace) -> None:
    audio = read_wav(workplace.audio())
    np.testing.assert_allclose(audio, sine(20.0).T, atol=2 / 2**16)
    assert workplace.names() == ["audio.wav", "entry.json"]


def test_a_killed_download_is_resumed(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(BODY, bytes_per_s=len(BODY) / 10, times=1), duration=20.0, ext="wav")
    process = start(workplace)
    deadline = time.monotonic() + 60
    while arrived(workplace) < len(BODY) // 20:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(workplace.root.glob("data/raw/*/entry.json"))
    assert len(BODY) > (killed := arrived(workplace)) > 0
    workplace.search()
    assert media_requests(site) == [None, f"bytes={killed}-"]
    assert_whole(workplace)


@pytest.fixture
def rest(site: LocalSite, workplace: Workplace) -> Path:
    """The part of the file that a broken connection left; the site sends the whole from now on."""
    site.add_video("a", Answer(BODY, sent=len(BODY) // 2, times=1), duration=20.0, ext="wav")
    [outcome] = workplace.outcomes("Any song")
    assert outcome.status == Status.NETWORK
    [part] = workplace.root.glob("data/raw/.*.part/*.part")
    return part


def test_a_file_that_had_arrived_is_not_fetched_again(
    rest: Path, site: LocalSite, workplace: Workplace
) -> None:
    rest.unlink()
    rest.with_suffix("").write_bytes(BODY)
    site.requests.clear()
    workplace.search()
    assert site.requests == ["/watch/a"]
    assert_whole(workplace)


UNREADABLE = "what was resumed cannot be read; it will be fetched anew"
BEYOND = "unable to download video data: HTTP Error 416: Requested Range Not Satisfiable"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("source-0.wav.part", b"\xff" * (len(BODY) // 2), UNREADABLE),
        ("source-0.wav", b"\xff" * 5000, UNREADABLE),
        ("source-0.wav.part", BODY, BEYOND),
        ("source-0.wav.part", b"\xff" * (len(BODY) + 1000), BEYOND),
    ],
    ids=["no part of it", "another file", "all of it", "more than it"],
)
def test_a_rest_that_is_no_part_of_this_file_is_fetched_anew(
    name: str, content: bytes, message: str, rest: Path, site: LocalSite, workplace: Workplace
) -> None:
    rest.unlink()
    rest.with_name(name).write_bytes(content)
    [outcome] = workplace.outcomes("Any song")
    assert (outcome.status.retryable, outcome.message) == (True, message)
    assert workplace.entries() == []
    workplace.search()
    assert media_requests(site)[-1] is None
    assert_whole(workplace)


def test_a_site_without_ranges_sends_it_all_over_a_longer_rest(
    rest: Path, site: LocalSite, workplace: Workplace
) -> None:
    rest.write_bytes(b"\xff" * (len(BODY) + 1000))
    site.answers["/media/a"].ranges = False
    workplace.search()
    assert_whole(workplace)


def test_a_rest_of_another_format_is_not_used(rest: Path, site: LocalSite, workplace: Workplace) -> None:
    site.add_page("a", duration=20.0, ext="flac", format_id="other")
    site.answers["/media/a"] = Answer(encoded(sine(20.0)))
    workplace.search()
    assert media_requests(site)[1:] == [None]
    assert_whole(workplace)


def test_what_arrived_before_a_fault_is_kept_within_a_run(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(BODY, sent=len(BODY) // 2, times=1), duration=20.0, ext="wav")
    [outcome] = workplace.outcomes("Any song", attempts=2)
    assert (outcome.status, outcome.attempts) == (Status.OK, 2)
    first, second = media_requests(site)
    assert first is None
    assert 0 < int((second or "")[6:-1]) <= len(BODY) // 2
    assert_whole(workplace)


def test_two_processes_do_not_fetch_the_same_song(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(BODY, bytes_per_s=len(BODY)), duration=20.0, ext="wav")
    both = [start(workplace), start(workplace)]
    assert [process.communicate()[0].strip() for process in both] == ["['ok']"] * 2
    assert site.requests == ["/search", "/watch/a", "/media/a"]
