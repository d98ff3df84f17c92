"""Accounts: the space a run needs, against closed forms and a real run; the funnel; the time left."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samuel.artifacts import Artifact
from samuel.audio import Audio, write_wav
from samuel.popdb.accounts import funnel, require_space
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.popdb.tables import held_out
from samuel.popdb.writer import write_popdb
from samuel.text import text_of
from tests.popdb.latents import small_settings
from tests.popdb.noise import run

AUDIO = 352_800  # 44,100 × 2 channels × 4 bytes
STEMS = 400_000
LATENTS = 5512.5  # 2 stems × 64 channels × 2 bytes × 44,100 / 2048
GROUP = 32  # songs that go through the stages together


def listed(*durations_s: float | None) -> list[Song]:
    return [Song(f"{i:020x}", f"Title {i}", duration_s=s) for i, s in enumerate(durations_s)]


def needed(songs: list[Song], root: Path, **sections: Any) -> dict[str, int]:
    needs = require_space(songs, small_settings(root, **sections), GROUP)
    return {str(need.folder.relative_to(root / "data")): need.n_bytes for need in needs}


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
    assert text_of(funnel(DOWNLOADED)).splitlines() == [
        "step        songs  lost  why",
        "listed         20     0",
        "searched       19     1  rate_limited 1",
        "matched        16     3  no_match 2, live 1",
        "downloaded     13     3  unavailable 3",
    ]
    later = [*DOWNLOADED[:7], outcome("separate", Status.SILENT), *[outcome("encode", Status.OK)] * 12]
    reached = [(row["step"], row["songs"]) for row in funnel(later)]
    assert reached[-3:] == [("downloaded", 13), ("separated", 12), ("encoded", 12)]


NAMES = [f"song{i}" for i in range(2000)]


def test_the_share_held_out_is_the_one_asked_for_and_depends_on_no_other_song() -> None:
    many = held_out(NAMES, 0.1, seed=0)
    assert len(many) == pytest.approx(200, abs=40)
    assert held_out(NAMES[:500], 0.1, seed=0) == many & set(NAMES[:500])
    assert many != held_out(NAMES, 0.1, seed=1)
