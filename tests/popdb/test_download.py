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
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, YoutubeDLError

from samuel.audio import decode_to_wav, read_wav
from samuel.errors import OperatorError
from samuel.popdb.parts import Parts
from samuel.popdb.site import classify
from samuel.popdb.status import Outcome, Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import PLUGIN_FOLDER, Answer, LocalSite, encoded, sine

ROOT = Path(__file__).resolve().parents[2]
SEARCH, PAGE, MEDIA = "/search?q=Faulty", "/watch/faulty", "/media/faulty"
TITLES = ("Faulty", "Next")
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * 44_100, 2)).astype(np.float32)
WHOLE = encoded(NOISE)  # 0.5 MB: noise does not get smaller
TONE = encoded(sine(1.0))
MP3 = encoded(sine(4.0), kind="MP3")
WEB_PAGE = b"\n <!DOCTYPE html><title>Sorry</title>"


@pytest.fixture
def two(site: LocalSite) -> LocalSite:
    """A site of two songs, each the only one that its title finds."""
    for title in TITLES:
        site.add_song(title, title.lower(), Answer(WHOLE if title == "Faulty" else TONE))
    return site


def statuses(outcomes: list[Outcome]) -> list[Status]:
    return [outcome.status for outcome in outcomes]


def test_what_is_promised_bounds_what_arrives(two: LocalSite, workplace: Workplace) -> None:
    two.answers[SEARCH] = Answer(b"no", 404)  # of the search, which says nothing of the song
    assert statuses(workplace.outcomes("Faulty")) == [Status.SERVER_ERROR]
    del two.answers[SEARCH]
    two.add_page("faulty", ext="mp3", duration=4.0)
    two.answers[MEDIA] = Answer(MP3, length=len(MP3) // 4)
    two.add_song("A little off", "off", Answer(encoded(sine(4.0))), duration=5.9)
    cut, off = workplace.outcomes("Faulty", "A little off")
    assert (cut.status, off.record["duration_s"]) == (Status.NETWORK, 4.0)
    assert "breaks off (0.81 s of the 4.0 s" in cut.message


@pytest.mark.parametrize("at", [SEARCH, PAGE, MEDIA])
def test_a_title_is_no_message_of_the_site(at: str, site: LocalSite, workplace: Workplace) -> None:
    title = "Captcha, I am not a bot, HTTP Error 429, No space left on device"
    site.add_song(title, "faulty", Answer(TONE))
    site.answers[at.replace("Faulty", title)] = Answer(b"[" * 99, sent=9)
    assert statuses(workplace.outcomes(title)) == [Status.NETWORK]


# What tests/test_rehearsal.py does not have.
ERRORS = [
    (DownloadError("ERROR: Got error: HTTP Error 503: x. Giving up after 3 retries"), "server_error"),
    (DownloadError("ERROR: Got error: 5 bytes read, 7 more expected. Giving up after 3 retries"), "network"),
    (TransportError("Connection refused"), "network"),
    (ExtractorError("Unable to download", expected=True, cause=TransportError("no route")), "network"),
    (GeoRestrictedError("Elsewhere"), "geo_blocked"),
    (YoutubeDLError("HTTP Error 402: Payment Required"), "rate_limited"),
    (YoutubeDLError("HTTP Error 408: Request Timeout"), "network"),
    (YoutubeDLError("HTTP Error 410: Gone"), "unavailable"),
    (YoutubeDLError("The downloaded file is empty; did not get any data blocks"), "network"),
    (YoutubeDLError("Private video. Sign in if you've been granted access"), "unavailable"),
    (YoutubeDLError("This content isn't available, try again later."), "rate_limited"),
    (YoutubeDLError("The uploader has not made this video available in your country"), "geo_blocked"),
    (YoutubeDLError("This live event will begin in 3 hours."), "live"),
    # What may concern every song is not final.
    (YoutubeDLError("Requested format is not available"), "server_error"),
    (YoutubeDLError("Unable to extract the player"), "server_error"),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=[str(error) for error, _ in ERRORS])
def test_errors_without_a_site(error: YoutubeDLError, status: str) -> None:
    assert classify(error) == status


# --- what stops the run ---


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


def test_a_run_of_faults_stops_the_run(site: LocalSite, workplace: Workplace) -> None:
    for title in "ABCDE":
        site.add_song(title, title, Answer(b"", 429))
    with pytest.raises(OperatorError, match=r"3 requests .* rate_limited: .*download\.download_interval_s"):
        workplace.outcomes(*"ABCDE", stop_after=3, workers=1)
    assert site.queries == ["A", "B", "C"]


# --- a download that broke off goes on where it was ---

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


def test_a_killed_download_is_resumed_by_the_process_that_waits(
    site: LocalSite, workplace: Workplace
) -> None:
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
BEYOND = "unable to download video data: HTTP Error 416: Requested Range Not Satisfiable"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("source-0.wav.part", b"\xff" * (len(BODY) // 2), UNREADABLE),
        ("source-0.wav", b"\xff" * 5000, UNREADABLE),
        ("source-0.wav.part", BODY, BEYOND),
    ],
    ids=["no part of it", "another file", "all of it"],
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


# --- a full disk ---


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_stops_the_run_and_loses_nothing(
    rest: Path, site: LocalSite, workplace: Workplace, tmp_path: Path
) -> None:
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


def test_little_room_stops_a_download_that_failed(
    two: LocalSite, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samuel.popdb.site.DISK_RESERVE_BYTES", 2**60)
    two.answers[MEDIA] = Answer(WHOLE, sent=300_000)
    with pytest.raises(OperatorError, match="the disk is full; make room"):
        workplace.outcomes("Faulty")
