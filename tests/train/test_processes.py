"""Trainings as processes of their own: several at once, killed, interrupted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from samuel.artifacts import Artifact, read_jsonl
from samuel.config import Settings
from samuel.popdb.dataset import Popdb
from samuel.train import fit
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
