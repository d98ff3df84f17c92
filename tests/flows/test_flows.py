"""Both flows, and ablate, on a real server: what they make, show, do not do again, and how they fail."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
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
from samuel.artifacts import read_json
from samuel.audio import read_wav
from samuel.config import Settings, SongsConfig
from samuel.errors import DatasetError, InputError, MissingPartError, OperatorError
from samuel.popdb.accounts import GROUPS_IN_HAND
from samuel.popdb.dataset import open_popdb
from tests.flows.runs import digests, folder_settings, latest_artifacts, states_of_last_run, wait_for
from tests.popdb.latents import FRAMES, small_settings
from tests.weights import write_demucs, write_stable_audio

ROOT = Path(__file__).resolve().parent.parent.parent
STATUSES = {
    "one": "ok", "two": "ok", "three": "ok",
    "broken": "decode_failed", "short": "too_short", "silent": "silent",
}  # fmt: skip
BUILD_TASKS = 12  # check, list, write, and three stages of three groups of two files
TRAIN_TASKS = 5  # check, train, generate, score, report


@pytest.fixture(scope="module")
def undisturbed(server: str, songs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a run of both flows that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    ablation = {"factors": ["loss_weight"], "seeds": 1}
    settings = folder_settings(root, songs_folder, ablation=ablation)
    build_popdb(settings=settings)
    train_and_eval(settings=settings)
    return settings


def modified(settings: Settings) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in settings.data.rglob("*.safetensors")}


def test_every_file_of_the_folder_is_accounted_for(undisturbed: Settings, songs_folder: Path) -> None:
    rows = open_popdb(undisturbed.popdb_path).songs().to_pylist()
    assert {row["title"]: row["status"] for row in rows} == STATUSES
    assert {row["title"]: row["pairs"] for row in rows if row["pairs"]} == {"one": 2, "two": 2, "three": 2}
    assert all(row["message"] for row in rows if row["status"] != "ok")
    for path in Path(undisturbed.popdb_path).rglob("*"):  # and the dataset carries no path of this machine
        if path.is_file():
            assert str(undisturbed.data).encode() not in path.read_bytes()
            assert str(songs_folder).encode() not in path.read_bytes()


def test_what_is_done_shows_as_cached_with_all_that_it_made(undisturbed: Settings) -> None:
    before = modified(undisturbed)
    build_popdb(settings=undisturbed)
    states = states_of_last_run(BUILD_TASKS)
    worked = {name: state for name, state in states.items() if not name.startswith(("check", "list"))}
    assert len(worked) == BUILD_TASKS - 2
    assert set(worked.values()) == {"Cached"}

    made = train_and_eval(settings=undisturbed)
    states = states_of_last_run(TRAIN_TASKS)
    assert {states[name] for name in ("train", "generate", "score", "report")} == {"Cached"}
    assert before == modified(undisturbed)

    (accompaniment,) = made["accompaniments"]
    assert read_wav(Path(accompaniment)).shape == (2, FRAMES * 2048)
    text = Path(made["report"]).read_text()
    assert "6 pairs from 3 of 6 songs" in text
    assert "AudioBox-Aesthetics (PQ, PC, CE, CU): not measured" in text
    assert (Path(made["model"]) / "model.safetensors").is_file()

    shown = latest_artifacts()
    assert "decode_failed" in shown["songs"]
    assert "songs_kept" in shown["popdb"]
    assert "data:image/png;base64," in shown["report"]
    assert "](loss.png)" not in shown["report"]
    assert "](audio/" not in shown["report"]
    assert "report.html`" in shown["report"]
    assert "chroma likeness" in shown["scores"]
    assert "SAMUeL" in shown["scores"]
    assert "vocal shares are too high" in shown["vocal-share"]
    assert "![Vocal share](data:image/png;base64,iVBOR" in shown["vocal-share"]
    assert all(len(data) < 1_000_000 for data in shown.values())


def test_a_deleted_file_is_rebuilt(undisturbed: Settings) -> None:
    before = digests(Path(undisturbed.popdb_path))
    latents = next(undisturbed.data.glob("latents/*/latents.safetensors"))
    content = latents.read_bytes()
    shutil.rmtree(latents.parent)
    build_popdb(settings=undisturbed)
    assert latents.read_bytes() == content
    assert digests(Path(undisturbed.popdb_path)) == before
    assert sorted(states_of_last_run(BUILD_TASKS).values()).count("Completed") == 3  # check, list, one encode


def test_a_changed_setting_rebuilds_what_depends_on_it(undisturbed: Settings, tmp_path: Path) -> None:
    changed = undisturbed.popdb.model_copy(update={"chunk_frames": 128, "path": str(tmp_path / "popdb")})
    build_popdb(settings=undisturbed.model_copy(update={"popdb": changed}))
    states = states_of_last_run(BUILD_TASKS)
    kept = {state for name, state in states.items() if name.startswith(("download", "separate"))}
    made = {state for name, state in states.items() if name.startswith(("encode", "write"))}
    assert (kept, made) == ({"Cached"}, {"Completed"})


def test_a_study_is_run_shown_and_not_run_again(undisturbed: Settings) -> None:
    tasks = {"check the parts", "write the table", "train as set, seed 0"}
    tasks |= {f"train loss_weight = {value}, seed 0" for value in ("snr", "uniform")}
    made = ablate(settings=undisturbed)
    states = states_of_last_run(len(tasks))
    assert set(states) == tasks
    assert {name for name, state in states.items() if state == "Cached"} == {"train as set, seed 0"}
    table = Path(made["table"])
    assert [fit["value"] for fit in read_json(table.with_name("ablation.json"))["fits"]] == [
        None,
        "snr",
        "uniform",
    ]
    shown = latest_artifacts()["ablation"]
    assert shown.startswith(table.read_text("utf-8").partition("![Ablations]")[0])
    assert "![Ablations](data:image/png;base64,iVBOR" in shown
    assert ablate(settings=undisturbed) == made
    states = states_of_last_run(len(tasks))
    assert {state for name, state in states.items() if name != "check the parts"} == {"Cached"}


def test_killed_at_three_stages_the_flows_go_on_to_the_same_bytes(
    undisturbed: Settings, server: str, songs_folder: Path, tmp_path: Path
) -> None:
    settings = folder_settings(tmp_path, songs_folder)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "flows.demo", "--settings", str(tmp_path / "settings.json")]
    environment = {**os.environ, "SAMUEL_PREFECT_PORT": server.rpartition(":")[2].removesuffix("/api")}
    output = tmp_path / "output"

    def start() -> "subprocess.Popen[bytes]":
        with output.open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def found(pattern: str) -> int:
        return len(list(tmp_path.glob(pattern)))

    def steps() -> int:
        metrics = tmp_path.glob("artifacts/*/training/metrics.jsonl")
        return sum(path.read_text().count("\n") for path in metrics)

    kills: list[tuple[Callable[[], bool], Callable[[], bool]]] = [
        (lambda: found("data/raw/*/entry.json") >= 1, lambda: found("data/raw/*/entry.json") < 4),
        (lambda: found("data/stems/*/entry.json") >= 1, lambda: found("data/latents/*/entry.json") < 3),
        (lambda: steps() >= 3, lambda: found("artifacts/*/model/entry.json") == 0),
    ]
    for reached, unfinished in kills:
        process = start()
        wait_for(lambda: reached() or process.poll() is not None, output.read_text, pause_s=0.002)  # noqa: B023
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert unfinished(), f"the stage was over before the kill:\n{output.read_text()}"
    assert start().wait(timeout=180) == 0, output.read_text()[-2000:]
    assert digests(Path(settings.popdb_path)) == digests(Path(undisturbed.popdb_path))
    (made,) = model_digests(settings)
    assert made in model_digests(undisturbed)  # beside those of the study


def model_digests(settings: Settings) -> set[str]:
    return {
        read_json(path)["files"]["model.safetensors"]["sha256"]
        for path in settings.artifacts.glob("*/model/entry.json")
    }


# What ends a run before its long work, or in it, with words of its own.


def test_what_is_missing_is_named_before_any_song(
    undisturbed: Settings, songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = small_settings(tmp_path)
    for flow in (train_and_eval, ablate):
        with pytest.raises(DatasetError, match="run the flow build-popdb"):
            flow(settings=none)
    with pytest.raises(InputError, match="absent"):
        build_popdb(settings=folder_settings(tmp_path, tmp_path / "absent"))
    demucs = {"name": "demucs", "repo": tmp_path / "none"}
    with pytest.raises(MissingPartError, match=r"demucs.*correct separator\.repo"):
        build_popdb(settings=folder_settings(tmp_path, songs_folder, separator=demucs))
    elsewhere = undisturbed.popdb.model_copy(update={"path": str(undisturbed.popdb_path)})
    other = {"data": tmp_path, "songs": SongsConfig(), "popdb": elsewhere}
    before = digests(Path(undisturbed.popdb_path))
    with pytest.raises(
        InputError, match="a dataset from the source 'folder' is there, and this one is from 'synth"
    ):
        build_popdb(settings=undisturbed.model_copy(update=other))
    assert digests(Path(undisturbed.popdb_path)) == before
    monkeypatch.setattr("flows.build_popdb.require", lambda *_: [])  # it wants more than this disk has
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with pytest.raises(OperatorError, match=r"needs about .* 0\.01 GB free; .*songs\.limit"):
        build_popdb(settings=folder_settings(tmp_path, songs_folder))
    assert not list(tmp_path.glob("data/raw/*/entry.json"))
    assert THREADS + 2 == GROUPS_IN_HAND  # no more songs are in hand than the space for them


def test_songs_of_which_none_is_left_write_no_dataset(
    undisturbed: Settings, server: str, tmp_path: Path
) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.wav").write_text("no audio")
    with pytest.raises(InputError, match=r"no song could be used.*decode_failed"):
        build_popdb(settings=folder_settings(tmp_path, tmp_path / "songs"))
    assert not (tmp_path / "data" / "popdb").exists()
    before = modified(undisturbed)
    changed = undisturbed.popdb.model_copy(update={"min_vocal_share": 0.9, "path": str(tmp_path / "popdb")})
    with pytest.raises(InputError, match=r"popdb\.min_vocal_share = 0\.9 leaves none of 6 chunks"):
        build_popdb(settings=undisturbed.model_copy(update={"popdb": changed}))
    assert before == modified(undisturbed)  # nothing is encoded again


def test_what_an_operator_must_mend_ends_the_flow_with_its_own_words(
    server: str, songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> dict[str, Any]:
        raise OperatorError("the disk is full: make room")

    monkeypatch.setattr("samuel.popdb.acquire.fetch_file", full)
    with pytest.raises(OperatorError, match="the disk is full: make room"):
        build_popdb(settings=folder_settings(tmp_path, songs_folder))


# Secrets come from the environment or from blocks, and are written nowhere.

VALUE = "a-token-that-nobody-may-read"


@pytest.fixture
def block(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for variable in SECRETS:
        monkeypatch.setenv(variable, "")  # so that what the flow sets is undone
        monkeypatch.delenv(variable)
    Secret(value=VALUE).save(SECRETS["HF_TOKEN"], overwrite=True)  # type: ignore[arg-type]
    return VALUE


def held() -> dict[str, str]:
    return {variable: os.environ[variable] for variable in SECRETS if variable in os.environ}


def test_a_block_is_taken_where_the_environment_has_none(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "mine")
    take_secrets()  # of a third there is no block, which is no error
    assert held() == {"HF_TOKEN": block, "KAGGLE_KEY": "mine"}
    monkeypatch.setenv("HF_TOKEN", "mine too")
    take_secrets()
    assert held()["HF_TOKEN"] == "mine too"


def test_a_secret_is_written_nowhere(
    block: str, songs_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    build_popdb(settings=folder_settings(tmp_path, songs_folder))
    assert held() == {"HF_TOKEN": block}
    database = Path(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition("///")[2])
    assert database.is_file()
    places = (tmp_path, PREFECT_HOME.value())
    written = [path for place in places for path in place.rglob("*")]
    written += database.parent.glob(f"{database.name}*")
    assert not [path for path in written if path.is_file() and VALUE.encode() in path.read_bytes()]
    assert VALUE not in caplog.text


# Demucs and the VAE, small ones in the official layouts, by their official loaders.


@pytest.fixture
def low_songs(tmp_path: Path) -> Path:
    """Four songs of 4 to 10 s below 200 Hz, which the small weights give back."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for number in range(4):
        time_s = np.arange((4 + 2 * number) * 44_100) / 44_100
        chord = sum(np.sin(2 * np.pi * hertz * time_s) for hertz in (50 + 5 * number, 110, 160))
        soundfile.write(folder / f"{number}.wav", 0.2 * np.stack([chord, 0.8 * chord], axis=1), 44_100)
    return folder


def test_the_real_parts_build_the_same_dataset_in_any_batches_and_let_go_what_is_spent(
    server: str, tmp_path: Path, low_songs: Path
) -> None:
    write_demucs(tmp_path / "demucs")
    write_stable_audio(tmp_path / "vae", faithful=True)

    def settings_in(name: str, in_hand: int, retention: str) -> Settings:
        return small_settings(
            tmp_path / name,
            songs={"source": "folder", "path": low_songs},
            separator={"name": "demucs", "model": "tiny", "repo": tmp_path / "demucs", "batch": 4},
            codec={"name": "stable-audio-open", "path": str(tmp_path / "vae"), "batch": 4},
            retention={"audio": retention, "stems": retention},
        ).model_copy(update={"songs_in_hand": in_hand})

    kept, gone = settings_in("kept", 1, "keep"), settings_in("gone", 4, "remove")
    assert build_popdb(settings=kept)["pairs"] == 1 + 2 + 2 + 3
    assert len(list(kept.data.rglob("*.flac"))) == 8
    for _ in range(2):  # what is removed on the way is not wanted again
        build_popdb(settings=gone)
        assert not [*gone.data.rglob("*.flac"), *gone.data.rglob("audio.wav")]
        assert digests(Path(gone.popdb_path) / "shards") == digests(Path(kept.popdb_path) / "shards")
