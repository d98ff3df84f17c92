"""Trainings as processes of their own: several at once, killed, interrupted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from samuel.artifacts import read_jsonl
from samuel.popdb.dataset import Popdb
from tests.train.trainings import put_nan

ALONE = [sys.executable]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def started(popdb: Popdb, root: Path, run: str, launcher: list[str], **sections: Any) -> Any:
    run_folder = root / run
    run_folder.mkdir(exist_ok=True)
    arguments = ["-m", "tests.train.together", str(root), json.dumps(sections), str(run_folder)]
    return subprocess.Popen([*launcher, *arguments], stderr=subprocess.PIPE, text=True)


def trained(popdb: Popdb, root: Path, run: str, launcher: list[str], **sections: Any) -> list[dict[str, Any]]:
    process = started(popdb, root, run, launcher, **sections)
    errors = process.communicate(timeout=200)[1]
    assert process.returncode == 0, errors
    return read_jsonl(root / run / "steps.jsonl")


def largest_difference(root: Path, one: str, other: str) -> float:
    a, b = (load_file(root / run / "model" / "model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_two_processes_have_the_losses_of_one(popdb: Popdb, tmp_path: Path) -> None:
    training = {"batch_size": 4, "validation_pairs": 3}
    alone = trained(popdb, tmp_path, "alone", ALONE, training=training)
    together = trained(popdb, tmp_path, "together", TOGETHER, training=training)
    for key, tolerance in (("loss", 1e-5), ("v_mse", 1e-5), ("gradient_norm", 1e-4)):
        assert [row[key] for row in together] == pytest.approx([row[key] for row in alone], rel=tolerance)
    for key in ("validation_loss", "validation_shuffled"):
        found, expected = ([row[key] for row in rows if key in row] for rows in (together, alone))
        assert len(expected) == 2
        assert found == pytest.approx(expected, rel=1e-5)
    assert largest_difference(tmp_path, "alone", "together") < 1e-5


def test_each_of_two_processes_names_the_pair_that_one_of_them_read(popdb: Popdb, tmp_path: Path) -> None:
    broken = popdb.pairs("train")[3]["pair_id"]
    put_nan(popdb, broken, "vocal")
    process = started(popdb, tmp_path, "broken", TOGETHER, training={"batch_size": 4})
    errors = process.communicate(timeout=200)[1]
    assert process.returncode != 0
    assert f"NaN or infinity in the latents of {broken}; run samuel verify" in errors
    assert "latents are finite" not in errors
    assert not list((tmp_path / "broken").glob("model"))


LONG = {"steps": 40, "validate_every": 10, "checkpoint_every": 7}


def step_reached(process: Any, root: Path, run: str, step: int) -> None:
    path, ends_s = root / run / "steps.jsonl", time.monotonic() + 100
    while not path.exists() or len(path.read_bytes().splitlines()) < step:
        assert process.poll() is None and time.monotonic() < ends_s
        time.sleep(0.002)


def test_who_is_killed_and_asked_to_end_again_and_again_ends_with_the_same_weights(
    popdb: Popdb, tmp_path: Path
) -> None:
    undisturbed = trained(popdb, tmp_path, "whole", ALONE, training=LONG)
    ends = ((3, signal.SIGKILL), (12, signal.SIGINT), (20, signal.SIGTERM), (30, signal.SIGKILL))
    for steps, number in ends:
        process = started(popdb, tmp_path, "ended", ALONE, training=LONG)
        step_reached(process, tmp_path, "ended", steps)
        process.send_signal(number)
        process.communicate(timeout=100)
        assert process.returncode != 0
        if number != signal.SIGKILL:  # nothing that was done is lost
            done = read_jsonl(tmp_path / "ended" / "steps.jsonl")[-1]["step"]
            checkpoints = sorted(path.name for path in (tmp_path / "ended/training").glob("step-*"))
            assert checkpoints[-1] == f"step-{done:08d}"
    trained(popdb, tmp_path, "ended", ALONE, training=LONG)
    rows = read_jsonl(tmp_path / "ended" / "model" / "metrics.jsonl")
    kept = ("step", "loss", "gradient_norm", "validation_loss", "validation_shuffled")
    losses = [[[row.get(key) for key in kept] for row in found] for found in (rows, undisturbed)]
    assert losses[0] == losses[1]
    assert largest_difference(tmp_path, "whole", "ended") == 0
