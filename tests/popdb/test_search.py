"""Titles compared, hits judged, and the choice among labelled cases; no site is searched."""

import itertools
import json
import math
import time
from typing import Any

import pytest

from samuel.config import DownloadConfig
from samuel.popdb.search import Hit, likeness, other_version, rank, read_hit
from samuel.popdb.status import Status
from tests.popdb.choice_cases import (
    HELD_OUT_SEED,
    REAL_LIST,
    Row,
    cases,
    held_out,
    needs_real_list,
    read_rows,
    synthetic_rows,
    tally,
)

SCORED, FIRST = DownloadConfig(policy="scored"), DownloadConfig(policy="first")
ENTRY = {
    "id": "x", "url": "https://site/x", "ie_key": "Youtube", "title": "Velvet Mirror", "channel": "Someone",
    "duration": 200.0,
}  # fmt: skip


def found(title: str = "Velvet Mirror", duration: Any = 200.0, **fields: Any) -> Hit:
    return read_hit({**ENTRY, "title": title, "duration": duration, **fields})


@pytest.mark.parametrize(
    ("wanted", "title"),
    [
        ("22", "Zed Moka - 22 (Official Video)"),
        ("+", "Moka - + (Official Audio)"),
        ("❤️", "Moka - ❤ (Lyrics)"),
        ("1979 - Remastered 2012", "Moka - 1979"),
        ("夜に駆ける", "モカ「夜に駆ける」Official Music Video"),
        ("حبيبي", "موكا - حبيبي"),
        ("Don’t Stop Believin’", "Moka - Dont Stop Believin' (Audio)"),
        ("Girls Like You (feat. Tavel)", "Moka - Girls Like You ft. Tavel (Official Video)"),
        ("Two of Us - 2009 Remaster", "Moka - Two of Us (Remastered 2009)"),
        ("Hello/Goodbye", "Moka - Hello / Goodbye"),
    ],
)
def test_the_same_title_in_other_words(wanted: str, title: str) -> None:
    assert likeness(wanted, title, "Someone") == pytest.approx(100.0)
    assert other_version(wanted, title, "Someone") == ""


@pytest.mark.parametrize(
    ("wanted", "title"),
    [
        ("22", "Moka - 21"),
        ("+", "Moka - ÷"),
        ("Fire", "Moka - Fireflies"),
        ("夜に駆ける", "モカ「夜明け」"),
        ("Ooh " * 75, "Moka - Ooh"),
    ],
)
def test_another_title_is_less_like(wanted: str, title: str) -> None:
    assert likeness(wanted, title, "Someone") < 80


@pytest.mark.parametrize("text", ["ft. " * 125, "(" * 500, "([{【" * 125])
def test_a_title_made_to_cost_time_costs_little(text: str) -> None:
    started_s = time.process_time()
    for _ in range(20):
        likeness(text[:500], text[:500], text[:500])
        other_version(text[:500], text[:500], text[:500])
    assert time.process_time() - started_s < 5


def test_what_is_of_another_type_counts_as_none() -> None:
    for value in (math.nan, math.inf, -1, 0, True, "200", None, [], {}, 10**400, 1e300):
        assert found(duration=value).duration_s is None
    fields = {"id": "video_id", "url": "url", "ie_key": "extractor", "title": "title", "channel": "channel"}
    for (field, name), value in itertools.product(fields.items(), (None, 5, b"bytes", ["x"], {"a": 1})):
        assert getattr(read_hit({**ENTRY, field: value}), name) == ""


def test_hostile_text_is_cut_and_can_be_written() -> None:
    hit = found("a\ud800\udfffb\x00\x1b[31m\r\n" + "\udc80" * 1000, channel="\ud83d", id="\udcff")
    assert hit.title.startswith("a\ufffd\ufffdb\ufffd\ufffd[31m\ufffd\ufffd")
    assert len(hit.title) == 500
    texts = [hit.title, hit.channel, hit.video_id]
    assert json.loads(json.dumps(texts, ensure_ascii=False).encode()) == texts


@pytest.mark.parametrize("config", [SCORED, FIRST], ids=["scored", "first"])
@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"is_live": True}, Status.LIVE, "is live"),
        ({"duration": 1204.4}, Status.TOO_LONG, "1,204 s is over download.max_duration_s"),
        ({"url": "file:///etc/passwd"}, Status.NO_MATCH, "not a web address"),
    ],
)
def test_unusable_hits_are_refused(
    config: DownloadConfig, fields: dict[str, Any], status: Status, reason: str
) -> None:
    wrong, right = read_hit({**ENTRY, **fields}), found(id="right", url="http://site/right")
    best, refused = rank("Velvet Mirror", 200.0, [wrong, right], config)
    assert (best.hit, best.refusal) == (right, None)
    assert (refused.hit, refused.refusal, refused.reason) == (wrong, status, reason)


@pytest.fixture(scope="module", params=["synthetic", pytest.param("real", marks=needs_real_list)])
def rows(request: pytest.FixtureRequest) -> list[Row]:
    return synthetic_rows() if request.param == "synthetic" else read_rows(REAL_LIST)


def test_the_right_recording_is_found_and_its_absence_noticed(rows: list[Row]) -> None:
    made = cases(held_out(rows), 1000, HELD_OUT_SEED)
    ways, errors = tally(made, SCORED)
    assert ways["taken right"] >= 90, (ways, errors)
    assert ways["absent: refused"] >= 90, (ways, errors)
    first, _ = tally(made, FIRST)
    assert ways["taken right"] > first["taken right"] + 50
