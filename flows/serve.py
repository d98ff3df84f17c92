"""`make serve`: server, work pool, deployments and worker on this machine, until Ctrl-C.

Server and worker are started again when they die: the runs under way go on, and those to come find both.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from flows.service.processes import spawn
from flows.service.server import (
    API_URL,
    HOST,
    PORT,
    ROOT,
    UI_URL,
    ServerError,
    environment,
    healthy,
    prefect,
    server_log,
    start_server,
    take_port,
    wait_until_healthy,
)
from flows.service.supervision import Child, SupervisionError

POOL = "samuel"
PAGES_PORT = int(os.environ.get("SAMUEL_PAGES_PORT", str(PORT + 1)))
PAGES_URL = f"http://{HOST}:{PAGES_PORT}"
ARTIFACTS = ROOT / "artifacts"
TERMINAL = "its lines above"
LOOK_EVERY_S = 0.5
# The command `prefect` reads the address of prefect.toml, which is the usual one.
ELSEWHERE = "" if PORT == 4200 else f"\n    export PREFECT_API_URL={API_URL}"
MESSAGE = f"""
Prefect UI  {UI_URL}

In another terminal, in this folder:
{ELSEWHERE}
    .venv/bin/prefect deployment run build-popdb/demo
    .venv/bin/prefect deployment run train-and-eval/demo

and, with the real parts, which need weights and the internet:

    .venv/bin/prefect deployment run build-popdb
    .venv/bin/prefect deployment run train-and-eval

Ctrl-C stops the server and the worker.
"""


def main() -> int:
    """Serve until interrupted; 1 where something cannot be started, or dies again and again."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    children: list[Child] = []
    try:
        with ending_all(children):
            _serve(children)
    except (ServerError, SupervisionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _serve(children: list[Child]) -> NoReturn:
    if take_port():
        server_log().unlink(missing_ok=True)
        server = start_server()
        children.append(Child("server", start_server, str(server_log()), process=server))
        wait_until_healthy(server, server_log())
    _register_patiently(children)
    children.append(
        _supervised("worker", "flows.service.processes", *prefect("worker", "start", "--pool", POOL))
    )
    children.append(_supervised("watch over silent runs", "flows.service.orphans", essential=False))
    where = ("--port", str(PAGES_PORT), "--directory", str(ARTIFACTS))
    children.append(_supervised("page of reports", "flows.service.pages", *where, essential=False))
    for child in children:
        child.keep()
    print(MESSAGE, flush=True)
    while True:
        for child in children:
            child.keep()
        time.sleep(LOOK_EVERY_S)


@contextmanager
def ending_all(children: list[Child]) -> Iterator[None]:
    """End all children on the way out, whatever ends us; a second Ctrl-C must not leave one behind."""
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for child in reversed(children):  # the server last: it hears what becomes of the runs
            child.end()


def _register_patiently(children: list[Child]) -> None:
    """Register, and begin again where our own server dies meanwhile.

    Raises:
        ServerError: The server is there, and refuses.
        SupervisionError: It dies again and again.
    """
    while True:
        try:
            return _register()
        except ServerError:
            if not children or healthy():
                raise
        while not healthy():
            children[0].keep()
            time.sleep(LOOK_EVERY_S)


def _register() -> None:
    """Create the work pool and the deployments of prefect.yaml; again is harmless."""
    _run("work-pool", "create", POOL, "--type", "process", "--overwrite")
    _run("--no-prompt", "deploy", "--all")


def _run(*arguments: str) -> None:
    done = subprocess.run(
        prefect(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def _supervised(name: str, *module: str, essential: bool = True) -> Child:
    """A Python module, with its arguments, as a child that writes to our terminal."""
    # The flows' own variables, by which they link their reports.
    variables = environment() | {"SAMUEL_PAGES_URL": PAGES_URL, "SAMUEL_PAGES_FOLDER": str(ARTIFACTS)}
    command = [sys.executable, "-m", *module]
    return Child(name, lambda: spawn(command, ROOT, variables), TERMINAL, healthy, essential)


if __name__ == "__main__":
    sys.exit(main())
