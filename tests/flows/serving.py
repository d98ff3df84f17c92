"""`make serve` in a process of its own, with a port, a database and a home of its own."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tests.flows.runs import ROOT, wait_for


class Served:
    """A running `make serve`."""

    def __init__(self, home: Path, port: int, **variables: str) -> None:
        self.home, self.port, self.log = home, port, home / "output"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PREFECT_HOME": str(home),
            "SAMUEL_PREFECT_PORT": str(port),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            # Nobody is there: nothing that is meant for this machine may go by a proxy.
            **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"),
            **variables,
        }
        self.process = self.start("flows.serve")

    def start(self, *module: str) -> "subprocess.Popen[bytes]":
        """A Python module with these variables, that writes into our log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *module], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def until_said(self, words: str, times: int = 1) -> None:
        wait_for(lambda: len(re.findall(words, self.said())) >= times, self.said)

    def child(self, words: str) -> psutil.Process:
        """The youngest process below it with these words in its command: what fences it in has them too."""

        def found() -> list[psutil.Process]:
            processes = []
            for child in self.everyone():
                with contextlib.suppress(psutil.Error):
                    if words in " ".join(child.cmdline()):
                        processes.append(child)
            return processes

        return wait_for(found, self.said)[-1]

    def everyone(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> int:
        """Its exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def healthy(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.environment['PREFECT_API_URL']}/health").is_success
        return False

    @property
    def password(self) -> str:
        """User and password."""
        given = self.environment.get("PREFECT_SERVER_API_AUTH_STRING")
        return given or (self.home / "password").read_text().strip()

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        settings: dict[Any, Any] = {
            PREFECT_API_URL: self.environment["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: self.password,
        }
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield client

    def run(self, deployment: str, settings: Any) -> FlowRun:
        """A flow run of a deployment, submitted."""
        values = settings.model_dump(mode="json", exclude={"preset"})
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters={"settings": values})

    def until_state(self, run: FlowRun, *names: str) -> str:
        """The message of the run's state, once it has one of these names."""

        def reached() -> FlowRun | None:
            with contextlib.suppress(httpx.TransportError), self.client() as client:  # or the server is away
                found = client.read_flow_run(run.id)
                return found if found.state_name in names else None
            return None

        return str(wait_for(reached, self.said).state.message)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as once:
        return once.getsockname()[1]


@contextmanager
def serving(home: Path, **variables: str) -> Iterator[Served]:
    """`make serve`, ready; nothing of it is left afterwards."""
    served = Served(home, free_port(), **variables)
    try:
        served.until_said("Worker '.*' started")
        yield served
    finally:
        if served.process.poll() is None:
            left = served.everyone()
            served.end()
            for process in psutil.wait_procs(left, timeout=5)[1]:
                process.kill()
