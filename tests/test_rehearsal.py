"""A list of songs against a site where every kind of fault happens: what is kept, and what is asked again."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.artifacts import find_artifact
from samuel.audio import read_wav
from samuel.config import Settings, parse
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song, list_songs
from samuel.popdb.status import Outcome, Status
from tests.popdb.site import encoded, serving, yt_dlp_plugin
from tests.rehearsal.faults import FAULTS
from tests.rehearsal.site import DOWNLOAD, HOSTILE, ListSite, Request, write_list

SONGS = 108  # at a share of 0.3, each fault strikes one title
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Rehearsal:
    """Three runs over one list and one data folder; the site is healed after the first.

    Attributes:
        songs: Of the list.
        outcomes: By run, in the order of the songs.
        requests: By run.
        expected: By run: the status of each song.
        listing: By run: names in `data/raw`.
    """

    site: ListSite
    settings: Settings
    songs: list[Song]
    outcomes: list[list[Outcome]]
    requests: list[list[Request]]
    expected: list[list[Status]]
    listing: list[set[str]]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    folder = tmp_path_factory.mktemp("rehearsal")
    write_list(folder / "songs.csv", SONGS)
    values = {"data": str(folder / "data"), "songs": {"source": "csv", "path": str(folder / "songs.csv")}}
    settings = parse({**values, "download": {**DOWNLOAD, "workers": 4}})
    songs = list_songs(settings.songs, settings.data).songs
    site = ListSite("", songs=songs, fault_share=0.3, clip_s=4.0)
    made = Rehearsal(site, settings, songs, [], [], [], [])
    with yt_dlp_plugin(), serving(site), pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        patch.setenv("SAMUEL_TEST_SITE", site.base)
        run(made)
        site.healed = True
        run(made)
        run(made)
        yield made


def run(rehearsal: Rehearsal) -> None:
    site, start = rehearsal.site, len(rehearsal.site.log)
    rehearsal.expected.append([site.expected(song.title) for song in rehearsal.songs])
    rehearsal.outcomes.append(acquire_songs(rehearsal.songs, Parts(rehearsal.settings)))
    rehearsal.requests.append(site.log[start:])
    rehearsal.listing.append({path.name for path in (rehearsal.settings.data / "raw").iterdir()})


def test_every_fault_happens(rehearsal: Rehearsal) -> None:
    assert len(rehearsal.songs) == SONGS
    assert set(rehearsal.site.faults.values()) == set(FAULTS)
    assert set(HOSTILE) & set(rehearsal.site.faults)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_song_ends_as_its_fault_demands(number: int, rehearsal: Rehearsal) -> None:
    outcomes = rehearsal.outcomes[number]
    assert [outcome.song for outcome in outcomes] == rehearsal.songs
    wrong = {
        outcome.song.title: (rehearsal.site.fault_name(outcome.song.title), outcome.status, outcome.message)
        for outcome, status in zip(outcomes, rehearsal.expected[number], strict=True)
        if outcome.status != status
    }
    assert wrong == {}


def test_the_audio_kept_is_the_songs_own(rehearsal: Rehearsal) -> None:
    kept = [outcome for outcome in rehearsal.outcomes[2] if outcome.artifact]
    for outcome in kept:
        video_id = rehearsal.site.right(outcome.song)
        body = io.BytesIO(encoded(rehearsal.site.clip(video_id), kind="WAV"))
        sound, _ = soundfile.read(body, dtype="float32", always_2d=True)
        assert outcome.artifact
        audio = read_wav(outcome.artifact.path("audio.wav"))
        np.testing.assert_array_equal(audio, sound.T, err_msg=outcome.song.title)
    assert len(kept) > SONGS / 2


@pytest.mark.parametrize("number", [0, 1, 2])
def test_nothing_else_is_left(number: int, rehearsal: Rehearsal) -> None:
    """In data/raw: entries, failures, and rests of downloads that another try goes on from."""
    raw, outcomes = rehearsal.settings.data / "raw", rehearsal.outcomes[number]
    entries = {outcome.artifact.folder.name for outcome in outcomes if outcome.artifact}
    listing = rehearsal.listing[number] - {".rate_limit", ".locks"} - entries
    failures = {name for name in listing if re.fullmatch(r"[0-9a-f]{20}\.failed\.json", name)}
    rests = {name for name in listing if re.fullmatch(r"\.[0-9a-f]{20}\.part", name)}
    assert listing == failures | rests
    assert all(find_artifact(raw / name) for name in entries)
    assert {path.name for name in entries for path in (raw / name).iterdir()} == {"audio.wav", "entry.json"}
    broken = [o for o in outcomes if o.stage == "download" and o.status.retryable]
    assert len(rests) <= len(broken)


def test_the_second_run_asks_for_what_may_have_passed_and_gets_it(rehearsal: Rehearsal) -> None:
    first, second = rehearsal.outcomes[:2]
    again = {outcome.song.title for outcome in first if outcome.status.retryable}
    assert again == {
        t for t, fault in rehearsal.site.faults.items() if fault.status.retryable and not fault.brief
    }
    assert {request.title for request in rehearsal.requests[1]} == again
    assert {outcome.status for outcome in second if outcome.song.title in again} == {Status.OK}


def test_what_was_searched_for_is_not_searched_for_again(rehearsal: Rehearsal) -> None:
    searched = [request.title for request in rehearsal.requests[1] if request.place == "search"]
    broken = [
        title for title, fault in rehearsal.site.faults.items() if fault.place == "search" and not fault.brief
    ]
    assert sorted(searched) == sorted(broken)


@pytest.mark.parametrize("name", ["reset", "truncated", "slow", "wrong length"])
def test_the_second_run_goes_on_where_a_download_broke_off(name: str, rehearsal: Rehearsal) -> None:
    [song] = [song for song in rehearsal.songs if rehearsal.site.fault_name(song.title) == f"{name}, lasting"]
    ranges = rehearsal.site.sent(f"/media/{rehearsal.site.right(song)}", "Range")
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0 for asked in ranges]
    assert len(starts) == 3  # two tries in the first run
    assert starts[0] == 0 < starts[1] < starts[2]


def test_the_third_run_asks_for_nothing(rehearsal: Rehearsal) -> None:
    assert rehearsal.requests[0]
    assert rehearsal.requests[2] == []
    assert not any(outcome.did_work for outcome in rehearsal.outcomes[2])


@pytest.mark.slow
def test_the_command_rehearses_both_runs(tmp_path: Path) -> None:
    write_list(tmp_path / "songs.csv", SONGS)
    options = ["--songs", "30", "--clip-s", "4", "--faults", "0.5", "--heal-after-first"]
    command = [sys.executable, "-m", "tests.rehearsal", "--list", str(tmp_path / "songs.csv"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("30 songs, 0 not as the site has it") == 2
    struck = FAULTS[:15]
    again = [fault.place for fault in struck if fault.status.retryable]
    assert f"{again.count('search')} search, {len(again)} page, {len(again)} media" in done.stdout
