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
from tests.popdb.download.conftest import Workplace
from tests.popdb.site import PLUGIN_FOLDER, Answer, LocalSite, encoded, sine

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys
from samuel.config import Settings
from samuel.popdb.acquisition import acquire_songs
from samuel.popdb.catalog import Song

settings = Settings.model_validate_json(sys.argv[1])
print([outcome.status.value for outcome in acquire_songs([Song("0" * 20, "Any song")], settings)])
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


@pytest.fixture
def killed(site: LocalSite, workplace: Workplace) -> int:
    """A process killed in mid-download; the bytes that had arrived."""
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
    return arrived(workplace)


def test_a_killed_download_is_resumed(killed: int, site: LocalSite, workplace: Workplace) -> None:
    assert 0 < killed < len(BODY)
    workplace.search()
    assert media_requests(site) == [None, f"bytes={killed}-"]
    assert_whole(workplace)


def assert_whole(workplace: Workplace) -> None:
    audio = read_wav(workplace.audio())
    np.testing.assert_allclose(audio, sine(20.0).T, atol=2 / 2**16)
    assert workplace.names() == ["audio.wav", "entry.json"]


def test_a_site_without_ranges_sends_it_all_again(killed: int, site: LocalSite, workplace: Workplace) -> None:
    site.answers["/media/a"].ranges = False
    workplace.search()
    assert_whole(workplace)


def test_a_rest_that_is_not_of_this_file_is_fetched_anew(
    killed: int, site: LocalSite, workplace: Workplace
) -> None:
    [part] = workplace.root.glob("data/raw/.*.part/*.part")
    part.write_bytes(b"\xff" * killed)
    [outcome] = workplace.outcomes("Any song", attempts=1)
    assert (outcome.status, outcome.message) == (
        Status.NETWORK,
        "what was resumed cannot be read; it will be fetched anew",
    )
    workplace.search()
    assert media_requests(site)[-1] is None
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
