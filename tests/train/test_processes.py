"""Trainings as processes of their own: several at once, killed, interrupted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from samuel.artifacts import Artifact
from samuel.config import Settings
from samuel.errors import MissingPartError
from samuel.popdb.dataset import Popdb
from samuel.reading import read_jsonl
from samuel.train import fit, train_together
from samuel.train.processes import LOOPBACK
from tests.popdb.latents import small_settings
from tests.train.trainings import checkpoints, fitted, untimed

ALONE = [sys.executable]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def started(popdb: Popdb, run: Path, launcher: list[str], **sections: Any) -> "subprocess.Popen[str]":
    run.mkdir(exist_ok=True)
    arguments = [str(popdb.root), str(run.parent), json.dumps(sections), str(run)]
    return subprocess.Popen(
        [*launcher, "-m", "tests.train.trainings", *arguments], stderr=subprocess.PIPE, text=True
    )


def test_two_processes_have_the_losses_of_one(popdb: Popdb, tmp_path: Path) -> None:
    training = {"batch_size": 4, "validation_pairs": 3}
    process = started(popdb, tmp_path / "together", TOGETHER, training=training)
    model = fitted(popdb, small_settings(tmp_path, training=training), tmp_path / "alone")
    errors = process.communicate(timeout=200)[1]
    assert process.returncode == 0, errors
    alone, together = (
        read_jsonl(path) for path in (model.path("metrics.jsonl"), tmp_path / "together/steps.jsonl")
    )
    for key, tolerance in (("loss", 1e-5), ("v_mse", 1e-5), ("gradient_norm", 1e-4)):
        assert [row[key] for row in together] == pytest.approx([row[key] for row in alone], rel=tolerance)
    for key in ("validation_loss", "validation_shuffled"):
        found, expected = ([row[key] for row in rows if key in row] for rows in (together, alone))
        assert len(expected) == 2
        assert found == pytest.approx(expected, rel=1e-5)
    one, other = (load_file(tmp_path / run / "model/model.safetensors") for run in ("alone", "together"))
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-5


def test_whoever_waits_goes_on_where_a_killed_process_was(
    popdb: Popdb, settings: Settings, whole: Artifact, tmp_path: Path
) -> None:
    """Two processes want the same model: one trains and is killed, the other waits and takes over."""
    run, own = tmp_path / "run", list[int]()
    process = started(popdb, run, ALONE)

    def wait_for(steps: int) -> None:
        while process.poll() is None and len(read_jsonl(run / "steps.jsonl")) < steps:
            time.sleep(0.005)

    def kill_at_three() -> None:
        wait_for(3)
        process.kill()

    wait_for(1)
    (killer := threading.Thread(target=kill_at_three)).start()
    model = fit(popdb, settings, run, lambda row: own.append(row["step"]))
    killer.join()
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert own == list(range(own[0], 7)) and own[0] % 2 == 1  # from a checkpoint to the end
    assert own[0] <= read_jsonl(run / "steps.jsonl")[-1]["step"] + 1
    assert untimed(model) == untimed(whole)
    assert model.sha256["model.safetensors"] == whole.sha256["model.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_a_training_takes_its_step_and_leaves_a_checkpoint(
    popdb: Popdb, settings: Settings, tmp_path: Path, number: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        fit(popdb, settings, tmp_path, lambda row: row["step"] == 3 and os.kill(os.getpid(), number))
    assert signal.getsignal(number) is before
    assert checkpoints(tmp_path) == [2, 3]


@pytest.fixture
def together(popdb: Popdb, tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """A long training on two processes, begun as a person does, which has taken its first steps."""
    long = {"steps": 4000, "validate_every": 500, "checkpoint_every": 1000}
    settings = small_settings(tmp_path, popdb={"path": str(popdb.root)}, training=long)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    (tmp_path / "tmp").mkdir()
    command = [*ALONE, "-m", "samuel.cli", "train", "training.processes=2", "--settings", "settings.json"]
    network = max(psutil.net_if_addrs(), key=lambda name: name != LOOPBACK)  # as for several machines
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "GLOO_SOCKET_IFNAME": network}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as process:
        try:
            while process.poll() is None and not any(tmp_path.glob("artifacts/*/training/metrics.jsonl")):
                time.sleep(0.05)
            assert process.poll() is None, process.communicate()[1]
            yield process
        finally:
            process.kill()


def test_of_one_machine_they_listen_to_nobody_else_and_end_together(
    together: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    ranks = psutil.Process(together.pid).children()
    used = [at for process in (*ranks, psutil.Process(together.pid)) for at in process.net_connections()]
    assert {at.laddr.ip for at in used} == {"127.0.0.1"}
    assert any(at.raddr for at in used)  # it is how they speak
    [private] = (tmp_path / "tmp").glob("samuel-*")
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "rendezvous").is_file()
    together.send_signal(signal.SIGINT)
    said = together.communicate(timeout=60)[1]
    assert together.returncode == 130
    assert said.count("interrupted") == 1
    assert "Traceback" not in said
    assert len(list(tmp_path.glob("artifacts/*/training/step-*"))) == 1
    assert not psutil.wait_procs(ranks, timeout=10)[1]
    assert not private.exists()


@pytest.mark.parametrize("victim", ["rank", "launcher"])
def test_where_one_is_killed_all_end(together: "subprocess.Popen[str]", victim: str) -> None:
    ranks = psutil.Process(together.pid).children()
    (ranks[1] if victim == "rank" else together).kill()
    said = together.communicate(timeout=60)[1]
    assert not psutil.wait_procs(ranks, timeout=10)[1]
    if victim == "rank":
        assert together.returncode == 1
        assert "error: SIGKILL ended a training process; the same command goes on" in said


def test_more_processes_than_gpus_are_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    training = settings.training.model_copy(update={"processes": 2})
    with pytest.raises(MissingPartError, match=r"training\.processes = 2: each .* this machine has 1; set"):
        train_together(settings.model_copy(update={"device": "auto", "training": training}))
