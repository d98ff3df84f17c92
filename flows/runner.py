"""Where the tasks of a flow run: threads of its process, workers of a Dask cluster, processes of torchrun."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import torch
from prefect import Task
from prefect.blocks.system import Secret
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.processes import GRACE_S, exit_words, spawn, stop
from samuel.artifacts import Artifact, find_artifact
from samuel.config import Settings
from samuel.device import resolve_device
from samuel.errors import MissingPartError, SamuelError, StoppedError
from samuel.popdb.parts import Parts

if TYPE_CHECKING:  # a second of imports, for the few who have a cluster
    from prefect_dask.client import PrefectDaskClient

GPU = "GPU"  # the resource that a Dask worker with a GPU offers, as Dask's own guides name it
CONNECT_S = 20
SECRETS = {
    "HF_TOKEN": "samuel-hf-token",
    "KAGGLE_USERNAME": "samuel-kaggle-username",
    "KAGGLE_KEY": "samuel-kaggle-key",
}
"""Environment variable → Prefect's Secret block. They are no settings: those are shown, kept and logged."""

_ending: set[str] = set()  # flow runs that are ending early: nothing else tells a task that is a thread

Value = TypeVar("Value")
OnStep = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Workers:
    """Those who run the tasks of a flow.

    Attributes:
        runner: Prefect's, started.
        client: Of the Dask cluster, where there is one.
        gpu: Whether tasks that compute may only run where a Dask worker offers a GPU.
    """

    runner: TaskRunner[Any]
    client: "PrefectDaskClient | None" = None
    gpu: bool = False

    def submit(
        self, task: Task[..., Any], *, computes: bool = False, **parameters: Any
    ) -> PrefectFuture[Any]:
        """Have a task run once its parameters are there; it `computes` on a GPU where there is one."""
        with _needing_a_gpu() if computes and self.gpu else nullcontext():
            return self.runner.submit(task, parameters)


@contextmanager
def workers(settings: Settings, threads: int) -> Iterator[Workers]:
    """Have workers as `settings.runner` wants them until the block ends; tasks hear if that is early.

    Raises:
        MissingPartError: No Dask scheduler answers; no worker has the GPU that `settings.device` names.
    """
    take_secrets()
    run = str(flow_run.id)
    with ExitStack() as stack:
        if settings.runner.kind == "dask":
            team = stack.enter_context(_dask_workers(settings))
        else:
            team = Workers(stack.enter_context(ThreadPoolTaskRunner(max_workers=threads)))
        _tell_tasks(team, run, ends=False)  # it may be tried again
        early = stack.enter_context(ExitStack())
        early.callback(_tell_tasks, team, run, ends=True)
        yield team
        early.pop_all()


def take_secrets() -> None:
    """Put into this process's environment what is not there and a Secret block has."""
    for variable, block in SECRETS.items():
        if variable not in os.environ:
            with suppress(ValueError):  # that is how Prefect says that there is no such block
                os.environ[variable] = str(Secret.load(block).get())  # type: ignore[union-attr]


def parts_here(parts: Parts) -> Parts:
    """Return the parts that the Dask worker of this task loads once for all of them; in a thread, `parts`."""
    try:
        worker = sys.modules["distributed"].get_worker()
    except (KeyError, ValueError):  # no Dask at all, or not one of its workers
        return parts
    held = getattr(worker, "samuel_parts", None)
    if held is None or held.settings != parts.settings:
        worker.samuel_parts = held = parts
    return held


def run_ends() -> Callable[[], bool]:
    """Return what tells a task whether its run is ending early; cheap enough for every step."""
    run = str(flow_run.id)
    return lambda: run in _ending


def until_run_ends(callback: Callable[[Value], object]) -> Callable[[Value], None]:
    """Wrap the callback of a long work, so that nothing more begins once the run ends; to be made in a task.

    Raises:
        StoppedError: It ends.
    """
    ends = run_ends()

    def called(value: Value) -> None:
        callback(value)
        if ends():
            raise StoppedError("the run has ended; started again, it goes on where it was")

    return called


def _tell_tasks(team: Workers, run: str, *, ends: bool) -> None:
    _mark(run, ends=ends)
    if team.client:
        with suppress(OSError):  # a cluster that is gone is what ended it, and has its own words
            team.client.run(_mark, run, ends=ends, on_error="ignore")


def _mark(run: str, *, ends: bool) -> None:
    (_ending.add if ends else _ending.discard)(run)


# Dask.


@contextmanager
def _dask_workers(settings: Settings) -> "Iterator[Workers]":
    from prefect_dask.task_runners import DaskTaskRunner

    address, patience = settings.runner.address, {"timeout": CONNECT_S}
    local = {
        "n_workers": settings.runner.workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",  # any free port: 8787 may be taken
        # Plugins are for the command line, and fail in a worker's loop.
        "env": {"PREFECT_PLUGINS_ENABLED": "false"},
        "resources": {GPU: 1} if resolve_device(settings.device).type == "cuda" else {},
    }
    where = {"address": address} if address else {"cluster_kwargs": local}
    with DaskTaskRunner(**where, client_kwargs=patience) as runner:  # type: ignore[arg-type]
        try:
            client = runner.client  # reaches the scheduler now, and not with the first task
        except OSError as error:  # a refused connection, a timeout, an unknown host
            if not address:
                raise
            raise MissingPartError(
                f"runner.address: no Dask scheduler answers at {address} ({type(error).__name__}); start"
                " one with `dask scheduler`, correct the address, or set runner.kind = 'threads'"
            ) from error
        client.run(_hold, {name: os.environ[name] for name in SECRETS if name in os.environ})
        offered = [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
        yield Workers(runner, client, gpu=wants_gpu(offered, settings))


def wants_gpu(offered: list[dict[str, float]], settings: Settings) -> bool:
    """Return whether tasks that compute are to wait for a worker that offers a GPU; `offered` by each.

    Raises:
        MissingPartError: The settings name a GPU, and no worker offers one.
    """
    found = any(resources.get(GPU, 0) >= 1 for resources in offered)
    if settings.device == "cuda" and not found:
        raise MissingPartError(
            f"device = 'cuda', and none of {len(offered)} Dask workers offers a GPU; start those that have"
            f" one with `dask worker … --resources {GPU}=1`, or set device = 'auto'"
        )
    return found and settings.device in ("auto", "cuda")


def _needing_a_gpu() -> Any:
    from dask.base import annotate

    return annotate(resources={GPU: 1})


def _hold(secrets: Mapping[str, str]) -> None:
    for name, value in secrets.items():
        os.environ.setdefault(name, value)


# torchrun.

LOOK_S = 0.5
TAIL_BYTES = 8192  # of a file of metrics: many rows
LOGGED_LINES = 60


def fit_by_torchrun(settings: Settings, run: Path, on_step: OnStep, ends: Callable[[], bool]) -> Artifact:
    """Train on `training.processes` processes of this machine, from the last checkpoint where there is one.

    Told to end, torchrun has them take the step in hand and write a checkpoint. Killed, or when this process
    is, `flows.processes` ends them.

    Args:
        settings: The tree.
        run: Folder of the run, as `samuel.train.run_folder` gives it.
        on_step: Called now and then with the metrics of the newest step.
        ends: Whether the training is to end early.

    Raises:
        MissingPartError: Fewer GPUs than processes.
        StoppedError: It was to end early.
        SamuelError: The training failed; has the last it said.
    """
    if found := find_artifact(run / "model"):
        return found
    processes, gpus = settings.training.processes, torch.cuda.device_count()
    if resolve_device(settings.device).type == "cuda" and processes > gpus:
        raise MissingPartError(
            f"training.processes = {processes}: each needs a GPU of its own, and this machine has {gpus};"
            f" set training.processes = {gpus}"
        )
    with tempfile.TemporaryDirectory(prefix="samuel-") as folder:  # which nobody else can read
        file, log = Path(folder) / "settings.json", Path(folder) / "log"
        file.write_text(settings.model_dump_json(), "utf-8")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", folder]
        torchrun += ["--nproc-per-node", str(processes), "-m", "samuel.cli", "train", "--settings", str(file)]
        process = spawn(torchrun, log=log)
        try:
            _follow(process, run / "training" / "metrics.jsonl", on_step, ends)
        finally:
            _stop_torchrun(process)
        if process.returncode:
            raise SamuelError(_why(log.read_text("utf-8", "replace"), process.returncode))
    model = find_artifact(run / "model")
    if model is None:
        raise SamuelError(f"{run / 'model'}: not there after the training; start it again")
    return Artifact(model.folder, model.record, model.sha256, made=True)


def newest_row(metrics: Path) -> dict[str, Any] | None:
    """Return the last whole row of a file of metrics that is being written."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")
        return json.loads(lines[-2]) if len(lines) > 1 else None
    except (FileNotFoundError, ValueError):  # none yet, or damaged by a kill: the training mends that
        return None


def _follow(
    process: "subprocess.Popen[bytes]", metrics: Path, on_step: OnStep, ends: Callable[[], bool]
) -> None:
    seen = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
            return
        if ends():
            raise StoppedError("the run has ended; started again, the training goes on from its checkpoint")
        row = newest_row(metrics)
        if row and row["step"] != seen:
            seen = row["step"]
            on_step(row)


def _stop_torchrun(process: "subprocess.Popen[bytes]") -> None:
    """End torchrun alone first: a training that is told twice ends without its checkpoint."""
    with suppress(psutil.NoSuchProcess, subprocess.TimeoutExpired):
        for agent in psutil.Process(process.pid).children():
            agent.terminate()
        process.wait(1.5 * GRACE_S)
    stop(process)


def _why(output: str, code: int) -> str:
    """The last that the processes said themselves: torchrun's own words only repeat that they failed."""
    get_run_logger().error("the training processes said\n%s", "\n".join(output.splitlines()[-LOGGED_LINES:]))
    said = re.findall(r"^error: (.+)", output, re.MULTILINE)
    return (
        said[-1]
        if said
        else f"the training processes ended with {exit_words(code)}; the log has what they said"
    )
