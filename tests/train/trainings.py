"""Trainings for tests: begun, ended early, damaged."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from samuel.artifacts import Artifact
from samuel.config import Settings
from samuel.popdb.dataset import Popdb
from samuel.train import Training, fit
from tests.popdb.latents import small_settings


class KilledError(Exception):
    """Stands for SIGKILL: raised from outside the step, as abruptly as a process can end."""


def ignore(_: dict[str, Any]) -> None:
    pass


def fit_until(popdb: Popdb, settings: Settings, run: Path, step: int) -> None:
    """Begin a training, or go on with it, and kill it after a step."""

    def on_step(metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            raise KilledError

    with pytest.raises(KilledError):
        fit(popdb, settings, run, on_step)


def fitted(popdb: Popdb, settings: Settings, run: Path, kills: tuple[int, ...] = ()) -> Artifact:
    """A model whose training was killed after these steps."""
    for step in kills:
        fit_until(popdb, settings, run, step)
    return fit(popdb, settings, run, ignore)


def stepped(popdb: Popdb, root: Path, steps: int = 2, **sections: Any) -> Training:
    """Two steps, as the first gradient of a network that begins at zero reaches its last layer alone."""
    training = Training(popdb, small_settings(root, **sections), root / "step")
    for _ in range(steps):
        training.step()
        training.progress.step += 1
    return training


def weights(training: Training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.network.parameters()])


def checkpoints(run: Path) -> list[int]:
    """The steps of what lies in a run's folder to go on from."""
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "training").glob("step-*"))


def put_nan(popdb: Popdb, pair_id: str, stream: str) -> None:
    """As a faulty memory would: in the shard itself, whose digest training does not read."""
    [row] = [row for row in popdb.index if row["pair_id"] == pair_id]
    path = popdb.root / row["shard"]
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors[stream][row["row"], 5, 7] = math.nan
    save_file(tensors, path, metadata)
