"""A list of songs against a site where every kind of fault happens: what is kept, and what is asked again."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

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
from tests.rehearsal import DOWNLOAD, FAULTS, HOSTILE, ListSite, Request, write_list

SONGS = 108  # at a share of 0.3, each fault strikes one title


@dataclass(frozen=True)
class Run:
    """One of three runs over one list and one data folder; the site is healed after the first."""

    outcomes: list[Outcome]  # in the order of the songs
    requests: list[Request]
    expected: list[Status]
    listing: set[str]  # names in `data/raw`


@dataclass(frozen=True)
class Rehearsal:
    site: ListSite
    settings: Settings
    songs: list[Song]
    runs: list[Run]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    folder = tmp_path_factory.mktemp("rehearsal")
    write_list(folder / "songs.csv", SONGS)
    values = {"data": str(folder / "data"), "songs": {"source": "csv", "path": str(folder / "songs.csv")}}
    settings = parse({**values, "download": {**DOWNLOAD, "workers": 4}})
    songs = list_songs(settings.songs, settings.data).songs
    site = ListSite("", songs=songs, fault_share=0.3, clip_s=4.0)
    made = Rehearsal(site, settings, songs, [])
    with yt_dlp_plugin(), serving(site), pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        patch.setenv("SAMUEL_TEST_SITE", site.base)
        for number in range(3):
            site.healed = number > 0
            expected, start = [site.expected(song.title) for song in songs], len(site.log)
            outcomes = acquire_songs(songs, Parts(settings))
            listing = {path.name for path in (settings.data / "raw").iterdir()}
            made.runs.append(Run(outcomes, site.log[start:], expected, listing))
        yield made


def test_every_fault_happens(rehearsal: Rehearsal) -> None:
    assert len(rehearsal.songs) == SONGS
    assert set(rehearsal.site.faults.values()) == set(FAULTS)
    assert set(HOSTILE) & set(rehearsal.site.faults)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_song_ends_as_its_fault_demands(number: int, rehearsal: Rehearsal) -> None:
    run = rehearsal.runs[number]
    assert [outcome.song for outcome in run.outcomes] == rehearsal.songs
    wrong = {
        outcome.song.title: (rehearsal.site.fault_name(outcome.song.title), outcome.status, outcome.message)
        for outcome, status in zip(run.outcomes, run.expected, strict=True)
        if outcome.status != status
    }
    assert wrong == {}


def test_the_audio_kept_is_the_songs_own(rehearsal: Rehearsal) -> None:
    kept = [outcome for outcome in rehearsal.runs[2].outcomes if outcome.artifact]
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
    raw, run = rehearsal.settings.data / "raw", rehearsal.runs[number]
    entries = {outcome.artifact.folder.name for outcome in run.outcomes if outcome.artifact}
    listing = run.listing - {".rate_limit", ".locks"} - entries
    failures = {name for name in listing if re.fullmatch(r"[0-9a-f]{20}\.failed\.json", name)}
    rests = {name for name in listing if re.fullmatch(r"\.[0-9a-f]{20}\.part", name)}
    assert listing == failures | rests
    assert all(find_artifact(raw / name) for name in entries)
    assert {path.name for name in entries for path in (raw / name).iterdir()} == {"audio.wav", "entry.json"}
    broken = [o for o in run.outcomes if o.stage == "download" and o.status.retryable]
    assert len(rests) <= len(broken)


def test_the_second_run_asks_for_what_may_have_passed_and_the_third_for_nothing(rehearsal: Rehearsal) -> None:
    first, second, third = rehearsal.runs
    lasting = {t: f for t, f in rehearsal.site.faults.items() if f.status.retryable and not f.brief}
    assert {o.song.title for o in first.outcomes if o.status.retryable} == set(lasting)
    assert {request.title for request in second.requests} == set(lasting)
    assert {o.status for o in second.outcomes if o.song.title in lasting} == {Status.OK}
    searched = [request.title for request in second.requests if request.place == "search"]
    assert sorted(searched) == sorted(title for title, fault in lasting.items() if fault.place == "search")
    assert third.requests == []
    assert not any(outcome.did_work for outcome in third.outcomes)


@pytest.mark.parametrize("name", ["reset", "truncated", "slow", "wrong length"])
def test_the_second_run_goes_on_where_a_download_broke_off(name: str, rehearsal: Rehearsal) -> None:
    [song] = [song for song in rehearsal.songs if rehearsal.site.fault_name(song.title) == f"{name}, lasting"]
    ranges = rehearsal.site.sent(f"/media/{rehearsal.site.right(song)}", "Range")
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0 for asked in ranges]
    assert len(starts) == 3  # two tries in the first run
    assert starts[0] == 0 < starts[1] < starts[2]
