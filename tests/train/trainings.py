"""Trainings for tests: begun, ended early, damaged."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from samuel.popdb.dataset import Popdb
from samuel.train import Training
from tests.popdb.latents import small_settings


class KilledError(Exception):
    """Stands for SIGKILL: raised from outside the step, as abruptly as a process can end."""


def ignore(_: dict[str, Any]) -> None:
    pass


def stop_at(step: int) -> Any:
    def on_step(metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            raise KilledError

    return on_step


def two_steps(popdb: Popdb, root: Path, **sections: Any) -> Training:
    """Two, as the first gradient of a network that begins at zero reaches its last layer alone."""
    training = Training(popdb, small_settings(root, **sections), root / "step")
    for _ in range(2):
        training.step()
        training.progress.step += 1
    return training


def weights(training: Training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.network.parameters()])


def put_nan(popdb: Popdb, pair_id: str, stream: str) -> None:
    """As a faulty memory would: in the shard itself, whose digest training does not read."""
    [row] = [row for row in popdb.index if row["pair_id"] == pair_id]
    path = popdb.root / row["shard"]
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors[stream][row["row"], 5, 7] = math.nan
    save_file(tensors, path, metadata)
