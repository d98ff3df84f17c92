"""A site that sends anything, a machine that stops ffmpeg, settings that mend: no song is lost for good."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel import audio
from samuel.audio import decode_to_wav
from samuel.errors import OperatorError
from samuel.popdb import acquire as acquisition
from samuel.popdb.parts import Parts
from samuel.popdb.status import Status
from tests.popdb.download.conftest import Workplace
from tests.popdb.site import (
    Answer,
    LocalSite,
    encoded,
    sine,
)

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "page",
    [
        {"formats": 5}, {"formats": ["x"]}, {"url": "http://["}, {"abr": []}, {"chapters": 5},
        {"subtitles": 5}, {"http_headers": 5}, {"protocol": 5}, {"_type": "zzz"}, {"thumbnails": 7},
        {"error": "\ud800"},
        {"timestamp": [], "upload_date": 5}, None, 5, [],
    ],
    ids=str,
)  # fmt: skip
def test_a_page_can_hold_anything(page: Any, site: LocalSite, workplace: Workplace) -> None:
    site.add_video("other", Answer(encoded(sine())), title="Other")
    site.add_video("bad", Answer(encoded(sine())), title="Bad")
    if isinstance(page, dict):
        site.add_page("bad", **{"duration": 3.0, **page})
    else:
        site.answers["/watch/bad"] = Answer(json.dumps(page).encode())
    bad, other = workplace.outcomes("Bad", "Other", policy="scored")
    assert other.ok
    assert bad.ok or bad.status.retryable or bad.status == Status.UNAVAILABLE
    bad.message.encode()


@pytest.mark.parametrize("duration", [10**400, "3", -1, True, [3]])
def test_a_page_can_state_any_duration(duration: Any, site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(encoded(sine())))
    site.add_page("a", duration=duration)
    [outcome] = workplace.outcomes("Any")
    assert outcome.ok or outcome.status == Status.SERVER_ERROR


@pytest.mark.parametrize("body", ["null", "5", "[null]", "[5]", DEEP, '{"a": 1}', '[{"url": "http://["}]'])
def test_a_search_can_answer_anything(body: str, site: LocalSite, workplace: Workplace) -> None:
    site.answers["/search"] = Answer(body.encode())
    [outcome] = workplace.outcomes("Any")
    assert outcome.status in (Status.SERVER_ERROR, Status.NO_MATCH)


def test_a_small_file_of_endless_silence_fills_no_disk(tmp_path: Path) -> None:
    silence = tmp_path / "silence.flac"
    silence.write_bytes(encoded(np.zeros((44_100 * 60, 2), dtype=np.float32)))
    wav = tmp_path / "silence.wav"
    decode_to_wav(silence, wav, 3.0)
    assert wav.stat().st_size < 4 * 44_100 * 8


def test_a_small_file_of_endless_silence_is_too_long(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(encoded(np.zeros((44_100 * 60, 2), dtype=np.float32))), duration=None)
    site.hits[0]["duration"] = 2.0
    [outcome] = workplace.outcomes("Any", max_duration_s=5)
    assert outcome.status == Status.TOO_LONG


@pytest.mark.parametrize("code", [-9, -2, 255])
def test_an_ffmpeg_that_was_stopped_is_no_verdict(
    code: int, site: LocalSite, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run

    def stopped(command: list[str], **options: Any) -> "subprocess.CompletedProcess[bytes]":
        assert options["start_new_session"]  # a Ctrl-C at the terminal does not reach it
        return subprocess.CompletedProcess(command, code, b"", b"Exiting normally, received signal 2.")

    site.add_video("a", Answer(encoded(sine())))
    monkeypatch.setattr(audio.subprocess, "run", stopped)
    with pytest.raises(OperatorError, match="ffmpeg was stopped from outside"):
        workplace.outcomes("Any")
    monkeypatch.setattr(audio.subprocess, "run", real)
    Parts(workplace.settings).rate_limiter.start_run()
    site.requests.clear()
    [outcome] = workplace.outcomes("Any")
    assert (outcome.ok, outcome.attempts) == (True, 1)
    assert site.requests == ["/watch/a"]  # the media had arrived


def test_what_took_the_place_of_a_blocked_video_stays(
    site: LocalSite, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquisition, "PATIENCE", 2)
    site.add_video("blocked", Answer(b"no", 403))
    site.add_video("there", Answer(encoded(sine())))
    for _ in range(2):
        workplace.outcomes("Any")
    site.answers["/media/blocked"] = Answer(encoded(sine()))
    site.requests.clear()
    [outcome] = workplace.outcomes("Any")
    assert (outcome.record["video_id"], outcome.did_work) == ("there", False)
    assert site.requests == []


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
    site.add_video("a", Answer(encoded(sine())))
    site.add_page("a", error=words)
    assert workplace.outcomes("Any")[0].status == status
    site.add_page("a", duration=3.0)
    assert workplace.outcomes("Any")[0].status == status
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n")
    assert workplace.outcomes("Any", cookies=cookies)[0].ok


@pytest.mark.parametrize(
    "words",
    [
        "Requested format is not available",
        "Only images are available",
        "The page needs to be reloaded",
        "Huh?",
    ],
)
def test_what_may_concern_every_song_is_not_final(words: str, site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(encoded(sine())))
    site.add_page("a", error=words)
    assert workplace.outcomes("Any")[0].status == Status.SERVER_ERROR


def test_many_old_failures_do_not_stop_a_run(site: LocalSite, workplace: Workplace) -> None:
    titles = [f"Song {letter * 5}" for letter in "abcdefgh"]
    for title in titles:
        site.add_video(title[-1], Answer(b"no", 403), title=title)
    workplace.outcomes(*titles, policy="scored", stop_after=100, search_results=8)
    site.requests.clear()
    outcomes = workplace.outcomes(*titles, policy="scored", stop_after=3, workers=1, search_results=8)
    assert [outcome.status for outcome in outcomes] == [Status.FORBIDDEN] * 8
    assert len([path for path in site.requests if "media" in path]) == 3
    assert [outcome.did_work for outcome in outcomes] == [True] * 3 + [False] * 5
