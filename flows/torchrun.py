"""A training on several processes, which torchrun starts; it ends with whoever wanted it.

torchrun gives each process a session of its own, so that no signal to a group reaches all. Told to end, it
has them take the step in hand and write a checkpoint; killed, the kernel kills them too (`flows.bound`).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from prefect.logging import get_run_logger

from flows.service.processes import spawn, stop
from samuel.artifacts import Artifact, find_artifact
from samuel.config import Settings
from samuel.device import resolve_device
from samuel.errors import MissingPartError, SamuelError, StoppedError

ROOT = Path(__file__).resolve().parent.parent
LOOK_EVERY_S = 0.5
TAIL_BYTES = 8192  # of a file of metrics: many rows
LOGGED_LINES = 60
# How the command line says what a user can act on, and how Python says the rest.
TOLD = re.compile(r"^error: (.+)", re.MULTILINE)
RAISED = re.compile(r"^(?!torch\.distributed\.elastic)[\w.]+(?:Error|Exception)\b.*", re.MULTILINE)

OnStep = Callable[[dict[str, Any]], object]


def fit_together(settings: Settings, run: Path, on_step: OnStep, ended: Callable[[], bool]) -> Artifact:
    """Train on `training.processes` processes, from the last checkpoint where there is one.

    Args:
        settings: The tree.
        run: Folder of the run, as `samuel.train.run_folder` gives it.
        on_step: Called now and then with the metrics of the newest step.
        ended: Whether the training is to end early; it then ends with a checkpoint.

    Raises:
        MissingPartError: Fewer GPUs than processes.
        StoppedError: It was to end early.
        SamuelError: The training failed; has the last it said.
    """
    if found := find_artifact(run / "model"):
        return found
    require_gpus(settings)
    with tempfile.TemporaryDirectory(prefix="samuel-") as folder:
        log = Path(folder) / "log"
        process = spawn(_command(settings, Path(folder)), Path.cwd(), _environment(), log)
        try:
            _follow(process, run / "training" / "metrics.jsonl", on_step, ended)
        finally:
            stop(process)
        if process.returncode:
            raise SamuelError(_why(log.read_text("utf-8", "replace"), process.returncode))
    if model := find_artifact(run / "model"):
        return Artifact(model.folder, model.record, model.sha256, made=True)
    raise SamuelError(f"{run / 'model'}: not there after the training; start it again")


def require_gpus(settings: Settings) -> None:
    """Refuse more processes than there are GPUs, where GPUs compute.

    Raises:
        MissingPartError: There are too few.
    """
    wanted, found = settings.training.processes, torch.cuda.device_count()
    if resolve_device(settings.device).type == "cuda" and wanted > found:
        raise MissingPartError(
            f"training.processes = {wanted}: each needs a GPU of its own, and this machine has {found};"
            f" set training.processes = {found}"
        )


def _command(settings: Settings, folder: Path) -> list[str]:
    """What starts a training; `folder` is for what it needs meanwhile, and nobody else can read it."""
    (file := folder / "settings.json").touch(mode=0o600)
    file.write_text(settings.model_dump_json(), "utf-8")
    processes = str(settings.training.processes)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    launcher += ["--log-dir", str(folder)]
    return [*launcher, "-m", "flows.bound", "samuel.cli", "train", "--settings", str(file)]


def _environment() -> dict[str, str]:
    """Ours, and where `flows` is: the training runs in our folder, which relative settings start from."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _follow(
    process: "subprocess.Popen[bytes]", metrics: Path, on_step: OnStep, ended: Callable[[], bool]
) -> None:
    """Tell of the newest step until the process ends."""
    told = 0
    while not _over(process):
        if ended():
            raise StoppedError("the run has ended; started again, the training goes on from its checkpoint")
        row = newest_row(metrics)
        if row and row["step"] != told:
            told = row["step"]
            on_step(row)


def newest_row(metrics: Path) -> dict[str, Any] | None:
    """The last whole row of a file of metrics that is being written."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")
        return json.loads(lines[-2]) if len(lines) > 1 else None
    except (FileNotFoundError, ValueError):  # none yet, or damaged by a kill: the training mends that
        return None


def _over(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(LOOK_EVERY_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _why(output: str, code: int) -> str:
    """The last that the processes said themselves; torchrun's own words only repeat that they failed."""
    get_run_logger().error("the training processes said\n%s", "\n".join(output.splitlines()[-LOGGED_LINES:]))
    said = TOLD.findall(output) or RAISED.findall(output)
    return (
        said[-1]
        if said
        else f"the training processes ended with exit code {code}; the log has what they said"
    )
