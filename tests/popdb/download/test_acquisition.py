"""Several songs, candidates and runs, by real yt-dlp."""

from typing import Any

import pytest

from samuel.popdb import acquire as acquisition
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Status
from tests.popdb.download.conftest import Workplace
from tests.popdb.site import (
    Answer,
    LocalSite,
    encoded,
    sine,
)


def verdicts(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(candidate["video_id"], candidate["verdict"]) for candidate in record["candidates"]]


def test_the_best_candidate_is_taken_and_all_are_kept(site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("other", title="Another title altogether", duration=3)
    site.add_hit("long", title="Wanted", duration=40)
    site.add_hit("live", title="Wanted", duration=3, live_status="is_live")
    site.add_video("spare", Answer(encoded(sine())), title="Wanted", duration=5.5)
    site.add_video("best", Answer(encoded(sine())), title="Artist - Wanted", duration=3.0)
    [outcome] = workplace.outcomes(Song("1", "Wanted", duration_s=3.0), policy="scored")
    assert verdicts(outcome.record) == [
        ("best", "chosen"), ("spare", "spare"), ("other", "no_match"), ("long", "no_match"), ("live", "live"),
    ]  # fmt: skip
    assert outcome.record["match_score"] == outcome.record["candidates"][0]["score"] >= 90
    assert "0.0 s off" in outcome.record["match_reason"]


def test_no_match_tells_of_every_candidate(site: LocalSite, workplace: Workplace) -> None:
    site.add_hit("other", title="Another title altogether", duration=3)
    [outcome] = workplace.outcomes("Wanted", policy="scored")
    assert (outcome.stage, outcome.status, outcome.ok) == ("match", Status.NO_MATCH, False)
    assert verdicts(outcome.record) == [("other", "no_match")]


def test_the_next_best_comes_when_the_best_is_gone(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("gone", Answer(b"no", 404))
    site.add_video("there", Answer(encoded(sine())))
    [outcome] = workplace.outcomes("Any")
    assert outcome.record["video_id"] == "there"
    assert verdicts(outcome.record) == [("gone", "unavailable"), ("there", "chosen")]
    assert "404" in outcome.record["candidates"][0]["reason"]
    site.requests.clear()
    assert not workplace.outcomes("Any")[0].did_work
    assert site.requests == []


def test_all_gone_is_told_of_the_best(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("first", Answer(b"no", 404))
    site.add_video("second", Answer(b"no audio"))
    [outcome] = workplace.outcomes("Any")
    assert (outcome.stage, outcome.status) == ("download", Status.UNAVAILABLE)
    assert verdicts(outcome.record) == [("first", "unavailable"), ("second", "decode_failed")]


def test_a_passing_fault_keeps_to_the_best_for_a_while(
    site: LocalSite, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquisition, "PATIENCE", 3)
    site.add_video("blocked", Answer(b"no", 403))
    site.add_video("there", Answer(encoded(sine())))
    statuses = [workplace.outcomes("Any")[0].status for _ in range(3)]
    assert statuses == [Status.FORBIDDEN, Status.FORBIDDEN, Status.OK]


def test_a_second_try_comes_after_the_other_songs(site: LocalSite, workplace: Workplace) -> None:
    for name in ("first", "second"):
        site.add_video(name, Answer(encoded(sine())), title=name.title())
    site.answers["/media/first"] = Answer(encoded(sine()), status=503, times=1)
    first, second = workplace.outcomes("First", "Second", policy="scored", attempts=2, workers=1)
    assert (first.status, first.attempts, second.attempts) == (Status.OK, 2, 1)
    assert [path for path in site.requests if "media" in path] == [
        "/media/first", "/media/second", "/media/first",
    ]  # fmt: skip


def test_one_title_is_searched_once_and_one_video_fetched_once(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(encoded(sine())))
    songs = [Song(str(number), "Any", duration_s=3.0 + number) for number in range(3)]
    outcomes = workplace.outcomes(*songs, workers=3)
    assert [outcome.song for outcome in outcomes] == songs
    assert site.requests == ["/search", "/watch/a", "/media/a"]
    assert len({outcome.record["audio_sha256"] for outcome in outcomes}) == 1


def test_another_policy_asks_for_no_new_search(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("first", Answer(encoded(sine())), title="Something else")
    site.add_video("best", Answer(encoded(sine())), title="Wanted")
    assert workplace.search("Wanted")["video_id"] == "first"
    assert workplace.search("Wanted", policy="scored")["video_id"] == "best"
    assert site.requests.count("/search") == 1


def test_a_larger_limit_lets_a_longer_song_in(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("a", Answer(encoded(sine())))
    assert workplace.outcomes("Any", max_duration_s=2)[0].status == Status.TOO_LONG
    assert workplace.search("Any", max_duration_s=4)["duration_s"] == 3.0
    assert site.requests == ["/search", "/watch/a", "/media/a"]


@pytest.mark.parametrize("page_s", [3.0, None])
def test_a_limit_holds_for_what_a_hit_understates(
    page_s: float | None, site: LocalSite, workplace: Workplace
) -> None:
    site.add_hit("a", duration=1)
    site.add_page("a", duration=page_s)
    site.answers["/media/a"] = Answer(encoded(sine(3.0)))
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


def test_two_titles_of_one_video_fetch_it_once(site: LocalSite, workplace: Workplace) -> None:
    site.add_song("One title", "a", Answer(encoded(sine())))
    site.found["Another"] = ["a"]
    one, other = workplace.outcomes("One title", "Another", workers=2)
    assert one.ok
    assert other.record["audio_sha256"] == one.record["audio_sha256"]
    assert sorted(site.requests) == ["/media/a", "/search", "/search", "/watch/a"]


def test_songs_that_fail_again_say_nothing_of_the_site(site: LocalSite, workplace: Workplace) -> None:
    titles = [f"Song {letter * 5}" for letter in "abcd"]
    for title in titles:
        site.add_video(title[-1], Answer(b"no", 403), title=title)
    for title in titles:  # one at a time, a good answer between
        workplace.outcomes(title, policy="scored", stop_after=100)
    again = workplace.outcomes(*titles, policy="scored", stop_after=3)
    assert [outcome.status for outcome in again] == [Status.FORBIDDEN] * 4


class Asking:
    """Held while the site is asked, and how often that was."""

    def __init__(self, site: LocalSite) -> None:
        self.site, self.times, self.before = site, 0, -1

    def __enter__(self) -> None:
        self.times, self.before = self.times + 1, len(self.site.requests)

    def __exit__(self, *_: object) -> None:
        pass


def test_what_is_held_for_the_site_is_held_only_where_it_is_asked(
    site: LocalSite, workplace: Workplace
) -> None:
    site.add_video("there", Answer(encoded(sine())))
    asking, told = Asking(site), list[bool]()

    def acquire(*titles: str) -> list[bool]:
        told.clear()
        songs = [Song(title, title) for title in titles]
        outcomes = acquisition.acquire_songs(
            songs, Parts(workplace.settings), lambda outcome: told.append(outcome.did_work), asking
        )
        return [outcome.did_work for outcome in outcomes]

    assert acquire("Any") == told == [True]
    assert (asking.times, asking.before) == (1, 0)
    asked = len(site.requests)
    assert acquire("Any") == told == [False]
    assert (asking.times, len(site.requests)) == (1, asked)
    assert acquire("Another", "Any") == [True, False]
    assert told == [False, True]  # what is known comes first
    assert (asking.times, asking.before) == (2, asked)


def test_what_is_worth_another_try_asks_the_site(site: LocalSite, workplace: Workplace) -> None:
    site.add_video("blocked", Answer(b"no", 403))
    workplace.outcomes("Any")
    song = Song("1", "Any")
    assert acquisition.known([song], Parts(workplace.settings)) == {}
    site.answers["/media/blocked"] = Answer(b"no", 404)
    workplace.outcomes("Any")
    assert acquisition.known([song], Parts(workplace.settings))[0].status == Status.UNAVAILABLE
