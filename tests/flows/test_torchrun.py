"""Trainings on two processes, started by the flow's own code: their end, and every way they are ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from prefect import flow
from safetensors.torch import load_file

from flows.torchrun import fit_together, newest_row
from flows.train_and_eval import train
from samuel.artifacts import Artifact, find_artifact
from samuel.config import Settings
from samuel.errors import MissingPartError, SamuelError, StoppedError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.writer import write_popdb
from samuel.train import fit, run_folder
from tests.popdb.latents import encoded_song, small_settings
from tests.train.trainings import ignore, put_nan

ROOT = Path(__file__).resolve().parent.parent.parent
LONG = {"steps": 4000, "validate_every": 500, "checkpoint_every": 1000}
CHILD = """
import sys
from pathlib import Path
from flows.torchrun import fit_together
from samuel.config import read_settings
settings = read_settings(Path(sys.argv[1]))
fit_together(settings, Path(sys.argv[2]), lambda row: None, lambda: False)
"""


@pytest.fixture(autouse=True)
def temporary_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings' file is then below `tmp_path`, and so is the command line of every process."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)


def together(root: Path, **training: Any) -> tuple[Settings, Path]:
    """Settings of two processes, with a dataset, and the folder of the run."""
    settings = small_settings(root, training={"processes": 2, **training})
    popdb = write_popdb([encoded_song(root, name) for name in "abcd"], settings)
    return settings, run_folder(popdb, settings)


def children(root: Path) -> list[str]:
    """Command lines of the processes of a training below `root`."""
    found = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [line for line in found if str(root) in line and "samuel.cli train" in line]


def none_left(root: Path) -> None:
    deadline = time.monotonic() + 60
    while left := children(root):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_two_processes_make_the_model_that_one_makes(server: str, tmp_path: Path) -> None:
    settings, run = together(tmp_path)
    told: list[int] = []

    @flow
    def trained() -> Any:
        return train(open_popdb(settings.popdb_path), settings, run, return_state=True)

    state = trained(return_state=True).result()
    assert state.name == "Completed"
    model = find_artifact(run / "model")
    assert model
    assert model.record["progress"]["step"] == settings.training.steps
    alone = fit(open_popdb(settings.popdb_path), settings, tmp_path / "alone", ignore)
    ours, other = (load_file(entry.path("model.safetensors")) for entry in (model, alone))
    assert max((ours[name] - other[name]).abs().max().item() for name in ours) < 1e-5
    assert trained(return_state=True).result().name == "Cached"
    assert not told
    assert not children(tmp_path)


def test_it_ends_with_a_checkpoint_when_the_run_ends(tmp_path: Path) -> None:
    settings, run = together(tmp_path, **LONG)
    modes: set[int] = set()
    steps: list[int] = []

    def on_step(row: dict[str, Any]) -> None:
        steps.append(row["step"])
        modes.update(
            path.stat().st_mode & 0o777 for path in (tmp_path / "tmp").glob("samuel-*/settings.json")
        )

    with pytest.raises(StoppedError, match="goes on from its checkpoint"):
        fit_together(settings, run, on_step, lambda: bool(steps))
    assert not children(tmp_path)
    (checkpoint,) = run.glob("training/step-*")
    newest = newest_row(run / "training" / "metrics.jsonl")
    assert newest
    assert checkpoint.name == f"step-{newest['step']:08d}"
    assert 0 < steps[0] <= newest["step"] < LONG["steps"]
    assert modes == {0o600}
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("whom", ["the flow's process", "torchrun's agent"])
def test_nobody_is_left_when_one_is_killed(tmp_path: Path, whom: str) -> None:
    settings, run = together(tmp_path, **LONG)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-c", CHILD, str(tmp_path / "settings.json"), str(run)]
    parent = psutil.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while newest_row(run / "training" / "metrics.jsonl") is None:
        assert parent.poll() is None, parent.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(children(tmp_path)) == 3  # the agent and two that train
    (agent,) = parent.children()
    (parent if whom == "the flow's process" else agent).send_signal(signal.SIGKILL)
    errors = parent.communicate(timeout=60)[1]
    none_left(tmp_path)
    assert find_artifact(run / "model") is None
    if whom == "torchrun's agent":
        assert "SamuelError" in errors


def test_what_went_wrong_is_told_in_the_words_of_the_training(server: str, tmp_path: Path) -> None:
    settings, run = together(tmp_path, batch_size=4)
    popdb = open_popdb(settings.popdb_path)
    broken = popdb.pairs("train")[3]["pair_id"]
    put_nan(popdb, broken, "vocal")

    @flow
    def trained() -> Artifact:
        return fit_together(settings, run, ignore, lambda: False)

    with pytest.raises(
        SamuelError, match=f"^step 0: NaN or infinity in the latents of {broken}; run samuel verify"
    ):
        trained()


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, run = together(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(MissingPartError, match=r"training\.processes = 2: each .* this machine has 1; set"):
        fit_together(settings.model_copy(update={"device": "auto"}), run, ignore, lambda: False)
    assert not run.exists()


def test_the_newest_row_is_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert newest_row(path) is None
    path.write_text('{"step": 1')
    assert newest_row(path) is None
    path.write_text("".join(json.dumps({"step": n, "fill": "x" * 50}) + "\n" for n in range(1000)) + '{"st')
    assert newest_row(path) == {"step": 999, "fill": "x" * 50}
    os.truncate(path, 0)
    assert newest_row(path) is None
