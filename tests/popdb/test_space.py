"""The estimated need of a run: against closed forms, a plain simulation, and the bytes of a real run."""

import heapq
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from samuel.artifacts import MANIFEST, make_artifact, release
from samuel.audio import Audio, write_wav
from samuel.config import Settings
from samuel.errors import OperatorError
from samuel.popdb import space
from samuel.popdb.songs import Song
from samuel.popdb.space import GROUPS_IN_HAND, Need, require_audio_space
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import small_settings
from tests.popdb.noise import run

AUDIO = 352_800  # 44,100 × 2 channels × 4 bytes
STEMS = 400_000
LATENTS = 5512.5  # 2 stems × 64 channels × 2 bytes × 44,100 / 2048
GROUP = 32  # songs that go through the stages together
IN_HAND = GROUPS_IN_HAND * GROUP

Offer = Callable[[int], None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Have every disk report so many bytes free; plenty until it is called."""

    def free(n_bytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=n_bytes))

    free(10**15)
    return free


def listed(durations_s: Sequence[float | None]) -> list[Song]:
    return [Song(f"{i:020x}", f"Title {i}", duration_s=s) for i, s in enumerate(durations_s)]


def require_space(songs: Sequence[Song], settings: Settings) -> list[Need]:
    return space.require_space(songs, settings, GROUP)


def needed(songs: Sequence[Song], settings: Settings) -> dict[str, int]:
    return {need.name: need.n_bytes for need in require_space(songs, settings)}


def artifacts(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"{number:020x}").mkdir(parents=True)
        (folder / f"{number:020x}" / MANIFEST).write_text("{}")


def keeping(audio: str, stems: str) -> dict[str, Any]:
    return {"retention": {"audio": audio, "stems": stems}}


def test_kept_files_take_seconds_times_rate_of_songs_that_are_not_too_long(
    tmp_path: Path, offer: Offer
) -> None:
    settings = small_settings(tmp_path, download={"max_duration_s": 200.0})
    needs = require_space(listed([100.0, 200.0, 150.0, 200.5]), settings)
    data = tmp_path / "data"
    assert {need.folder: need.n_bytes for need in needs} == {
        data / "raw": 450 * AUDIO,
        data / "stems": 450 * STEMS,
        data / "latents": round(450 * LATENTS),
        data / "popdb": round(450 * LATENTS),
    }
    assert set(needed(listed([201.0]), settings).values()) == {0}


def test_a_song_without_duration_is_typical_or_what_its_file_states(
    tmp_path: Path, offer: Offer, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "ä #1%.flac", tmp_path / "text.wav", tmp_path / "text.MP3"]
    soundfile.write(files[0], np.zeros((24_000, 1)), 16_000)
    for text in files[1:]:
        text.write_text("no audio")
    songs = [Song(file.name, file.stem, url=file.as_uri()) for file in files] + [Song("title", "Title")]
    settings = small_settings(tmp_path)
    assert [needed([song], settings)["audio"] / AUDIO for song in songs] == [1.5, 211, 211, 211]
    assert capfd.readouterr() == ("", "")
    short = small_settings(tmp_path, download={"max_duration_s": 60.0})
    assert needed(songs[1:], short)["audio"] == 180 * AUDIO


@pytest.mark.parametrize("audio", ["keep", "remove"])
@pytest.mark.parametrize("stems", ["keep", "remove"])
def test_what_is_removed_counts_while_it_is_in_hand(
    tmp_path: Path, offer: Offer, audio: str, stems: str
) -> None:
    durations_s = np.random.default_rng(0).integers(30, 900, 500).tolist()
    needs = needed(listed(durations_s), small_settings(tmp_path, **keeping(audio, stems)))
    in_a_row = max(sum(durations_s[first : first + IN_HAND]) for first in range(500))
    seconds = {"keep": sum(durations_s), "remove": in_a_row}
    assert needs["audio"] == seconds[audio] * AUDIO
    assert needs["stems"] == seconds[stems] * STEMS
    assert needs["latents"] == round(sum(durations_s) * LATENTS)


def test_what_is_there_or_was_removed_is_not_needed_again(tmp_path: Path, offer: Offer) -> None:
    settings = small_settings(tmp_path)
    artifacts(settings.data / "raw", 2)
    release(make_artifact(settings.data / "raw" / "song", lambda _: {}).folder)
    artifacts(settings.data / "stems", 2)
    artifacts(settings.data / "latents", 5)
    (settings.data / "raw" / ".half.tmp").mkdir()
    (settings.data / "raw" / ".half.tmp" / MANIFEST).write_text("{}")
    (settings.data / "stems" / "forgotten").mkdir()
    shard = Path(settings.popdb_path) / "shards" / "00000.safetensors"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(bytes(1000))
    needs = needed(listed([100.0] * 4), settings)
    assert needs == {"audio": 100 * AUDIO, "stems": 200 * STEMS, "latents": 0, "shards": 2_205_000 - 1000}
    shard.write_bytes(bytes(3_000_000))
    assert needed(listed([100.0] * 4), settings)["shards"] == 0


def test_a_run_stops_at_one_byte_too_few_unless_somebody_knows_better(tmp_path: Path, offer: Offer) -> None:
    settings, songs = small_settings(tmp_path), listed([1000.0 / 3] * 30)
    total = sum(needed(songs, settings).values())
    assert total == pytest.approx(10_000 * (AUDIO + STEMS + 2 * LATENTS), abs=4)
    offer(total)
    require_space(songs, settings)
    offer(total - 1)
    with pytest.raises(OperatorError):
        require_space(songs, settings)
    bold = small_settings(tmp_path, retention={"check_space": False})
    assert sum(needed(songs, bold).values()) == total
    assert require_audio_space(songs, bold)


def test_the_message_says_what_for_where_and_what_to_do(tmp_path: Path, offer: Offer) -> None:
    offer(1_500_000_000)
    with pytest.raises(OperatorError) as stopped:
        require_space(listed([100.0] * 1000), small_settings(tmp_path))
    data = tmp_path / "data"
    assert str(stopped.value) == (
        f"the run needs about 76.4 GB of disk space (audio 35.3 GB in {data}/raw, "
        f"stems 40.0 GB in {data}/stems, latents 551 MB in {data}/latents, "
        f"shards 551 MB in {data}/popdb), 1.5 GB free; "
        "set retention.audio = 'remove' (at least 29.6 GB less), "
        "or set retention.stems = 'remove' (at least 33.6 GB less), "
        "or take fewer songs (songs.limit), or use another disk (data, popdb.path), "
        "or where few of the songs will be found set retention.check_space = false"
    )


@pytest.mark.parametrize(("audio", "stems"), [("keep", "remove"), ("remove", "keep"), ("remove", "remove")])
@pytest.mark.parametrize("songs", [1000, 20])
def test_only_remedies_that_help_are_named(
    tmp_path: Path, offer: Offer, audio: str, stems: str, songs: int
) -> None:
    offer(0)
    with pytest.raises(OperatorError) as stopped:
        require_space(listed([100.0] * songs), small_settings(tmp_path, **keeping(audio, stems)))
    many = songs > IN_HAND  # else all are in hand anyway
    assert ("set retention.audio" in str(stopped.value)) == (many and audio == "keep")
    assert ("set retention.stems" in str(stopped.value)) == (many and stems == "keep")


@pytest.mark.parametrize(("audio", "shards"), [(0, 0), (-1, 0), (0, -1)])
def test_each_disk_has_to_hold_its_own_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audio: int, shards: int
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = small_settings(tmp_path, popdb={"path": elsewhere / "popdb"})
    free = (400 * (AUDIO + STEMS) + 2_205_000 + audio, 2_205_000 + shards)
    monkeypatch.setattr(space, "_device_of", lambda folder: int(folder.is_relative_to(elsewhere)))

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free[folder.is_relative_to(elsewhere)])

    monkeypatch.setattr(shutil, "disk_usage", usage)
    if not audio and not shards:
        require_space(listed([100.0] * 4), settings)
        return
    with pytest.raises(OperatorError) as stopped:
        require_space(listed([100.0] * 4), settings)
    assert ("another disk (popdb.path)" if shards else "another disk (data)") in str(stopped.value)
    assert ("shards" in str(stopped.value), "audio" in str(stopped.value)) == (bool(shards), bool(audio))


def test_folders_that_are_yet_to_come_lie_on_the_disk_of_those_above(tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "a" / "b")
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(OperatorError) as stopped:
        require_space(listed([500.0] * (free // AUDIO // 500)), settings)
    assert "\n" not in str(stopped.value)
    assert all(f" in {settings.data}/{name}" in str(stopped.value) for name in ("raw", "stems", "popdb"))


def test_to_download_takes_the_audio_only_and_keeps_it(tmp_path: Path, offer: Offer) -> None:
    settings, songs = small_settings(tmp_path, **keeping("remove", "remove")), listed([100.0] * 1000)
    [need] = require_audio_space(songs, settings)
    assert (need.name, need.n_bytes) == ("audio", 100_000 * AUDIO)
    offer(100_000 * AUDIO - 1)
    with pytest.raises(OperatorError) as stopped:
        require_audio_space(songs, settings)
    assert "= 'remove'" not in str(stopped.value)


def groups_in_hand(groups: int, workers: int, rng: np.random.Generator) -> int:
    """Most groups between the start of their download and the end of their encoding, in a made-up run.

    Tasks are taken in the flow's order by so many workers; each lasts as long as chance has it, and waits in
    its worker's place for the stage before it.
    """
    tasks = [(s, tick - s) for tick in range(groups + 2) for s in range(3) if 0 <= tick - s < groups]
    idle = [0.0] * workers
    ends: dict[tuple[int, int], float] = {}
    events: list[tuple[float, int]] = []
    for stage, group in tasks:
        start = heapq.heappop(idle)
        ready = max(start, ends.get((stage - 1, group), 0.0))
        ends[stage, group] = ready + rng.exponential(rng.choice([0.01, 1.0, 30.0]))
        heapq.heappush(idle, ends[stage, group])
        events += [(start, 1)] if stage == 0 else [(ends[stage, group], -1)] if stage == 2 else []
    return max(np.cumsum([change for _, change in sorted(events)]).tolist())


def test_no_more_songs_are_in_hand_than_is_said() -> None:
    rng = np.random.default_rng(0)
    assert max(groups_in_hand(20, 3, rng) for _ in range(500)) == GROUPS_IN_HAND


def loop_and_voice(seed: int, duration_s: int) -> Audio:
    """A beat that repeats under a gliding tone, (2, S)."""
    time = np.arange(duration_s * 44_100) / 44_100
    noise = np.random.default_rng(seed).normal(0.0, 0.2, (2, 22_050))
    beat = np.tile(noise * np.exp(-np.arange(22_050) / 4000), 2 * duration_s)
    return (beat + 0.3 * np.sin(2 * np.pi * 220 * time + 3 * np.sin(4 * time))).astype(np.float32)


def test_a_real_run_takes_what_was_said(tmp_path: Path) -> None:
    songs = []
    for number, duration_s in enumerate([14, 10]):
        wav = tmp_path / f"{number}.wav"
        write_wav(wav, loop_and_voice(number, duration_s))
        songs.append(Song(f"song{number}", f"Song {number}", url=wav.as_uri()))
    settings = small_settings(tmp_path)
    needs = require_space(songs, settings)
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
    assert {need.n_bytes for need in require_space(songs, settings)[:3]} == {0}
