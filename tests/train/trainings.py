"""Trainings for tests: begun, ended early, damaged; or in a process of their own, by `main`."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from samuel.artifacts import Artifact
from samuel.config import Settings
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.reading import read_jsonl
from samuel.train import Training, fit
from tests.lines import append_line
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


def untimed(model: Artifact) -> list[dict[str, Any]]:
    """The metrics of a training but for its speed."""
    rows = read_jsonl(model.path("metrics.jsonl"))
    return [{key: row[key] for key in row if key not in ("seconds", "pairs_per_s")} for row in rows]


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


def main(popdb: Path, root: Path, sections: dict[str, Any], run: Path) -> None:
    """Fit, and write the metrics of each step to `run`/steps.jsonl."""

    def on_step(row: dict[str, Any]) -> None:
        append_line(run / "steps.jsonl", row)
        time.sleep(0.2)  # for signals to come in the middle

    fit(open_popdb(popdb), small_settings(root, **sections), run, on_step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), Path(sys.argv[4]))
