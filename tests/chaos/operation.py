"""A Prefect server, worker and flow runs on this machine that can be killed, each or all at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound

ROOT = Path(__file__).resolve().parent.parent.parent
ANSWER_S = 180
UNFINISHED = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
# What belongs to whom, by words of the command line.
MARKS = {
    "flow": ("prefect.engine", "_workspace_supervisor", "prefect/runner/"),
    "worker": ("worker start",),
    "server": ("server start", "prefect.server.api.server", "uvicorn"),
}
Answer = TypeVar("Answer")


class Operation:
    """`make serve` with a home of its own.

    Args:
        home: Where Prefect keeps its database and the log is written.
    """

    def __init__(self, home: Path) -> None:
        self._log = home / "serve.log"
        self._environment = {**os.environ, "PREFECT_HOME": str(home)}
        self._serve: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs, and wait until its server answers and its deployments are there."""
        if self._serve and self._serve.poll() is None:
            return
        with self._log.open("ab") as log:
            self._serve = subprocess.Popen(
                [sys.executable, "-m", "flows.serve"],
                cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        patiently(lambda client: client.read_deployment_by_name("ablate/demo"))

    def stop(self) -> None:
        """End it, as Ctrl-C does."""
        if self._serve and self._serve.poll() is None:
            self._serve.send_signal(signal.SIGTERM)
            self._serve.wait(timeout=60)

    def kill(self, victim: str) -> bool:
        """SIGKILL the processes of a victim: flow, worker, server, or all of them and `make serve`."""
        processes = list(self.processes(victim))
        if victim == "machine":
            processes = [*processes, *(p for name in MARKS for p in self.processes(name))]
            if self._serve:
                processes.append(psutil.Process(self._serve.pid))
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if victim == "machine" and self._serve:
            self._serve.wait()
        return bool(processes)

    def processes(self, victim: str) -> Iterator[psutil.Process]:
        """The processes of a victim that talk to our server."""
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
                if any(mark in command for mark in MARKS.get(victim, ())) and self._ours(process):
                    yield process
            except psutil.Error:
                continue

    def _ours(self, process: psutil.Process) -> bool:
        return process.environ().get("PREFECT_HOME") == self._environment["PREFECT_HOME"]


def patiently(ask: Callable[[SyncPrefectClient], Answer]) -> Answer:
    """What the server answers, as soon as it does."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            with get_client(sync_client=True) as client:
                return ask(client)
        except (httpx.HTTPError, RuntimeError, ObjectNotFound) as error:  # away, booting, not deployed yet
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {ANSWER_S} s") from error
            time.sleep(0.3)


def submit(deployment: str, settings: dict[str, Any]) -> UUID:
    """Have the worker run a deployment."""

    def ask(client: SyncPrefectClient) -> UUID:
        found = client.read_deployment_by_name(deployment)
        return client.create_flow_run_from_deployment(found.id, parameters={"settings": settings}).id

    return patiently(ask)


def state_of(run: UUID) -> State[Any] | None:
    """The state of a flow run."""
    return patiently(lambda client: client.read_flow_run(run)).state


def unfinished() -> list[str]:
    """Names of the flow runs and task runs that the server shows as not over."""
    of_flows = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)))
    of_tasks = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED)))

    def ask(client: SyncPrefectClient) -> list[str]:
        flows = client.read_flow_runs(flow_run_filter=of_flows)
        return [run.name for run in [*flows, *client.read_task_runs(task_run_filter=of_tasks)]]

    return patiently(ask)
