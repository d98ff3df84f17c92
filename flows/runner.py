"""Where the tasks of a flow run: threads of its process, workers of a Dask cluster, several that train."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
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
LOOK_S = 0.5
NO_PAGES = {  # Dask's have no password
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.dashboard.link": "",
}
TAIL_BYTES = 8192  # of a file of metrics: many rows
SECRETS = {
    "HF_TOKEN": "samuel-hf-token",
    "KAGGLE_USERNAME": "samuel-kaggle-username",
    "KAGGLE_KEY": "samuel-kaggle-key",
}
"""Environment variable → Prefect's Secret block. They are no settings: those are shown, kept and logged."""

_ending: set[str] = set()  # flow runs that are ending early: nothing else tells a task that is a thread

Value = TypeVar("Value")


@dataclass(frozen=True)
class Workers:
    """Those who run the tasks of a flow."""

    runner: TaskRunner[Any]
    client: "PrefectDaskClient | None" = None
    gpu: bool = False  # tasks that compute may only run where a Dask worker offers a GPU

    def submit(self, task: Task[..., Any], *, computes: bool = False, **given: Any) -> PrefectFuture[Any]:
        """Have a task run once its parameters are there; it `computes` on a GPU where there is one."""
        with ExitStack() as annotated:
            if computes and self.gpu:
                from dask.base import annotate

                annotated.enter_context(annotate(resources={GPU: 1}))
            return self.runner.submit(task, given)


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
    """Wrap the callback of a task's long work, which raises StoppedError once the run ends."""
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
    from dask import config as dask_config
    from prefect_dask.task_runners import DaskTaskRunner

    address = settings.runner.address
    local = {
        "n_workers": settings.runner.workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "security": True,  # TLS with a certificate of this cluster alone: whoever is heard can run code
        "dashboard_address": "127.0.0.1:0",  # any free port: 8787 may be taken
        "scheduler_kwargs": {"dashboard": False},
        # They are for the command line, and fail in a worker's loop.
        "env": {"PREFECT_PLUGINS_ENABLED": "false"},
        "resources": {GPU: 1} if resolve_device(settings.device).type == "cuda" else {},
    }
    where: Any = {"address": address} if address else {"cluster_kwargs": local}
    with DaskTaskRunner(**where, client_kwargs={"timeout": CONNECT_S}) as runner:
        try:
            with dask_config.set(NO_PAGES):
                client = runner.client  # reaches the scheduler now, and not with the first task
        except OSError as error:  # a refused connection, a timeout, an unknown host
            if not address:
                raise
            raise MissingPartError(
                f"runner.address: no Dask scheduler answers at {address} ({type(error).__name__}); start one"
                " with `dask scheduler`, correct the address, or set runner.kind = 'threads'"
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


def _hold(secrets: Mapping[str, str]) -> None:
    for name, value in secrets.items():
        os.environ.setdefault(name, value)


# Several processes for one training.


def fit_together(
    settings: Settings, run: Path, on_step: Callable[[dict[str, Any]], object], ends: Callable[[], bool]
) -> Artifact:
    """Train by `samuel train`, which starts the processes; from the last checkpoint where there is one.

    Told to end, they take the step in hand and write a checkpoint. Killed, or when this process is,
    `flows.processes` ends them. `on_step` is called now and then with the metrics of the newest step.

    Raises:
        StoppedError: It was to end early.
        SamuelError: The training failed; has the last it said.
    """
    if found := find_artifact(run / "model"):
        return found
    with tempfile.TemporaryDirectory(prefix="samuel-") as folder:  # which nobody else can read
        file, log = Path(folder) / "settings.json", Path(folder) / "log"
        file.write_text(settings.model_dump_json(), "utf-8")
        process = spawn([sys.executable, "-m", "samuel.cli", "train", "--settings", str(file)], log=log)
        try:
            seen = 0
            while process.poll() is None:
                if ends():
                    raise StoppedError("the run has ended; started again, it goes on from its checkpoint")
                row = newest_row(run / "training" / "metrics.jsonl")
                if row and row["step"] != seen:
                    seen = row["step"]
                    on_step(row)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_S)
        finally:  # the launcher alone first: a training that is told twice ends without its checkpoint
            with suppress(psutil.NoSuchProcess, subprocess.TimeoutExpired):
                for launcher in psutil.Process(process.pid).children():
                    launcher.terminate()
                process.wait(1.5 * GRACE_S)
            stop(process)
        said = log.read_text("utf-8", "replace")
    model = find_artifact(run / "model")
    if process.returncode or model is None:
        get_run_logger().error("the training processes said\n%s", "\n".join(said.splitlines()[-60:]))
        own = re.findall(r"^error: (.+)", said, re.MULTILINE)  # what others say is that they lost one
        ended = f"the training processes ended with {exit_words(process.returncode)}; see the log"
        raise SamuelError(own[0] if own else ended)
    return replace(model, made=True)


def newest_row(metrics: Path) -> dict[str, Any] | None:
    """Return the last whole row of a file of metrics that is being written."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")
        return json.loads(lines[-2]) if len(lines) > 1 else None
    except (FileNotFoundError, ValueError):  # none yet, or damaged by a kill: the training mends that
        return None
