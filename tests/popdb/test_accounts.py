"""Accounts: the space a run needs, against closed forms and a real run; the funnel; the time left."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samuel.artifacts import MANIFEST, Artifact, make_artifact, release
from samuel.audio import Audio, write_wav
from samuel.config import DownloadConfig
from samuel.errors import OperatorError
from samuel.popdb.accounts import (
    GROUPS_IN_HAND,
    Progress,
    Step,
    counted,
    duration,
    funnel,
    least_s,
    overview,
    require_audio_space,
    require_space,
    step_into_dataset,
    text_of,
)
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import small_settings, songs
from tests.popdb.noise import run

AUDIO = 352_800  # 44,100 × 2 channels × 4 bytes
STEMS = 400_000
LATENTS = 5512.5  # 2 stems × 64 channels × 2 bytes × 44,100 / 2048
GROUP = 32  # songs that go through the stages together


def offer(monkeypatch: pytest.MonkeyPatch, n_bytes: float) -> None:
    """Have every disk report so many bytes free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=n_bytes))


def listed(*durations_s: float | None) -> list[Song]:
    return [Song(f"{i:020x}", f"Title {i}", duration_s=s) for i, s in enumerate(durations_s)]


def needed(songs: list[Song], root: Path, **sections: Any) -> dict[str, int]:
    needs = require_space(songs, small_settings(root, **sections), GROUP)
    return {str(need.folder.relative_to(root / "data")): need.n_bytes for need in needs}


# --- space ---


def test_kept_files_take_seconds_times_rate_of_songs_that_are_not_too_long(tmp_path: Path) -> None:
    short = {"max_duration_s": 200.0}
    assert needed(listed(100.0, 200.0, 150.0, 200.5), tmp_path, download=short) == {
        "raw": 450 * AUDIO,
        "stems": 450 * STEMS,
        "latents": round(450 * LATENTS),
        "popdb": round(450 * LATENTS),
    }
    assert set(needed(listed(201.0), tmp_path, download=short).values()) == {0}
    assert needed(listed(None), tmp_path)["raw"] == 211 * AUDIO
    assert needed(listed(None), tmp_path, download={"max_duration_s": 60.0})["raw"] == 60 * AUDIO


@pytest.mark.parametrize("audio", ["keep", "remove"])
@pytest.mark.parametrize("stems", ["keep", "remove"])
def test_what_is_removed_counts_while_it_is_in_hand(
    tmp_path: Path, audio: str, stems: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, 10**15)
    durations_s = np.random.default_rng(0).integers(30, 900, 500).tolist()
    needs = needed(listed(*durations_s), tmp_path, retention={"audio": audio, "stems": stems})
    longest = sum(sorted(durations_s)[-GROUPS_IN_HAND * GROUP :])
    seconds = {"keep": sum(durations_s), "remove": longest}
    assert (needs["raw"], needs["stems"]) == (seconds[audio] * AUDIO, seconds[stems] * STEMS)
    assert needs["latents"] == round(sum(durations_s) * LATENTS)


def test_what_is_there_or_was_removed_is_not_needed_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    release(make_artifact(data / "raw" / "song", lambda _: {}).folder)
    for stage, count in (("raw", 2), ("stems", 2), ("latents", 5)):
        for number in range(count):
            make_artifact(data / stage / f"{number:020x}", lambda _: {})
    (data / "raw" / ".half.tmp").mkdir()
    (data / "raw" / ".half.tmp" / MANIFEST).write_text("{}")
    shard = data / "popdb" / "shards" / "00000.safetensors"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(bytes(1000))
    needs = needed(listed(*[100.0] * 4), tmp_path)
    assert needs == {"raw": 100 * AUDIO, "stems": 200 * STEMS, "latents": 0, "popdb": 2_205_000 - 1000}


def test_a_run_stops_at_one_byte_too_few_unless_somebody_knows_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = listed(*[1000.0 / 3] * 300)
    total = sum(needed(songs, tmp_path, retention={"check_space": False}).values())
    assert total == pytest.approx(100_000 * (AUDIO + STEMS + 2 * LATENTS), abs=4)
    offer(monkeypatch, total)
    needed(songs, tmp_path)
    offer(monkeypatch, total - 1)
    with pytest.raises(OperatorError) as stopped:
        needed(songs, tmp_path, retention={"stems": "keep"})
    data = tmp_path / "data"
    assert str(stopped.value) == (
        f"the run needs about 76.4 GB of disk space (audio 35.28 GB in {data}/raw, "
        f"stems 40.00 GB in {data}/stems, latents 0.55 GB in {data}/latents, "
        f"shards 0.55 GB in {data}/popdb), 76.38 GB free; "
        "set retention.audio = 'remove', or set retention.stems = 'remove', "
        "or take fewer songs (songs.limit), or another disk (data, popdb.path), "
        "or where few of the songs will be found set retention.check_space = false"
    )
    offer(monkeypatch, 100_000 * AUDIO - 1)
    with pytest.raises(OperatorError, match=r"needs about 35\.3 GB of disk space \(audio"):
        require_audio_space(songs, small_settings(tmp_path, retention={"audio": "remove"}))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second disk")  # noqa: S108
def test_each_disk_has_to_hold_its_own_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Path("/dev/shm/samuel-test-none/popdb")  # noqa: S108 - never made
    if memory.parents[1].stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("the same disk")
    settings = small_settings(tmp_path, popdb={"path": memory})
    for here, there, short in ((10**12, 10**5, "shards"), (10**5, 10**12, "audio")):
        free = {True: SimpleNamespace(free=there), False: SimpleNamespace(free=here)}
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: free[path == memory.parents[1]])
        with pytest.raises(OperatorError, match=rf"space \({short}") as stopped:
            require_space(listed(100.0), settings, GROUP)
        assert ("shards" in str(stopped.value)) == (short == "shards")


def loop_and_voice(seed: int, duration_s: int) -> Audio:
    """A beat that repeats under a gliding tone, (2, S)."""
    time = np.arange(duration_s * 44_100) / 44_100
    noise = np.random.default_rng(seed).normal(0.0, 0.2, (2, 22_050))
    beat = np.tile(noise * np.exp(-np.arange(22_050) / 4000), 2 * duration_s)
    return (beat + 0.3 * np.sin(2 * np.pi * 220 * time + 3 * np.sin(4 * time))).astype(np.float32)


def test_a_real_run_takes_what_was_said(tmp_path: Path) -> None:
    songs: list[Song] = []
    for number, duration_s in enumerate([14, 10]):
        wav = tmp_path / f"{number}.wav"
        write_wav(wav, loop_and_voice(number, duration_s))
        songs.append(Song(f"song{number}", f"Song {number}", wav.as_uri(), duration_s))
    settings = small_settings(tmp_path)
    needs = require_space(songs, settings, GROUP)
    write_popdb(run(songs, settings), settings)
    taken = {
        need.name: sum(path.stat().st_size for path in need.folder.rglob("*") if path.is_file())
        for need in needs
    }
    assert sum(taken.values()) <= sum(need.n_bytes for need in needs) <= 1.2 * sum(taken.values())
    ratios = {need.name: need.n_bytes / taken[need.name] for need in needs}
    assert ratios["audio"] == pytest.approx(1.0, abs=0.01)
    assert 1.0 <= ratios["stems"] <= 1.3
    assert 1.0 <= ratios["latents"] <= 1.2
    assert {need.n_bytes for need in require_space(songs, settings, GROUP)[:3]} == {0}


# --- what became of the songs ---


def outcome(stage: str, status: Status, *, did_work: bool = True, url: str | None = None) -> Outcome:
    entry = Artifact(Path("x"), {}, {}) if status is Status.OK else None
    return Outcome(Song("s", "t", url=url), stage, status, "", 1, entry, {}, did_work=did_work)


DOWNLOADED = [
    outcome("search", Status.RATE_LIMITED),
    *[outcome("match", Status.NO_MATCH)] * 2,
    outcome("match", Status.LIVE),
    *[outcome("download", Status.UNAVAILABLE)] * 3,
    *[outcome("download", Status.OK)] * 13,
]


def test_every_song_is_in_the_funnel_once() -> None:
    assert text_of([step.row() for step in funnel(DOWNLOADED)]).splitlines() == [
        "step        songs  lost  why",
        "listed         20     0",
        "searched       19     1  rate_limited 1",
        "matched        16     3  no_match 2, live 1",
        "downloaded     13     3  unavailable 3",
    ]
    later = [*DOWNLOADED[:7], outcome("separate", Status.SILENT), *[outcome("encode", Status.OK)] * 12]
    reached = [(step.name, step.songs) for step in funnel(later)]
    assert reached[-3:] == [("downloaded", 13), ("separated", 12), ("encoded", 12)]


def test_files_are_not_searched_for() -> None:
    files = [outcome("encode", Status.OK, url="file:///a")] * 2
    files.append(outcome("download", Status.DECODE_FAILED, url="file:///b"))
    assert funnel(files) == [
        Step("listed", 3, {}),
        Step("downloaded", 2, {"decode_failed": 1}),
        Step("separated", 2, {}),
        Step("encoded", 2, {}),
    ]
    assert funnel([]) == [Step("listed", 0, {})]


def test_a_dataset_is_shown_as_its_run(tmp_path: Path) -> None:
    outcomes = [replace(song, song=replace(song.song, url="file:///a")) for song in songs(tmp_path)]
    counts, shares, statistics, became = overview(write_popdb(outcomes, small_settings(tmp_path)))
    assert "6 of 2.97 s" in counts
    assert "0.5 to 0.6       6  ████" in shares
    assert "accompaniment  mean " in statistics
    rows = [step.row() for step in [*funnel(outcomes), Step("in the dataset", 3, {})]]
    assert became == text_of(rows)


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
    # Reasons of anybody are few short lines.
    step = step_into_dataset([row(0, f"{number}\n{'x ' * 999}") for number in range(9)], 0.0)
    assert (step.songs, sum(step.lost.values()), step.lost["other reasons"]) == (0, 9, 6)
    assert len(text_of([step.row()]).splitlines()) == 2
    assert max(map(len, step.lost)) == 100


def test_time_left_goes_by_the_songs_that_were_worked_on() -> None:
    now = [100.0]
    progress = Progress(10, least_s=2.0, clock=lambda: now[0])
    assert progress.left_s == 20.0
    now[0] += 6
    progress.add([outcome("download", Status.OK, did_work=False)] * 4)
    assert progress.left_s == 12.0  # nothing was measured yet
    progress.add([outcome("download", Status.OK), outcome("match", Status.NO_MATCH)])
    assert progress.left_s == 4 * 6 / 2


def test_the_pace_bounds_the_time_of_a_song() -> None:
    songs = [Song("1", "searched"), Song("2", "a file", url="file:///a")]
    assert least_s(songs, DownloadConfig(download_interval_s=12, search_interval_s=2, jitter=0.5)) == 15
    assert least_s(songs[1:], DownloadConfig()) == 0
    assert [duration(s) for s in (8.4, 119, 720, 169_200)] == ["8 s", "119 s", "12 min", "47 h"]
    assert [counted(count, "pair") for count in (0, 1, 2000)] == ["0 pairs", "1 pair", "2,000 pairs"]
