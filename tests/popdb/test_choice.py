import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from samuel.config import DownloadConfig
from samuel.popdb.search import (
    Candidate,
    Hit,
    rank,
    read_hit,
    summarise_refusals,
)
from samuel.popdb.status import Status
from tests.popdb.choice_cases import (
    HELD_OUT_SEED,
    RIGHT,
    TUNING_SEED,
    WRONG,
    Row,
    cases,
    halves,
    read_rows,
    synthetic_rows,
    taken,
    tally,
)

REAL_LIST = Path(__file__).parents[3] / "shared" / "data" / "song_data.csv"
SCORED, FIRST = DownloadConfig(policy="scored"), DownloadConfig(policy="first")
ENTRY = {
    "id": "x",
    "url": "https://site/x",
    "ie_key": "Youtube",
    "title": "Velvet Mirror",
    "channel": "Someone",
    "duration": 200.0,
}


def found(title: str = "Velvet Mirror", duration: Any = 200.0, **fields: Any) -> Hit:
    return read_hit({**ENTRY, "title": title, "duration": duration, **fields})


def judged(wanted: str, hit: Hit, duration_s: float | None = 200.0) -> Candidate:
    (candidate,) = rank(wanted, duration_s, [hit], SCORED)
    return candidate


# --- what the site says ---


def test_a_hit_is_what_the_search_says() -> None:
    entry = {**ENTRY, "view_count": 7, "channel_is_verified": True, "live_status": None}
    assert read_hit(entry) == Hit(
        "x",
        "https://site/x",
        "Youtube",
        "Velvet Mirror",
        "Someone",
        200.0,
        live=False,
        verified=True,
    )


@pytest.mark.parametrize(
    "duration", [math.nan, math.inf, -math.inf, -1, 0, True, "200", None, [], {}, 10**400, 1e300]
)
def test_what_is_no_duration_counts_as_none(duration: Any) -> None:
    assert found(duration=duration).duration_s is None
    assert found(duration=201).duration_s == 201.0


@pytest.mark.parametrize("field", ["id", "url", "ie_key", "title", "channel"])
@pytest.mark.parametrize("value", [None, 5, b"bytes", ["list"], {"a": 1}, math.nan])
def test_what_is_no_text_counts_as_empty(field: str, value: Any) -> None:
    name = {"id": "video_id", "ie_key": "extractor"}.get(field, field)
    assert getattr(read_hit(ENTRY), name) == ENTRY[field]
    assert getattr(read_hit({**ENTRY, field: value}), name) == ""


def test_hostile_text_is_cut_and_can_be_written(tmp_path: Path) -> None:
    hit = found("a\ud800\udfffb\x00\x1b[31m\r\n" + "\udc80" * 1000, channel="\ud83d", id="\udcff")
    assert hit.title.startswith("a\ufffd\ufffdb\ufffd\ufffd[31m\ufffd\ufffd")
    assert len(hit.title) == 500
    texts = [hit.title, hit.channel, hit.video_id]
    assert json.loads(json.dumps(texts, ensure_ascii=False).encode()) == texts
    pq.write_table(pa.table({"title": texts}), tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet")["title"].to_pylist() == texts


@pytest.mark.parametrize(
    ("fields", "live"),
    [
        ({"is_live": True}, True),
        ({"is_live": "yes"}, True),
        ({"live_status": "is_live"}, True),
        ({"live_status": "is_upcoming"}, True),
        ({"live_status": "post_live"}, True),
        ({"live_status": "was_live"}, False),
        ({"live_status": "not_live", "is_live": False}, False),
        ({"live_status": ["is_live"]}, False),
        ({}, False),
    ],
)
def test_streams_are_live(fields: dict[str, Any], live: bool) -> None:
    assert found(**fields).live is live


@pytest.mark.parametrize("verified", ["yes", 1, None, False, [True]])
def test_only_true_vouches_for_a_channel(verified: Any) -> None:
    assert not found(channel_is_verified=verified).verified


# --- what neither policy takes ---


@pytest.mark.parametrize("config", [SCORED, FIRST], ids=["scored", "first"])
@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"is_live": True}, Status.LIVE, "is live"),
        ({"is_live": True, "duration": None}, Status.LIVE, "is live"),
        ({"duration": 1204.4}, Status.TOO_LONG, "1,204 s is over download.max_duration_s"),
        ({"duration": None}, Status.NO_MATCH, "states no duration"),
        ({"duration": "200"}, Status.NO_MATCH, "states no duration"),
        ({"url": "file:///etc/passwd"}, Status.NO_MATCH, "not a web address"),
        ({"url": "ytsearch:x"}, Status.NO_MATCH, "not a web address"),
        ({"url": " https://site/x"}, Status.NO_MATCH, "not a web address"),
        ({"url": None}, Status.NO_MATCH, "not a web address"),
        ({"id": None}, Status.NO_MATCH, "has no id"),
    ],
)
def test_unusable_hits_are_refused(
    config: DownloadConfig, fields: dict[str, Any], status: Status, reason: str
) -> None:
    wrong, right = read_hit({**ENTRY, **fields}), found(id="right", url="http://site/right")
    best, refused = rank("Velvet Mirror", 200.0, [wrong, right], config)
    assert (best.hit, best.refusal) == (right, None)
    assert (refused.hit, refused.refusal, refused.reason) == (wrong, status, reason)


def test_longest_duration_is_a_setting() -> None:
    hit = found(duration=1204)
    assert rank("Velvet Mirror", 1204.0, [hit], DownloadConfig(max_duration_s=1204))[0].refusal is None
    assert (
        rank("Velvet Mirror", 1204.0, [hit], DownloadConfig(max_duration_s=1203))[0].refusal
        == Status.TOO_LONG
    )


# --- score and order ---


@pytest.mark.parametrize(
    ("title", "duration", "channel", "score", "reason"),
    [
        # 45 · likeness / 100 + 45 · exp(−(Δ − 2) / 3) + bonus
        ("Velvet Mirror", 200.4, "Someone", 90.0, "title 100, 0.4 s off"),
        ("Velvet Mirror", 200.4, "Band - Topic", 95.0, "title 100, 0.4 s off, topic channel"),
        ("Band - Velvet Mirror", 202, "BandVEVO", 93.0, "title 100, 2.0 s off, VEVO channel"),
        ("Velvet Mirror", 203, "Someone", 77.2, "title 100, 3.0 s off"),
        ("Velvet Mirror", 197, "Someone", 77.2, "title 100, 3.0 s off"),
        (
            "Velvet Mirror (Official Video)",
            210,
            "Someone",
            77.2,
            "title 100, 10.0 s off",
        ),  # a clip: 24, not 3
        ("Velvet Mirrors", 200, "Someone", 88.3, "title 96, 0.0 s off"),  # 2 · 13 / 27
    ],
)
def test_score_is_the_formula(title: str, duration: float, channel: str, score: float, reason: str) -> None:
    candidate = judged("Velvet Mirror", found(title, duration, channel=channel))
    assert (candidate.refusal, candidate.score, candidate.reason) == (None, score, reason)


def test_verified_counts_a_little() -> None:
    candidate = judged("Velvet Mirror", found(channel_is_verified=True))
    assert (candidate.score, candidate.reason) == (92.0, "title 100, 0.0 s off, verified channel")


@pytest.mark.parametrize(
    ("title", "duration", "channel", "reason"),
    [
        ("Broken City", 200, "Someone", "title 25 is under 80"),
        ("Velvet Mirror", 231.2, "Someone", "31 s off"),
        ("Velvet Mirror (Official Video)", 221, "BandVEVO", "21 s off"),
        ("Velvet Mirror", 197.5, "Band - Topic", "2.5 s off, topic channel"),
        ("Velvet Mirror", 205, "Someone", "score 61.6 is under 70: title 100, 5.0 s off"),
        # a scene before or after makes a clip longer, never shorter, and a lyric video has none
        ("Velvet Mirror (Official Video)", 190, "Someone", "score 48.1 is under 70: title 100, 10.0 s off"),
        ("Velvet Mirror (Lyric Video)", 210, "Someone", "score 48.1 is under 70: title 100, 10.0 s off"),
    ],
)
def test_what_is_too_far_off_is_refused(title: str, duration: float, channel: str, reason: str) -> None:
    candidate = judged("Velvet Mirror", found(title, duration, channel=channel))
    assert (candidate.refusal, candidate.reason) == (Status.NO_MATCH, reason)


def test_best_comes_first_and_refused_last_in_the_order_of_the_site() -> None:
    hits = [
        found("Velvet Mirror (Karaoke)", id="refused 1"),
        found(duration=203, id="third"),
        found(duration=300, id="refused 2"),
        found(id="first"),
        found(id="second"),  # as good as the first, and later
        found(is_live=True, id="refused 3"),
    ]
    ranked = rank("Velvet Mirror", 200.0, hits, SCORED)
    order = ["first", "second", "third", "refused 1", "refused 2", "refused 3"]
    assert [candidate.hit.video_id for candidate in ranked] == order
    assert [candidate.refusal is None for candidate in ranked] == [True] * 3 + [False] * 3


def test_without_a_duration_in_the_list_the_title_decides() -> None:
    near, exact, other = found("Velvet Mirrors", 30), found(duration=800), found("Broken City")
    ranked = rank("Velvet Mirror", None, [near, other, exact], SCORED)
    assert [candidate.hit for candidate in ranked] == [exact, near, other]
    assert (ranked[0].score, ranked[0].reason) == (90.0, "title 100")
    assert ranked[2].reason == "title 25 is under 80"


def test_the_first_policy_takes_the_first_that_can_be_fetched() -> None:
    hits = [
        found(is_live=True, id="live"),
        found("Something else entirely (Karaoke)", 600, id="else"),
        found(id="exact"),
    ]
    assert [c.hit.video_id for c in rank("Velvet Mirror", 200.0, hits, FIRST)] == ["else", "exact", "live"]
    assert rank("Velvet Mirror", 200.0, hits, SCORED)[0].hit.video_id == "exact"


# --- versions ---


def test_another_version_is_refused() -> None:
    candidate = judged("Velvet Mirror", found("Moka - Velvet Mirror (Karaoke)"))
    assert (candidate.refusal, candidate.fault) == (Status.NO_MATCH, "of another version")
    assert candidate.reason == "says “karaoke”, the wanted title does not"
    assert judged("Velvet Mirror", found(channel="Zed Karaoke")).fault == "of another version"
    assert judged("Velvet Mirror - Karaoke", found("Velvet Mirror (Karaoke)")).refusal is None


# --- the summarise_refusals ---


def test_verdict_names_the_common_status() -> None:
    live, long = found(is_live=True), found(duration=1000)
    assert summarise_refusals(rank("Velvet Mirror", 200.0, [live, live], SCORED)) == (
        Status.LIVE,
        "none of 2 hits fits: 2 × live",
    )
    assert summarise_refusals(rank("Velvet Mirror", 200.0, [long], FIRST)) == (
        Status.TOO_LONG,
        "none of 1 hits fits: 1 × over download.max_duration_s",
    )


def test_verdict_of_mixed_refusals_counts_the_reasons() -> None:
    hits = [found(is_live=True), found("Broken City"), found("Paper River"), found(duration=231)]
    status, message = summarise_refusals(rank("Velvet Mirror", 200.0, hits, SCORED))
    assert status == Status.NO_MATCH
    assert message == "none of 4 hits fits: 1 × live, 2 × of another title, 1 × of another duration"


def test_verdict_of_nothing_found() -> None:
    assert rank("Velvet Mirror", 200.0, [], SCORED) == []
    assert summarise_refusals([]) == (Status.NO_MATCH, "the search found nothing")


# --- labelled cases ---


@pytest.fixture(scope="module", params=["synthetic", "real"])
def rows(request: pytest.FixtureRequest) -> list[Row]:
    if request.param == "synthetic":
        return synthetic_rows()
    if not REAL_LIST.is_file():
        pytest.skip("the song list is not here: see the README for where to get it")
    return read_rows(REAL_LIST)


def test_the_right_recording_is_found_and_its_absence_noticed(rows: list[Row]) -> None:
    made = cases(halves(rows)[1], 1000, HELD_OUT_SEED)
    ways, errors = tally(made, SCORED)
    assert ways["taken right"] >= 90, (ways, errors)
    assert ways["absent: refused"] >= 90, (ways, errors)
    first, _ = tally(made, FIRST)
    assert ways["taken right"] > first["taken right"] + 50


def test_tuning_and_held_out_titles_are_apart(rows: list[Row]) -> None:
    tuning, held_out = halves(rows)
    assert not {row.title.casefold() for row in tuning} & {row.title.casefold() for row in held_out}
    assert len(tuning) + len(held_out) == len(rows)
    made = cases(held_out, 60, HELD_OUT_SEED)
    assert {case.title for case in made} <= {row.title for row in held_out}
    assert made == cases(held_out, 60, HELD_OUT_SEED) != cases(held_out, 60, TUNING_SEED)


def test_cases_are_labelled(rows: list[Row]) -> None:
    made = cases(rows, 400, TUNING_SEED)
    for index, case in enumerate(made):
        assert len(case.hits) == len(case.kinds) == 5
        assert [i for i, kind in enumerate(case.kinds) if kind == RIGHT] == (
            [] if index % 2 else [case.right]
        )
    kinds = {kind for case in made for kind in case.kinds}
    assert kinds >= {*WRONG, RIGHT}
    places = [case.right for case in made if case.right is not None]
    assert all(25 <= places.count(place) <= 55 for place in range(5))  # uniform: 40 ± 6


def test_the_first_policy_is_a_plain_loop_over_the_cases(rows: list[Row]) -> None:
    for case in cases(rows, 100, TUNING_SEED):
        fit = [i for i, hit in enumerate(case.hits) if hit.duration_s and hit.duration_s <= 900]
        assert taken(case, FIRST) == (fit[0] if fit else None)
