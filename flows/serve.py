"""`make serve`: server, work pool, deployments, worker and reports on this machine, until Ctrl-C.

Server and worker are started again when they die: the runs under way go on, and those to come find both. Runs
whose process is gone are turned into Crashed. With `--no-server` the worker waits for a server that somebody
else keeps running. `flows.demo` takes a server from here, as the ephemeral one that Prefect would start by
itself exits before it has recorded the history. Prefect itself is not imported: it takes seconds.
"""

import argparse
import atexit
import base64
import http.client
import json
import math
import mimetypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from flows.processes import exit_words, spawn, stop
from samuel.errors import SamuelError

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS = ROOT / "artifacts"
HOST = "127.0.0.1"
PORT = int(os.environ.get("SAMUEL_PREFECT_PORT", "4200"))
PAGES_PORT = int(os.environ.get("SAMUEL_PAGES_PORT", str(PORT + 1)))
UI_URL = f"http://{HOST}:{PORT}"
API_URL = f"{UI_URL}/api"
PASSWORD, SERVER_PASSWORD = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
POOL = "samuel"
BOOT_S, RECORD_S = 120, 15  # of a server: to answer, and to record what it was told last
LOOK_S, WATCH_S, RESTART_S = 0.5, 30.0, 10.0
# The command `prefect` reads the address of prefect.toml, which is the usual one.
EXPORT = "" if PORT == 4200 else f"\n    export PREFECT_API_URL={API_URL}"
MESSAGE = f"""
Prefect UI  {UI_URL}

In another terminal, in this folder:
{EXPORT}
    .venv/bin/prefect deployment run build-popdb/demo
    .venv/bin/prefect deployment run train-and-eval/demo

and, with the real parts, which need weights and the internet:

    .venv/bin/prefect deployment run build-popdb
    .venv/bin/prefect deployment run train-and-eval

Ctrl-C stops the server and the worker.
"""


class ServerError(SamuelError):
    """The server does not come up, or is not what it should be."""


# The server: use the one that runs, else start one.


def environment() -> dict[str, str]:
    """Return the variables for every process that talks to this server; one password serves both sides."""
    password = os.environ.get(PASSWORD) or os.environ.get(SERVER_PASSWORD)
    return {
        **os.environ,
        **({PASSWORD: password} if password else {}),
        "PREFECT_HOME": str(home()),
        "PREFECT_API_URL": API_URL,
        "DO_NOT_TRACK": "1",
    }


def home() -> Path:
    """Return the folder of Prefect's database, and of the log of a server of ours."""
    return Path(os.environ.get("PREFECT_HOME", ROOT / ".prefect"))


def ask(path: str, body: Any = None, method: str | None = None) -> Any:
    """Return the server's answer to a GET, or to a POST of `body`; an OSError where there is none."""
    headers = {"Content-Type": "application/json"}
    if password := environment().get(PASSWORD):
        headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API_URL + path, content, headers, method=method)  # noqa: S310  (ours)
    with urllib.request.urlopen(request, timeout=2 if content is None else 10) as answer:  # noqa: S310
        return json.loads(answer.read() or b"null")


def healthy() -> bool:
    """Return whether a Prefect server of the installed version answers; a ServerError where others do."""
    ours, health, found = version("prefect"), None, None
    try:
        health, found = ask("/health"), ask("/admin/version")
    except urllib.error.HTTPError as error:
        if error.code == http.client.UNAUTHORIZED:
            raise ServerError(
                f"the server at {UI_URL} wants another authentication string: set {PASSWORD} to its own"
            ) from error
    except OSError:  # also of a server that ends just now, so before HTTPException
        return False
    except (ValueError, http.client.HTTPException):  # it speaks, and not like Prefect
        pass
    if health is not True or found != ours:
        there = f"a server of Prefect {found}" if health is True else "something that is no Prefect server"
        taken = f"port {PORT} is taken by {there}, and {ours} is installed here"
        raise ServerError(f"{taken}; stop it, or set SAMUEL_PREFECT_PORT")
    return True


def take_port() -> bool:
    """Return whether a server may be started at our address, or else is one to use; else a ServerError."""
    if healthy():
        return False
    try:
        socket.create_server((HOST, PORT)).close()
    except OSError as error:
        raise ServerError(
            f"port {PORT} is taken by something that gives no answer; set SAMUEL_PREFECT_PORT"
        ) from error
    (home() / "server.log").unlink(missing_ok=True)
    return True


def start_server() -> "subprocess.Popen[bytes]":
    """Start a server at our address, which prints into `server.log`."""
    # Left by a server that was killed, it would block the next one where another process has got its number.
    (home() / "concurrency_leases" / "expirations.lock").unlink(missing_ok=True)
    home().mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(PORT)]
    return spawn(command, environment(), home() / "server.log")


def wait_until_healthy(process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Return once the server answers; a ServerError where it is ours, and exits or gives no sign in time."""
    deadline, log = time.monotonic() + BOOT_S, home() / "server.log"
    while not healthy():
        if process and process.poll() is not None:
            errors = re.findall(r"^[\w.]+Error: (.+)", log.read_text("utf-8", "replace"), re.MULTILINE)
            reason = f" ({errors[-1]:.200}; did another Prefect write its database?)" if errors else ""
            raise ServerError(f"the Prefect server stopped at once{reason}; see {log}")
        if process and time.monotonic() > deadline:
            raise ServerError(f"the Prefect server gave no sign within {BOOT_S} s; see {log}")
        time.sleep(0.2)


def ensure_server() -> None:
    """Have a healthy server: the one that is there, else one of our own that ends with this process.

    Call it before importing prefect: exit handlers run last in, first out, so that Prefect's, which send the
    last logs and states, find the server alive, and ours, which stops it, comes after them.
    """
    if not take_port():
        return
    open_tasks = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}, "start_time": {"after_": now()}}
    server = start_server()

    def finish() -> None:
        deadline = time.monotonic() + RECORD_S
        try:  # it has yet to record how the last tasks ended
            while server.poll() is None and time.monotonic() < deadline:
                if not ask("/task_runs/count", {"task_runs": open_tasks}):
                    break
                time.sleep(0.3)
        finally:
            stop(server)

    atexit.register(finish)
    wait_until_healthy(server)


# `make serve`.


def main() -> int:
    """Serve until interrupted; 1 where something cannot be started."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description="Prefect server and worker.")
    parser.add_argument("--no-server", action="store_true", help="wait for a server that is kept elsewhere")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    children: list[Child] = []
    try:
        serve(children, own_server=not options.no_server)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave a child behind
            signal.signal(number, signal.SIG_IGN)
        for child in reversed(children):  # the server last: it hears what becomes of the runs
            if child.process:
                stop(child.process)


def serve(children: "list[Child]", *, own_server: bool) -> NoReturn:
    """Start everything, and keep it running; `children` takes what is started, for the caller to end."""
    if own_server and take_port():
        children.append(Child("server", start_server))
        children[0].keep()
    wait_until_healthy(children[0].process if children else None)
    pool = ("work-pool", "create", POOL, "--type", "process", "--overwrite")
    for arguments in (pool, ("--no-prompt", "deploy", "--all")):  # the deployments of prefect.yaml
        command, variables = [sys.executable, "-m", "prefect", *arguments], environment()
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    serve_reports(ARTIFACTS, PAGES_PORT)
    # The flows' own variables, by which they link their reports.
    pages = {"SAMUEL_PAGES_URL": f"http://{HOST}:{PAGES_PORT}", "SAMUEL_PAGES_FOLDER": str(ARTIFACTS)}
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    children.append(Child("worker", lambda: spawn(worker, environment() | pages), healthy))
    children[-1].keep()
    print(MESSAGE, flush=True)
    armed, look_again_s = False, 0.0
    while True:
        for child in children:
            child.keep()
        if time.monotonic() > look_again_s:
            armed, look_again_s = look_for_the_dead(armed=armed), time.monotonic() + WATCH_S
        time.sleep(LOOK_S)


@dataclass
class Child:
    """A process that is kept running, from the first `keep` on that finds what it needs `ready`."""

    name: str
    start: "Callable[[], subprocess.Popen[bytes]]"
    ready: Callable[[], bool] = lambda: True
    process: "subprocess.Popen[bytes] | None" = None
    started_s: float = -math.inf

    def keep(self) -> None:
        """Start it where it is not running, and not twice within `RESTART_S`; call it often."""
        if self.process and (code := self.process.poll()) is not None:
            print(f"the {self.name} ended with {exit_words(code)}; it starts again", flush=True)
            stop(self.process)  # what it left behind may hold the port
            self.process = None
        if not self.process and time.monotonic() - self.started_s > RESTART_S and self.ready():
            self.process, self.started_s = self.start(), time.monotonic()


# Reports and their audio for the browser, as the UI opens no `file://` link.


class ReportFiles(StaticFiles):
    """Files of a folder, by GET and HEAD, whole or in parts; it lists nothing and follows no link out."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Send a file, which a browser takes for what its name says and nothing else."""
        response = super().file_response(*args, **kwargs)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def serve_reports(folder: Path, port: int) -> None:
    """Serve the files of a folder to browsers of this machine, in a thread that ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        taken = f"reports cannot be opened from the UI: {HOST}:{port}: {os.strerror(error.errno or 0)}"
        print(f"{taken}; set SAMUEL_PAGES_PORT", flush=True)
        return
    mimetypes.add_type("audio/flac", ".flac")  # Python's own table lacks it
    # A strange page could otherwise read them, by a name of its own that leads here.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    pages = Starlette(routes=[Mount("/", ReportFiles(directory=folder))], middleware=[hosts])
    server = uvicorn.Server(uvicorn.Config(pages, log_level="warning"))
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()


# Runs whose process is gone, which the server would show as running for ever.

# A server that is away for a minute hears of a living run within 60 s + 15 s to boot + twice the half minute
# between heartbeats. A run that is hit in spite of this goes on, and its last state replaces Crashed.
SILENCE = timedelta(seconds=180)
SETTLED = timedelta(seconds=120)  # in which the last states of a flow run's tasks come in
CANCELLED = timedelta(seconds=45)  # Prefect itself kills after half a minute
AUTOMATION = "samuel: runs without heartbeat"
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDED, UNFINISHED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"], ["RUNNING", "PENDING", "SCHEDULED"]
GO_ON = "Start it again: what is done stays done."


def now(before: timedelta = timedelta()) -> str:
    """Return the time as the server takes it, or how it was before."""
    return (datetime.now(UTC) - before).isoformat()


def look_for_the_dead(*, armed: bool) -> bool:
    """End what no process works on any more; whether the server could be asked.

    `armed` where it has not been away since the last look: it forgets who falls silent meanwhile.
    """
    try:
        if not armed:
            crash_silent_runs()
        crash_orphaned_tasks()
        end_cancelled_processes()
    except OSError as error:  # it starts again; or a run was deleted under our eyes
        print(f"the watch over runs that died looks again in {WATCH_S:.0f} s: {error}", flush=True)
        return False
    return True


def crash_silent_runs(silence: timedelta = SILENCE) -> None:
    """Have an automation of the server turn flow runs into Crashed of which nothing is heard, from now on."""
    for found in ask("/automations/filter", {"automations": {"name": {"any_": [AUTOMATION]}}}):
        ask(f"/automations/{found['id']}", method="DELETE")
    # Not the heartbeat alone: a run may die before its first, and the Running that follows the first would
    # count as the sign of life after it, and end the wait.
    signs = [f"prefect.flow-run.{name}" for name in ("Pending", "Running", "heartbeat")]
    unheard = f"Nothing was heard of this run for {silence.total_seconds():.0f} s"
    ask("/automations/", {
        "name": AUTOMATION,
        "description": "A flow run that sends no heartbeat has died.",
        "trigger": {
            "type": "event", "posture": "Proactive", "threshold": 1, "within": silence.total_seconds(),
            "after": signs, "expect": ["prefect.flow-run.*"], "for_each": ["prefect.resource.id"],
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
        },
        "actions": [{
            "type": "change-flow-run-state", "state": "CRASHED",
            "message": f"{unheard}: its process was killed, or its machine went down. {GO_ON}",
        }],
    })  # fmt: skip
    # The wait begins anew for every run that is not over; who lives ends it.
    running = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    runs = [f"prefect.flow-run.{run['id']}" for run in ask("/flow_runs/filter", {"flow_runs": running})]
    ask("/events", [
        {"event": HEARTBEAT, "resource": {"prefect.resource.id": run}, "occurred": now(), "id": str(uuid4())}
        for run in runs
    ])  # fmt: skip


def crash_orphaned_tasks(settled: timedelta = SETTLED) -> None:
    """Turn task runs that have not ended, though their flow run has for so long, into Crashed."""
    orphans = ask("/task_runs/filter", {
        "flow_runs": {"state": {"type": {"any_": ENDED}}, "end_time": {"before_": now(settled)}},
        "task_runs": {"state": {"type": {"any_": UNFINISHED}}},
    })  # fmt: skip
    crashed = {"type": "CRASHED", "name": "Crashed", "message": f"Its flow run ended without it. {GO_ON}"}
    for task in orphans:
        ask(f"/task_runs/{task['id']}/set_state", {"state": crashed, "force": True})


def end_cancelled_processes(settled: timedelta = CANCELLED) -> int:
    """End processes of this machine whose flow run was cancelled so long ago, and who live on; how many.

    A worker that could not reach the server for a while stops listening for cancellations. A run that was
    started by hand has no worker, and is ended by hand.
    """
    processes: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if run := process.environ().get("PREFECT__FLOW_RUN_ID"):
                processes.setdefault(run, []).append(process)
    if not processes:
        return 0
    cancelled = {"id": {"any_": list(processes)}, "state": {"type": {"any_": ["CANCELLING", "CANCELLED"]}}}
    ended = 0
    for run in ask("/flow_runs/filter", {"flow_runs": cancelled}):
        if datetime.fromisoformat(run["state"]["timestamp"]) < datetime.now(UTC) - settled:
            for process in processes[run["id"]]:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
                    ended += 1
    return ended


if __name__ == "__main__":
    sys.exit(main())
