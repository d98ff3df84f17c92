"""`make serve`: server, work pool, deployments, worker and reports on this machine, until Ctrl-C.

Server and worker are started again when they die: the runs under way go on, and those to come find both. Runs
whose process is gone are turned into Crashed. With `--no-server` the worker waits for a server that somebody
else keeps running. Prefect itself is not imported: it takes seconds.
"""

import argparse
import math
import mimetypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from flows import server
from flows.processes import exit_words, spawn, stop
from flows.server import ServerError, ask, now
from samuel.web import HOST, Guard

ARTIFACTS = server.ROOT / "artifacts"
PAGES_PORT = int(os.environ.get("SAMUEL_PAGES_PORT", str(server.PORT + 1)))
POOL = "samuel"
LOOK_S, WATCH_S, RESTART_S = 0.5, 30.0, 10.0
OURS = (server.PORT_VARIABLE, "PREFECT_HOME")  # the command `prefect` finds server and password by them
MESSAGE = """
Prefect UI  {ui}
Reports     http://{host}:{pages}, linked from the UI
Password    {password}
            The UI takes all of user:password in one field, the reports' prompt each by itself.

In another terminal, in this folder:
{exports}
    .venv/bin/prefect deployment run build-popdb/demo
    .venv/bin/prefect deployment run train-and-eval/demo

and, with the real parts, which need weights and the internet:

    .venv/bin/prefect deployment run build-popdb
    .venv/bin/prefect deployment run train-and-eval

Ctrl-C stops the server and the worker.
"""


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
    if own_server and server.take_port():
        children.append(Child("server", server.start_server))
        children[0].keep()
    server.wait_until_healthy(children[0].process if children else None)
    pool = ("work-pool", "create", POOL, "--type", "process", "--overwrite")
    for arguments in (pool, ("--no-prompt", "deploy", "--all")):  # the deployments of prefect.yaml
        command, env = [sys.executable, "-m", "prefect", *arguments], server.environment()
        done = subprocess.run(command, cwd=server.ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    serve_reports(ARTIFACTS, PAGES_PORT, server.auth_string())
    # The flows' own variables, by which they link their reports.
    pages = {"SAMUEL_PAGES_URL": f"http://{HOST}:{PAGES_PORT}", "SAMUEL_PAGES_FOLDER": str(ARTIFACTS)}
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    children.append(Child("worker", lambda: spawn(worker, server.environment() | pages), server.healthy))
    children[-1].keep()
    print(welcome(), flush=True)
    armed, look_again_s = False, 0.0
    while True:
        for child in children:
            child.keep()
        if time.monotonic() > look_again_s:
            armed, look_again_s = look_for_the_dead(armed=armed), time.monotonic() + WATCH_S
        time.sleep(LOOK_S)


def welcome() -> str:
    """Return how to go on, without the password itself: this may become a log."""
    exports = {name: shlex.quote(os.environ[name]) for name in OURS if name in os.environ}
    password = f"cat {shlex.quote(str(server.password_file()))}"
    if given := next(filter(os.environ.get, (server.PASSWORD, server.SERVER_PASSWORD)), None):
        exports[server.PASSWORD], password = "…", f"that of {given}"
    lines = "".join(f"\n    export {name}={value}" for name, value in exports.items())
    return MESSAGE.format(ui=server.UI_URL, host=HOST, pages=PAGES_PORT, password=password, exports=lines)


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


def serve_reports(folder: Path, port: int, credentials: str) -> None:
    """Serve the files of a folder to who has the `user:password`, in a thread that ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        taken = f"reports cannot be opened from the UI: {HOST}:{port}: {os.strerror(error.errno or 0)}"
        print(f"{taken}; set SAMUEL_PAGES_PORT", flush=True)
        return
    mimetypes.add_type("audio/flac", ".flac")  # Python's own table lacks it
    files = StaticFiles(directory=folder)  # it lists nothing, and follows no link out
    pages = Guard(Starlette(routes=[Mount("/", files)]), credentials, server.NAMES)
    web = uvicorn.Server(uvicorn.Config(pages, log_level="warning"))
    threading.Thread(target=web.run, args=([listening],), daemon=True).start()


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
