from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samuel.artifacts import Artifact
from samuel.config import DownloadConfig
from samuel.popdb.accounts import (
    Progress,
    Step,
    counted,
    duration,
    funnel,
    funnel_of_rows,
    least_s,
    step_into_dataset,
    text_of,
)
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.popdb.tables import song_rows


def outcome(stage: str, status: Status, *, did_work: bool = True, url: str | None = None) -> Outcome:
    entry = Artifact(Path("x"), {}, {}) if status is Status.OK else None
    return Outcome(Song("s", "t", url=url), stage, status, "", 1, entry, {}, did_work=did_work)


def several(count: int, stage: str, status: Status, url: str | None = None) -> list[Outcome]:
    return [outcome(stage, status, url=url) for _ in range(count)]


DOWNLOADED = [
    *several(1, "search", Status.RATE_LIMITED),
    *several(2, "match", Status.NO_MATCH),
    *several(1, "match", Status.LIVE),
    *several(3, "download", Status.UNAVAILABLE),
    *several(13, "download", Status.OK),
]


def test_every_song_is_in_the_funnel_once() -> None:
    assert funnel(DOWNLOADED) == [
        Step("listed", 20, {}),
        Step("searched", 19, {"rate_limited": 1}),
        Step("matched", 16, {"no_match": 2, "live": 1}),
        Step("downloaded", 13, {"unavailable": 3}),
    ]


def test_the_funnel_goes_on_as_far_as_a_song_got() -> None:
    later = [*DOWNLOADED[:7], *several(1, "separate", Status.SILENT), *several(12, "encode", Status.OK)]
    reached = [(step.name, step.songs) for step in funnel(later)]
    assert reached[-3:] == [("downloaded", 13), ("separated", 12), ("encoded", 12)]


def test_files_are_not_searched_for() -> None:
    assert funnel(FILES) == [
        Step("listed", 3, {}),
        Step("downloaded", 2, {"decode_failed": 1}),
        Step("separated", 2, {}),
        Step("encoded", 2, {}),
    ]
    assert funnel([]) == funnel_of_rows([]) == [Step("listed", 0, {})]


FILES = [
    *several(2, "encode", Status.OK, "file:///a"),
    *several(1, "download", Status.DECODE_FAILED, "file:///b"),
]
FOUND = [replace(song, record={"video_id": "v"}) for song in several(2, "download", Status.OK)]


@pytest.mark.parametrize("outcomes", [DOWNLOADED, FILES, FOUND, several(1, "search", Status.NETWORK)])
def test_the_funnel_of_a_dataset_is_that_of_the_run(outcomes: list[Outcome]) -> None:
    assert funnel_of_rows(song_rows(outcomes, {})) == funnel(outcomes)


def test_the_table_shows_every_step_and_why() -> None:
    assert text_of([step.row() for step in funnel(DOWNLOADED)]).splitlines() == [
        "step        songs  lost  why",
        "listed         20     0",
        "searched       19     1  rate_limited 1",
        "matched        16     3  no_match 2, live 1",
        "downloaded     13     3  unavailable 3",
    ]


def row(pairs: int, message: str = "", *shares: float | None, status: Status = Status.OK) -> dict[str, Any]:
    return {"status": status.value, "pairs": pairs, "message": message, "vocal_shares": list(shares)}


def test_songs_without_pairs_are_accounted_for() -> None:
    rows = [
        row(2, "", 0.5, 0.1),
        row(1, "", 0.3),
        row(0, "", 0.1, 0.29),
        row(0, "", 0.9),
        row(0, "", None),
        *[row(0, "left out: a gap", None)] * 3,
        row(0, "it is gone", status=Status.UNAVAILABLE),
    ]
    lost = {"left out: a gap": 3, "no pair in the index": 2, "no chunk sung enough": 1}
    assert step_into_dataset(rows, 0.3) == Step("in the dataset", 2, lost)


def test_reasons_of_anybody_are_few_short_lines() -> None:
    rows = [row(0, f"{number}\n{'x ' * 999}") for number in range(9)]
    step = step_into_dataset(rows, 0.0)
    assert (step.songs, sum(step.lost.values()), step.lost["other reasons"]) == (0, 9, 6)
    assert len(text_of([step.row()]).splitlines()) == 2
    assert max(map(len, step.lost)) == 100


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_left_goes_by_the_songs_that_were_worked_on() -> None:
    clock = Clock()
    progress = Progress(10, least_s=2.0, clock=clock)
    assert progress.left_s == 20.0
    clock.now += 6
    progress.add([outcome("download", Status.OK, did_work=False)] * 4)
    assert progress.left_s == 12.0  # nothing was measured yet
    progress.add([outcome("download", Status.OK), outcome("match", Status.NO_MATCH)])
    assert progress.left_s == 4 * 6 / 2
    assert progress.line() == "6 of 10 songs, about 12 s left"


def test_time_left_is_not_made_up_and_a_line_is_due_now_and_then() -> None:
    clock = Clock()
    progress = Progress(2, clock=clock)
    assert progress.line() == "0 of 2 songs, time left not known yet"
    clock.now += 59
    assert not progress.due(60)
    clock.now += 1
    assert progress.due(60)
    assert not progress.due(60)
    progress.add([outcome("download", Status.OK, did_work=False)] * 2)
    assert progress.due(60)
    assert progress.line() == "2 of 2 songs, about 0 s left"


def test_the_pace_bounds_the_time_of_a_song() -> None:
    songs = [Song("1", "searched"), Song("2", "a file", url="file:///a")]
    assert least_s(songs, DownloadConfig(download_interval_s=12, search_interval_s=2, jitter=0.5)) == 15
    assert least_s(songs, DownloadConfig(download_interval_s=1, search_interval_s=2, jitter=0)) == 2
    assert least_s(songs[1:], DownloadConfig()) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8.4, "8 s"), (119, "119 s"), (720, "12 min"), (7199, "120 min"), (169_200, "47 h")],
)
def test_figures_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words
    assert [counted(count, "pair") for count in (0, 1, 2000)] == ["0 pairs", "1 pair", "2,000 pairs"]
