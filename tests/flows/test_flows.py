import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import FlowRunSort

from flows.artifacts import few_tracks_pictured
from flows.build_popdb import THREADS, build_popdb
from flows.train_and_eval import train_and_eval
from samuel.audio import read_wav
from samuel.config import Settings, SongsConfig
from samuel.errors import (
    DatasetError,
    InputError,
    MissingPartError,
    OperatorError,
)
from samuel.popdb.dataset import open_popdb
from samuel.popdb.space import GROUPS_IN_HAND
from tests.flows.artifacts import latest_artifacts
from tests.popdb.latents import FRAMES, small_settings

ROOT = Path(__file__).resolve().parent.parent.parent
STATUSES = {
    "one": "ok", "two": "ok", "three": "ok",
    "broken": "decode_failed", "short": "too_short", "silent": "silent",
}  # fmt: skip


def folder_settings(root: Path, songs: Path, **sections: Any) -> Settings:
    return small_settings(root, songs={"source": "folder", "path": songs}, **sections)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


BUILD_TASKS = 12  # check, list, write, and three stages of three groups of two files
TRAIN_TASKS = 5  # check, train, generate, score, report


def states_of_last_run(tasks: int) -> dict[str, str]:
    """Task name → state name of the newest flow run, once the server has recorded the end of that many."""
    deadline = time.monotonic() + 60
    states: dict[str, str] = {}
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        while len(states) < tasks or not set(states.values()) <= {"Completed", "Cached"}:
            assert time.monotonic() < deadline, states
            time.sleep(0.1)
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
            states = {task.name: task.state_name or "" for task in found}
    return states


@pytest.fixture(scope="module")
def undisturbed(server: str, songs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a run of both flows that nothing disturbed."""
    settings = folder_settings(tmp_path_factory.mktemp("undisturbed"), songs_folder)
    build_popdb(settings)
    train_and_eval(settings)
    return settings


def test_every_file_of_the_folder_is_accounted_for(undisturbed: Settings) -> None:
    rows = open_popdb(undisturbed.popdb_path).songs().to_pylist()
    assert {row["title"]: row["status"] for row in rows} == STATUSES
    assert {row["title"]: row["pairs"] for row in rows if row["pairs"]} == {"one": 2, "two": 2, "three": 2}
    assert all(row["message"] for row in rows if row["status"] != "ok")


def test_what_is_done_shows_as_cached_and_is_not_done_again(undisturbed: Settings) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.data.rglob("*.safetensors")}
    build_popdb(undisturbed)
    states = states_of_last_run(BUILD_TASKS)
    worked = {name: state for name, state in states.items() if not name.startswith(("check", "list"))}
    assert len(worked) > 3
    assert set(worked.values()) == {"Cached"}
    train_and_eval(undisturbed)
    states = states_of_last_run(TRAIN_TASKS)
    assert {states[name] for name in ("train 6 steps", "generate", "score", "report")} == {"Cached"}
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.data.rglob("*.safetensors")}


def test_a_run_leaves_what_it_says(undisturbed: Settings) -> None:
    made = train_and_eval(undisturbed)
    (accompaniment,) = made["accompaniments"]
    assert read_wav(Path(accompaniment)).shape == (2, FRAMES * 2048)
    report = Path(made["report"])
    text = report.read_text()
    assert "6 pairs from 3 of 6 songs" in text
    assert "REPET-SIM" in text
    assert "AudioBox-Aesthetics (PQ, PC, CE, CU): not measured" in text
    assert (report.parent / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(report.parent.glob("spectrogram-*.png"))) == 1
    assert (Path(made["model"]) / "model.safetensors").is_file()


def test_a_deleted_file_is_rebuilt(undisturbed: Settings) -> None:
    before = digests(Path(undisturbed.popdb_path))
    latents = next(undisturbed.data.glob("latents/*/latents.safetensors"))
    content = latents.read_bytes()
    shutil.rmtree(latents.parent)
    build_popdb(undisturbed)
    assert latents.read_bytes() == content
    assert digests(Path(undisturbed.popdb_path)) == before
    assert sorted(states_of_last_run(BUILD_TASKS).values()).count("Completed") == 3  # check, list, one encode


def test_a_dataset_of_other_songs_is_told_before_the_long_work(undisturbed: Settings, tmp_path: Path) -> None:
    other = undisturbed.model_copy(
        update={
            "data": tmp_path,
            "songs": SongsConfig(),
            "popdb": undisturbed.popdb.model_copy(update={"path": str(undisturbed.popdb_path)}),
        }
    )
    before = digests(Path(undisturbed.popdb_path))
    with pytest.raises(
        InputError, match="a dataset from the source 'folder' is there, and this one is from 'synth"
    ):
        build_popdb(other)
    assert digests(Path(undisturbed.popdb_path)) == before
    assert not (tmp_path / "demo").exists()


def test_a_changed_setting_rebuilds_what_depends_on_it(undisturbed: Settings, tmp_path: Path) -> None:
    changed = undisturbed.popdb.model_copy(update={"chunk_frames": 128, "path": str(tmp_path / "popdb")})
    build_popdb(undisturbed.model_copy(update={"popdb": changed}))
    states = states_of_last_run(BUILD_TASKS)
    assert {state for name, state in states.items() if name.startswith(("download", "separate"))} == {
        "Cached"
    }
    assert {state for name, state in states.items() if name.startswith(("encode", "write"))} == {"Completed"}


def test_another_least_vocal_share_encodes_nothing_again(undisturbed: Settings, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.data.rglob("latents.safetensors")}
    assert before
    changed = undisturbed.popdb.model_copy(update={"min_vocal_share": 0.9, "path": str(tmp_path / "popdb")})
    with pytest.raises(InputError, match=r"popdb\.min_vocal_share = 0\.9 leaves none of 6 chunks"):
        build_popdb(undisturbed.model_copy(update={"popdb": changed}))
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.data.rglob("latents.safetensors")}


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"it ended before it could be killed:\n{output.read_text()[-2000:]}"
        assert time.monotonic() < deadline, output.read_text()[-2000:]
        time.sleep(0.002)


def test_killed_at_three_stages_it_goes_on_to_the_same_bytes(
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
        wait_for(reached, process, output)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert unfinished(), "the stage was over before the kill"
    assert start().wait(timeout=180) == 0, output.read_text()[-2000:]
    assert digests(Path(settings.popdb_path)) == digests(Path(undisturbed.popdb_path))
    assert model_digests(settings) == model_digests(undisturbed)


def model_digests(settings: Settings) -> set[str]:
    return {
        json.loads(path.read_text())["files"]["model.safetensors"]["sha256"]
        for path in settings.artifacts.glob("*/model/entry.json")
    }


def test_training_without_a_dataset_says_what_to_run(server: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="run the flow build-popdb"):
        train_and_eval(small_settings(tmp_path))


def test_a_missing_folder_is_named(server: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        build_popdb(folder_settings(tmp_path, tmp_path / "absent"))


def test_a_folder_of_unusable_files_writes_no_dataset(server: str, tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.wav").write_text("no audio")
    with pytest.raises(InputError, match=r"no song could be used.*decode_failed"):
        build_popdb(folder_settings(tmp_path, tmp_path / "songs"))
    assert not (tmp_path / "data" / "popdb").exists()


def test_missing_weights_stop_the_run_before_any_song(
    server: str, songs_folder: Path, tmp_path: Path
) -> None:
    settings = folder_settings(
        tmp_path, songs_folder, separator={"name": "demucs", "repo": tmp_path / "none"}
    )
    with pytest.raises(MissingPartError, match=r"demucs.*correct separator\.repo"):
        build_popdb(settings)
    assert not (tmp_path / "data" / "raw").exists()


def test_a_disk_too_small_stops_the_run_before_any_song(
    server: str, songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.build_popdb.require", lambda *_: [])  # it wants more than this disk has
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with pytest.raises(OperatorError, match=r"needs about .* 10 MB free; .*songs\.limit"):
        build_popdb(folder_settings(tmp_path, songs_folder))
    assert not list(tmp_path.glob("data/raw/*/entry.json"))


def test_no_more_songs_are_in_hand_than_the_space_for_them() -> None:
    assert THREADS + 2 == GROUPS_IN_HAND


def test_what_an_operator_must_mend_ends_the_flow_with_its_own_words(
    server: str, songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> dict[str, Any]:
        raise OperatorError("the disk is full: make room")

    monkeypatch.setattr("samuel.popdb.acquire.fetch_file", full)
    with pytest.raises(OperatorError, match="the disk is full: make room"):
        build_popdb(folder_settings(tmp_path, songs_folder))


def test_the_dataset_carries_no_path_of_this_machine(undisturbed: Settings, songs_folder: Path) -> None:
    for path in Path(undisturbed.popdb_path).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(undisturbed.data).encode() not in content
            assert str(songs_folder).encode() not in content


def test_the_ui_keeps_the_pictures_of_the_first_tracks_alone() -> None:
    tracks = [f"### {n}\n\n![Spectrograms](spectrogram-{n}.png)\n\n- after {n}\n" for n in range(5)]
    text = few_tracks_pictured("![Loss](loss.png)\n" + "".join(tracks))
    assert [f"spectrogram-{n}.png" in text for n in range(5)] == [True] * 3 + [False] * 2
    assert "![Loss](loss.png)" in text
    assert all(f"- after {n}\n" in text for n in range(5))


def test_the_ui_gets_counts_and_pictures(undisturbed: Settings) -> None:
    train_and_eval(undisturbed)
    build_popdb(undisturbed)
    found = latest_artifacts()
    assert "decode_failed" in found["songs"]
    assert "songs_kept" in found["popdb"]
    assert "data:image/png;base64," in found["report"]
    assert "](loss.png)" not in found["report"]
    assert "](audio/" not in found["report"]
    assert "report.html`" in found["report"]
    assert "chroma likeness" in found["scores"]
    assert "SAMUeL" in found["scores"]
    assert "all kept, as in the paper" in found["vocal-share"]
    assert "vocal shares are too high" in found["vocal-share"]
    assert "![Vocal share](data:image/png;base64,iVBOR" in found["vocal-share"]
