"""Both flows, and ablate, on a real server: what they make, show, do not do again, and how they fail."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME

from flows.ablate import ablate
from flows.build_popdb import THREADS, build_popdb
from flows.runner import SECRETS, take_secrets
from flows.train_and_eval import train_and_eval
from samuel.audio import read_wav
from samuel.config import Settings
from samuel.errors import DatasetError, MissingPartError, OperatorError
from samuel.popdb.accounts import GROUPS_IN_HAND
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.dataset import open_popdb
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.reading import read_json
from tests.flows.conftest import song
from tests.flows.runs import PASSWORD, ROOT, digests, folder_settings, latest_artifacts, task_states, wait_for
from tests.popdb.latents import FRAMES, small_settings
from tests.popdb.site import AT_ONCE, Answer, LocalSite, encoded, serving, yt_dlp_plugin
from tests.weights import write_demucs, write_stable_audio

STATUSES = {
    "one": "ok", "two": "ok", "three": "ok",
    "broken": "decode_failed", "short": "too_short", "silent": "silent",
}  # fmt: skip
BUILD_TASKS = 12  # check, list, write, and three stages of three groups of two files


@pytest.fixture(scope="module")
def undisturbed(server: str, songs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a run of both flows that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    settings = folder_settings(root, songs_folder, ablation={"factors": ["loss_weight"], "seeds": 1})
    build_popdb(settings=settings)
    train_and_eval(settings=settings)
    return settings


def test_what_is_done_shows_as_cached_with_all_that_it_made(
    undisturbed: Settings, songs_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = open_popdb(undisturbed.popdb_path).songs().to_pylist()
    assert {row["title"]: row["status"] for row in rows} == STATUSES
    assert {row["title"]: row["pairs"] for row in rows if row["pairs"]} == {"one": 2, "two": 2, "three": 2}
    for path in Path(undisturbed.popdb_path).rglob("*"):  # and the dataset carries no path of this machine
        if path.is_file():
            assert str(undisturbed.data).encode() not in path.read_bytes()
            assert str(songs_folder).encode() not in path.read_bytes()

    def modified() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in undisturbed.data.rglob("*.safetensors")}

    before = modified()
    build_popdb(settings=undisturbed)
    states = task_states(caplog)
    worked = {name: state for name, state in states.items() if not name.startswith(("check", "list"))}
    assert len(worked) == BUILD_TASKS - 2
    assert set(worked.values()) == {"Cached"}
    made = train_and_eval(settings=undisturbed)
    states = task_states(caplog)
    assert {states[name] for name in ("train", "generate", "score", "report")} == {"Cached"}
    assert before == modified()

    (accompaniment,) = made["accompaniments"]
    assert read_wav(Path(accompaniment)).shape == (2, FRAMES * 2048)
    assert (Path(made["model"]) / "model.safetensors").is_file()
    text = Path(made["report"]).read_text().replace("\\", "")  # of Markdown
    assert "6 pairs from 3 of 6 songs" in text
    assert "AudioBox-Aesthetics (PQ, PC, CE, CU): not measured" in text

    shown = {key: str(artifact.data) for key, artifact in latest_artifacts().items()}
    for key, words in {
        "songs": ["decode_failed"],
        "popdb": ["songs_kept"],
        "report": ["data:image/png;base64,", "report.html`"],
        "scores": ["chroma likeness", "SAMUeL"],
        "vocal-share": ["vocal shares are too high", "![Vocal share](data:image/png;base64,iVBOR"],
    }.items():
        assert all(word in shown[key] for word in words), shown[key][:1000]
    assert not any(word in shown["report"] for word in ("](loss.png)", "](audio/"))
    assert all(len(data) < 1_000_000 for data in shown.values())


def test_what_is_gone_or_changed_is_made_again_and_nothing_else(
    undisturbed: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = digests(Path(undisturbed.popdb_path))
    latents = next(undisturbed.data.glob("latents/*/latents.safetensors"))
    content = latents.read_bytes()
    shutil.rmtree(latents.parent)
    build_popdb(settings=undisturbed)
    assert latents.read_bytes() == content
    assert digests(Path(undisturbed.popdb_path)) == before
    assert sorted(task_states(caplog).values()).count("Completed") == 3  # check, list, one encode

    changed = undisturbed.popdb.model_copy(update={"chunk_frames": 128, "path": str(tmp_path / "popdb")})
    build_popdb(settings=undisturbed.model_copy(update={"popdb": changed}))
    states = task_states(caplog)
    kept = {state for name, state in states.items() if name.startswith(("download", "separate"))}
    made = {state for name, state in states.items() if name.startswith(("encode", "write"))}
    assert (kept, made) == ({"Cached"}, {"Completed"})


def test_a_study_is_run_shown_and_not_run_again(
    undisturbed: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = {"check the parts", "write the table", "train as set, seed 0"}
    tasks |= {f"train loss_weight = {value}, seed 0" for value in ("snr", "uniform")}
    made = ablate(settings=undisturbed)
    states = task_states(caplog)
    assert set(states) == tasks
    assert {name for name, state in states.items() if state == "Cached"} == {"train as set, seed 0"}
    table = Path(made["table"])
    fits = read_json(table.with_name("ablation.json"))["fits"]
    assert [fit["value"] for fit in fits] == [None, "snr", "uniform"]
    shown = latest_artifacts()["ablation"].data
    assert shown.startswith(table.read_text("utf-8").partition("![Ablations]")[0])
    assert "![Ablations](data:image/png;base64,iVBOR" in shown
    assert ablate(settings=undisturbed) == made
    states = task_states(caplog)
    assert {state for name, state in states.items() if name != "check the parts"} == {"Cached"}


def test_killed_in_training_the_flows_go_on_to_the_same_bytes(
    undisturbed: Settings, server: str, songs_folder: Path, tmp_path: Path
) -> None:
    settings = folder_settings(tmp_path, songs_folder)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "flows.demo", "--settings", str(tmp_path / "settings.json")]
    port = server.rpartition(":")[2].removesuffix("/api")
    environment = {**os.environ, "SAMUEL_PREFECT_PORT": port, "PREFECT_API_AUTH_STRING": PASSWORD}
    output = tmp_path / "output"

    def start() -> "subprocess.Popen[bytes]":
        with output.open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def steps() -> int:
        metrics = tmp_path.glob("artifacts/*/training/metrics.jsonl")
        return sum(path.read_text().count("\n") for path in metrics)

    process = start()
    wait_for(lambda: steps() >= 3 or process.poll() is not None, output.read_text, pause_s=0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("artifacts/*/model/entry.json")), output.read_text()
    assert start().wait(timeout=180) == 0, output.read_text()[-2000:]
    assert digests(Path(settings.popdb_path)) == digests(Path(undisturbed.popdb_path))
    (made,) = model_digests(settings)
    assert made in model_digests(undisturbed)  # beside those of the study


def model_digests(settings: Settings) -> set[str]:
    return {
        read_json(path)["files"]["model.safetensors"]["sha256"]
        for path in settings.artifacts.glob("*/model/entry.json")
    }


def test_what_is_missing_is_named_before_any_song(
    server: str, songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flow in (train_and_eval, ablate):
        with pytest.raises(DatasetError, match="run the flow build-popdb"):
            flow(settings=small_settings(tmp_path))
    demucs = {"name": "demucs", "repo": tmp_path / "none"}
    with pytest.raises(MissingPartError, match=r"demucs.*correct separator\.repo"):
        build_popdb(settings=folder_settings(tmp_path, songs_folder, separator=demucs))
    monkeypatch.setattr("flows.build_popdb.require", lambda *_: [])  # it wants more than this disk has
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with pytest.raises(OperatorError, match=r"needs about .* 0\.01 GB free; .*songs\.limit"):
        build_popdb(settings=folder_settings(tmp_path, songs_folder))
    assert not list(tmp_path.glob("data/raw/*/entry.json"))
    assert THREADS + 2 == GROUPS_IN_HAND  # no more songs are in hand than the space for them


# From a song list, by real yt-dlp from a site of our own.

SECONDS = 7.0
TITLES = ("--exec touch x", "TRUE", "../../x", "Nowhere to be found", "Broken", "Blocked", "22")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSite]:
    monkeypatch.setenv("NO_PROXY", "*")
    with yt_dlp_plugin(), serving() as local:
        monkeypatch.setenv("SAMUEL_TEST_SITE", local.base)
        for number, title in enumerate(TITLES):
            if not title.startswith("Nowhere"):
                media = Answer(encoded(song(number, SECONDS)))
                local.add_video(f"v{number}", media, SECONDS, title=f"Some Artist - {title}")
        local.answers["/media/v4"] = Answer(b"no audio")
        local.answers["/media/v5"] = Answer(b"", 403)
        yield local


@pytest.fixture
def listed(tmp_path: Path) -> Settings:
    rows = [f'"{title}",{50 + number},{SECONDS * 1000:.0f}\n' for number, title in enumerate(TITLES)]
    path = tmp_path / "list.csv"
    path.write_text("song_name,song_popularity,song_duration_ms\n" + "".join(rows))
    songs = {"source": "csv", "path": path, "min_popularity": 51}
    download = {**AT_ONCE, "policy": "scored", "search_results": 10}
    return small_settings(tmp_path, songs=songs, download=download)


def test_every_song_of_the_list_is_accounted_for_and_a_rerun_fetches_only_what_is_worth_it(
    server: str, site: LocalSite, listed: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    build_popdb(settings=listed)
    rows = {row["title"]: row for row in open_popdb(listed.popdb_path).songs().to_pylist()}
    assert {title: (row["stage"], row["status"]) for title, row in rows.items()} == {
        "TRUE": ("encode", "ok"),
        "../../x": ("encode", "ok"),
        "Nowhere to be found": ("match", "no_match"),
        "Broken": ("download", "decode_failed"),
        "Blocked": ("download", "forbidden"),
        "22": ("encode", "ok"),
    }
    assert rows["22"]["video_id"] == "v6"
    shown = latest_artifacts()
    assert "popularity under 51" in str(shown["song-list"].data)
    for words in ("no_match 1", "decode_failed 1", "forbidden 1", "downloaded", "encoded"):
        assert words in str(shown["songs"].data)
    assert float(shown["download"].data) == 100
    assert "6 of 6 songs" in caplog.text
    site.requests.clear()
    site.answers["/media/v5"] = Answer(encoded(song(5, SECONDS)))
    assert build_popdb(settings=listed)["songs_kept"] == 4
    assert site.requests == ["/watch/v5", "/media/v5"]


def test_a_bot_check_and_a_bug_end_the_flow_with_their_own_words_and_nothing_is_fetched_after(
    server: str, site: LocalSite, listed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_page("v6", error="Sign in to confirm you are not a bot")
    with pytest.raises(OperatorError, match=r"download\.download_interval_s"):
        build_popdb(settings=listed)
    site.add_page("v6", duration=SECONDS)
    made: list[Parts] = []

    def remembered(settings: Settings) -> Parts:
        made.append(Parts(settings))
        return made[-1]

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("samuel.popdb.stages.separate", broken)
        patched.setattr("flows.build_popdb.Parts", remembered)
        with pytest.raises(RuntimeError, match="a bug"):
            build_popdb(settings=listed)
    with pytest.raises(OperatorError, match="the run has ended"):
        acquire_songs([Song("later", "Later")], made[0])
    assert build_popdb(settings=listed)["songs_kept"] == 3


@pytest.mark.usefixtures("server")
def test_a_secret_comes_from_a_block_or_the_environment_and_is_written_nowhere(
    songs_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    value = "a-token-that-nobody-may-read"
    for variable in SECRETS:
        monkeypatch.setenv(variable, "")  # so that what the flow sets is undone
        monkeypatch.delenv(variable)
    Secret(value=value).save(SECRETS["HF_TOKEN"], overwrite=True)  # type: ignore[arg-type]
    monkeypatch.setenv("KAGGLE_KEY", "mine")
    build_popdb(settings=folder_settings(tmp_path, songs_folder))
    held = {variable: os.environ[variable] for variable in SECRETS if variable in os.environ}
    assert held == {"HF_TOKEN": value, "KAGGLE_KEY": "mine"}  # no block of a third is no error
    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition("///")[2])
    assert database.is_file()
    written = [path for place in (tmp_path, PREFECT_HOME.value()) for path in place.rglob("*")]
    written += database.parent.glob(f"{database.name}*")
    assert not [path for path in written if path.is_file() and value.encode() in path.read_bytes()]
    assert value not in caplog.text
    monkeypatch.setenv("HF_TOKEN", "mine too")
    take_secrets()
    assert os.environ["HF_TOKEN"] == "mine too"


def test_the_real_parts_build_the_same_dataset_in_any_batches_and_let_go_what_is_spent(
    server: str, tmp_path: Path
) -> None:
    (tmp_path / "songs").mkdir()
    for number in range(3):  # 4 to 10 s below 200 Hz, which the small weights give back
        time_s = np.arange((4 + 3 * number) * 44_100) / 44_100
        chord = sum(np.sin(2 * np.pi * hertz * time_s) for hertz in (50 + 5 * number, 110, 160))
        wave = 0.2 * np.stack([chord, 0.8 * chord], axis=1)
        soundfile.write(tmp_path / "songs" / f"{number}.wav", wave, 44_100)
    write_demucs(tmp_path / "demucs")
    write_stable_audio(tmp_path / "vae", faithful=True)

    def settings_in(name: str, in_hand: int, retention: str) -> Settings:
        return folder_settings(
            tmp_path / name,
            tmp_path / "songs",
            separator={"name": "demucs", "model": "tiny", "repo": tmp_path / "demucs", "batch": 4},
            codec={"name": "stable-audio-open", "path": str(tmp_path / "vae"), "batch": 4},
            retention={"audio": retention, "stems": retention},
        ).model_copy(update={"songs_in_hand": in_hand})

    kept, gone = settings_in("kept", 1, "keep"), settings_in("gone", 4, "remove")
    assert build_popdb(settings=kept)["pairs"] == 1 + 2 + 3
    assert len(list(kept.data.rglob("*.flac"))) == 6
    for _ in range(2):  # what is removed on the way is not wanted again
        build_popdb(settings=gone)
        assert not [*gone.data.rglob("*.flac"), *gone.data.rglob("audio.wav")]
        assert digests(Path(gone.popdb_path) / "shards") == digests(Path(kept.popdb_path) / "shards")
