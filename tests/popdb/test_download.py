"""What goes wrong at the site, on real yt-dlp: faults, broken downloads that are resumed, a full disk."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from yt_dlp.networking.exceptions import TransportError
from yt_dlp.utils import DownloadError, YoutubeDLError

from samuel.audio import decode_to_wav, read_wav
from samuel.errors import OperatorError
from samuel.popdb.parts import Parts
from samuel.popdb.site import classify
from samuel.popdb.status import Outcome, Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import PLUGIN_FOLDER, Answer, LocalSite, encoded, sine

ROOT = Path(__file__).resolve().parents[2]
TITLES = ("Faulty", "Next")
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * 44_100, 2)).astype(np.float32)
WHOLE = encoded(NOISE)  # 0.5 MB: noise does not get smaller
TONE = encoded(sine(1.0))


@pytest.fixture
def two(site: LocalSite) -> LocalSite:
    """A site of two songs, each the only one that its title finds."""
    for title in TITLES:
        site.add_song(title, title.lower(), Answer(WHOLE if title == "Faulty" else TONE))
    return site


def statuses(outcomes: list[Outcome]) -> list[Status]:
    return [outcome.status for outcome in outcomes]


# What tests/test_rehearsal.py does not have.
ERRORS = [
    (DownloadError("ERROR: Got error: HTTP Error 503: x. Giving up after 3 retries"), "server_error"),
    (TransportError("Connection refused"), "network"),
    (YoutubeDLError("HTTP Error 410: Gone"), "unavailable"),
    (YoutubeDLError("Private video. Sign in if you've been granted access"), "unavailable"),
    (YoutubeDLError("Requested format is not available"), "server_error"),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=[str(error) for error, _ in ERRORS])
def test_errors_without_a_site(error: YoutubeDLError, status: str) -> None:
    assert classify(error) == status


@pytest.mark.parametrize("at", ["/search?q=Check", "/watch/check"])
def test_a_bot_check_stops_the_run(at: str, two: LocalSite, workplace: Workplace) -> None:
    two.add_song("Check", "check", Answer(TONE))
    sound = two.answers.get(at)
    words = {"error": "Sign in to confirm you\u2019re not a bot"}
    two.answers[at] = Answer(json.dumps(words).encode())
    with pytest.raises(OperatorError, match=r"download\.download_interval_s"):
        workplace.outcomes("Next", "Check", "Faulty", workers=1)
    assert len(workplace.entries()) == 1
    with pytest.raises(OperatorError, match=r"download\.download_interval_s"):
        workplace.outcomes("Next", "Faulty")  # it holds until a person starts again
    assert two.queries == ["Next", "Check"]
    two.answers.pop(at)
    two.answers |= {at: sound} if sound else {}
    two.requests.clear()
    Parts(workplace.settings).rate_limiter.start_run()
    assert statuses(workplace.outcomes("Next", "Check", "Faulty")) == [Status.OK] * 3
    assert "/media/next" not in two.requests


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
    return site.sent("/media/a", "Range")


def assert_whole(workplace: Workplace) -> None:
    audio = read_wav(workplace.audio())
    np.testing.assert_allclose(audio, sine(20.0).T, atol=2 / 2**16)
    assert workplace.names() == ["audio.wav", "entry.json"]


def test_a_killed_download_is_resumed_by_who_waits(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(BODY, bytes_per_s=len(BODY) / 30, times=1), duration=20.0, ext="wav")
    process = start(workplace)
    deadline = time.monotonic() + 60
    while arrived(workplace) < len(BODY) // 50:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    other = start(workplace)
    time.sleep(2.0)  # most of which its imports take
    assert site.requests == ["/search", "/watch/a", "/media/a"]  # nothing is fetched twice
    process.kill()
    process.communicate()
    killed = arrived(workplace)
    assert other.communicate()[0].strip() == "['ok']"
    assert len(BODY) > killed > 0
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


UNREADABLE = "what was resumed cannot be read; it will be fetched anew"


def test_a_rest_of_another_file_is_fetched_anew(rest: Path, site: LocalSite, workplace: Workplace) -> None:
    rest.write_bytes(b"\xff" * (len(BODY) // 2))
    [outcome] = workplace.outcomes("Any song")
    assert (outcome.status.retryable, outcome.message) == (True, UNREADABLE)
    assert workplace.entries() == []
    workplace.search()
    assert media_requests(site)[-1] is None
    assert_whole(workplace)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_loses_nothing(rest: Path, site: LocalSite, workplace: Workplace, tmp_path: Path) -> None:
    half = rest.read_bytes()
    rest.unlink()
    rest.symlink_to("/dev/full")
    with pytest.raises(OperatorError, match="the disk is full; make room"):
        workplace.outcomes("Any song")
    assert workplace.entries() == []
    rest.unlink()
    rest.write_bytes(half)
    Parts(workplace.settings).rate_limiter.start_run()
    assert workplace.outcomes("Any song")[0].ok
    assert_whole(workplace)
    (tmp_path / "song.flac").write_bytes(TONE)
    (tmp_path / "song.wav").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):  # while it is decoded, too
        decode_to_wav(tmp_path / "song.flac", tmp_path / "song.wav")
