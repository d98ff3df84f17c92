"""Songs searched for, chosen and downloaded by real yt-dlp, from a site that may send anything."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel import audio
from samuel.audio import decode_to_wav, read_wav
from samuel.errors import OperatorError
from samuel.popdb import acquire as acquisition
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from tests.popdb.conftest import Workplace
from tests.popdb.site import Answer, LocalSite, encoded, sine

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


def test_no_match_lists_every_candidate(site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("other", title="Another title altogether", duration=3)
    [outcome] = workplace.outcomes("Wanted", policy="scored")
    assert (outcome.stage, outcome.status, outcome.ok) == ("match", Status.NO_MATCH, False)
    assert verdicts(outcome) == [("other", "no_match")]


def test_record_is_the_same_in_every_place(site: LocalSite, tmp_path: Path) -> None:
    site.add_video("a", TONE)
    one, two = (Workplace(tmp_path / name).search() for name in ("one", "two"))
    found = [record | {"candidates": list(record["candidates"])} for record in (one, two)]
    assert found[0] == found[1]
    assert "127.0.0.1" not in repr(found[0])


def test_only_as_many_hits_as_asked_for_are_looked_at(site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("long", duration=1000)
    site.add_video("good", TONE)
    assert workplace.failure(lambda: workplace.search(search_results=1)).status == Status.TOO_LONG
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


def test_where_all_are_gone_the_status_is_that_of_the_best(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("first", GONE)
    site.add_video("second", Answer(b"no audio"))
    [outcome] = workplace.outcomes("Any")
    assert (outcome.stage, outcome.status) == ("download", Status.UNAVAILABLE)
    assert verdicts(outcome) == [("first", "unavailable"), ("second", "decode_failed")]


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


def test_a_second_try_comes_after_the_other_songs(site: LocalSite, workplace: Workplace) -> None:
    for name in ("first", "second"):
        site.add_video(name, TONE, title=name.title())
    site.answers["/media/first"] = Answer(TONE.body, status=503, times=1)
    first, second = workplace.outcomes("First", "Second", policy="scored", attempts=2, workers=1)
    assert (first.status, first.attempts, second.attempts) == (Status.OK, 2, 1)
    media = [path for path in site.requests if "media" in path]
    assert media == ["/media/first", "/media/second", "/media/first"]


def test_one_title_is_searched_once_and_one_video_fetched_once(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", TONE)
    songs = [Song(str(number), "Any", duration_s=3.0 + number) for number in range(3)]
    outcomes = workplace.outcomes(*songs, workers=3)
    assert [outcome.song for outcome in outcomes] == songs
    assert site.requests == ["/search", "/watch/a", "/media/a"]
    other = workplace.outcomes("Another title", workers=2)
    assert site.requests == ["/search", "/watch/a", "/media/a", "/search"]
    assert len({outcome.record["audio_sha256"] for outcome in outcomes + other}) == 1


def test_another_policy_asks_for_no_new_search(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("first", TONE, title="Something else")
    site.add_video("best", TONE, title="Wanted")
    assert workplace.search("Wanted")["video_id"] == "first"
    assert workplace.search("Wanted", policy="scored")["video_id"] == "best"
    assert site.requests.count("/search") == 1


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


def test_old_failures_do_not_stop_a_run_and_are_given_up(site: LocalSite, workplace: Workplace) -> None:
    titles = [f"Song {letter * 5}" for letter in "abcdef"]
    for title in titles:
        site.add_video(title[-1], BLOCKED, title=title)
    hits: dict[str, Any] = {"policy": "scored", "search_results": 8}
    workplace.outcomes(*titles, stop_after=100, **hits)
    site.requests.clear()
    outcomes = workplace.outcomes(*titles, stop_after=3, workers=1, **hits)
    assert [outcome.status for outcome in outcomes] == [Status.FORBIDDEN] * 6
    assert len([path for path in site.requests if "media" in path]) == 3
    assert [outcome.did_work for outcome in outcomes] == [True] * 3 + [False] * 3


class Asking:
    """Counts how often it was entered, and the requests before."""

    def __init__(self, site: LocalSite) -> None:
        self.site, self.times, self.before = site, 0, -1

    def __enter__(self) -> None:
        self.times, self.before = self.times + 1, len(self.site.requests)

    def __exit__(self, *_: object) -> None:
        pass


def test_what_is_held_for_the_site_is_held_only_where_it_is_asked(
    site: LocalSite, workplace: Workplace
) -> None:
    site.add_video("there", TONE)
    asking, done = Asking(site), list[bool]()

    def acquire(*titles: str) -> list[bool]:
        done.clear()
        songs = [Song(title, title) for title in titles]
        outcomes = acquisition.acquire_songs(
            songs, Parts(workplace.settings), lambda outcome: done.append(outcome.did_work), asking
        )
        return [outcome.did_work for outcome in outcomes]

    assert acquire("Any") == done == [True]
    assert (asking.times, asking.before) == (1, 0)
    asked = len(site.requests)
    assert acquire("Any") == done == [False]
    assert (asking.times, len(site.requests)) == (1, asked)
    assert acquire("Another", "Any") == [True, False]
    assert done == [False, True]  # what is known comes first
    assert (asking.times, asking.before) == (2, asked)


def test_what_may_have_passed_asks_the_site(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("blocked", BLOCKED)
    workplace.outcomes("Any")
    song, parts = Song("1", "Any"), Parts(workplace.settings)
    assert acquisition.known([song], parts) == {}
    site.answers["/media/blocked"] = GONE
    workplace.outcomes("Any")
    assert acquisition.known([song], parts)[0].status == Status.UNAVAILABLE


# --- hostile titles, hits and pages ---


@pytest.mark.parametrize(
    "title",
    [
        "file:///etc/passwd", "https://example.com/watch?v=dQw4w9WgXcQ", "Backstreets", "1979", "TRUE",
        "dQw4w9WgXcQ", "--exec touch x", "../../x", "a" * 300, "\N{GUITAR}\N{MICROPHONE}", "two\nlines",
        "%(title)s", "ytsearch3:x", "+", "x#__youtubedl_smuggle=x",
    ],
)  # fmt: skip
def test_hostile_titles_are_only_searched_for(title: str, site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", TONE)
    assert workplace.search(title)["video_id"] == "a"
    assert site.queries == [title]
    assert site.requests == ["/search", "/watch/a", "/media/a"]
    assert workplace.names() == ["audio.wav", "entry.json"]


def test_empty_title_is_not_searched_for(site: LocalSite, workplace: Workplace) -> None:
    for title in ("", "  \n"):
        assert workplace.failure(lambda title=title: workplace.search(title)).status == Status.NO_MATCH
    assert site.requests == []


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


@pytest.mark.parametrize(
    "page",
    [
        {"formats": 5}, {"formats": ["x"]}, {"url": "http://["}, {"abr": []}, {"chapters": 5},
        {"subtitles": 5}, {"http_headers": 5}, {"protocol": 5}, {"_type": "zzz"}, {"thumbnails": 7},
        {"error": "\ud800"}, {"timestamp": [], "upload_date": 5}, None, 5, [],
        {"duration": 10**400}, {"duration": "3"}, {"duration": -1}, {"duration": [3]},
    ],
    ids=lambda page: str(page)[:40],
)  # fmt: skip
def test_a_page_can_hold_anything(page: Any, site: LocalSite, workplace: Workplace) -> None:
    site.add_video("other", TONE, title="Other")
    site.add_video("bad", TONE, title="Bad")
    if isinstance(page, dict):
        site.add_page("bad", **{"duration": 3.0, **page})
    else:
        site.answers["/watch/bad"] = Answer(json.dumps(page).encode())
    bad, other = workplace.outcomes("Bad", "Other", policy="scored")
    assert other.ok
    assert bad.ok or bad.status.retryable or bad.status == Status.UNAVAILABLE
    bad.message.encode()


@pytest.mark.parametrize(
    "body", ["null", "5", "[null]", "[5]", "[" * 100_000, '{"a": 1}', '[{"url": "http://["}]']
)
def test_a_search_can_answer_anything(body: str, site: LocalSite, workplace: Workplace) -> None:
    site.answers["/search"] = Answer(body.encode())
    [outcome] = workplace.outcomes("Any")
    assert outcome.status in (Status.SERVER_ERROR, Status.NO_MATCH)


@pytest.mark.parametrize("record", [{}, {"hits": [{"video_id": 5}]}, {"hits": [[]]}, {"hits": 5}])
def test_a_search_that_was_tampered_with_is_named(
    record: dict[str, Any], site: LocalSite, workplace: Workplace
) -> None:
    workplace.outcomes("Any")
    [path] = workplace.root.glob("data/searches/*/entry.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"record": record}))
    with pytest.raises(OperatorError, match=f"{path.parent.name}: not what a search answers; remove it"):
        workplace.outcomes("Any")


def test_a_small_file_of_endless_silence_fills_no_disk(
    site: LocalSite, workplace: Workplace, tmp_path: Path
) -> None:
    silence = tmp_path / "silence.flac"
    silence.write_bytes(encoded(np.zeros((44_100 * 60, 2), dtype=np.float32)))
    decode_to_wav(silence, tmp_path / "silence.wav", 3.0)
    assert (tmp_path / "silence.wav").stat().st_size < 4 * 44_100 * 8
    site.add_video("a", Answer(silence.read_bytes()), duration=None)
    site.hits[0]["duration"] = 2.0
    assert workplace.outcomes("Any", max_duration_s=5)[0].status == Status.TOO_LONG


@pytest.mark.parametrize("code", [-9, -2, 255])
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
