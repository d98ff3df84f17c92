"""The Prefect server on this machine: use the one that runs, else start one.

The ephemeral server that Prefect would start by itself exits before it has recorded the history, so it is
never used. This module does not import prefect: the server boots while the flows are still being imported.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from flows.service.api import (
    API_URL,
    HOST,
    PORT,
    UI_URL,
    ServerError,
    credentials,
    healthy,
    unfinished_tasks,
)
from flows.service.processes import spawn, stop

__all__ = [
    "API_URL", "HOST", "PORT", "ROOT", "UI_URL", "ServerError", "ensure_server", "environment", "healthy",
    "prefect", "server_log", "start_server", "take_port", "wait_until_healthy",
]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent.parent
BOOT_SECONDS = 120
RECORD_SECONDS = 15
LEAVE_SECONDS = 20  # in which a server that was told to end leaves its port
UNKNOWN_REVISION = "Can't locate revision"  # Alembic's words for a database that another version has written


def environment() -> dict[str, str]:
    """Variables for every process that talks to this server."""
    return {
        **os.environ,
        **credentials(),
        "PREFECT_HOME": str(_home()),
        "PREFECT_API_URL": API_URL,
        "DO_NOT_TRACK": "1",
    }


def prefect(*arguments: str) -> list[str]:
    """Command line of Prefect's own CLI, by this interpreter."""
    return [sys.executable, "-m", "prefect", *arguments]


def start_server() -> "subprocess.Popen[bytes]":
    """A server at our address, to whose log it writes on."""
    # Left by a server that was killed, it would block the next one where another process has got its number.
    (_home() / "concurrency_leases" / "expirations.lock").unlink(missing_ok=True)
    command = prefect("server", "start", "--host", HOST, "--port", str(PORT))
    return spawn(command, ROOT, environment(), server_log())


def server_log() -> Path:
    """Where a server of ours writes what it has to say."""
    log = _home() / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return log


def ensure_server() -> None:
    """A healthy server: the one that is there, else one of our own that ends with this process.

    Call it before importing prefect: exit handlers run last in, first out, so that Prefect's, which send the
    last logs and states, find the server alive, and ours, which stops it, comes after them.

    Raises:
        ServerError: There is none, and none can be started.
    """
    if not take_port():
        return
    log = server_log()
    log.unlink(missing_ok=True)
    process = start_server()
    atexit.register(_finish, process, datetime.now(UTC))
    wait_until_healthy(process, log)


def take_port() -> bool:
    """True when a server may be started at our address; False when there is one to use.

    Raises:
        ServerError: Something else is there, and stays.
    """
    deadline = time.monotonic() + LEAVE_SECONDS
    while not healthy():
        if _free():
            return True
        if time.monotonic() > deadline:
            raise ServerError(
                f"port {PORT} is taken by a program that gives no answer; set SAMUEL_PREFECT_PORT"
            )
        time.sleep(0.5)
    return False


def wait_until_healthy(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once the server answers.

    Raises:
        ServerError: It exits, or does not answer in time; names the log.
    """
    deadline = time.monotonic() + BOOT_SECONDS
    while not healthy():
        if process.poll() is not None:
            raise ServerError(_why_it_stopped(log))
        if time.monotonic() > deadline:
            raise ServerError(f"the Prefect server gave no sign within {BOOT_SECONDS} s; see {log}")
        time.sleep(0.2)


def _why_it_stopped(log: Path) -> str:
    if UNKNOWN_REVISION in log.read_text("utf-8", "replace"):
        return (
            f"the Prefect server cannot read its database, which another version of Prefect has written: "
            f"{_home() / 'prefect.db'} (or what PREFECT_SERVER_DATABASE_CONNECTION_URL names); install that "
            f"version, or move the database away: songs and models stay, the UI's history begins anew"
        )
    return f"the Prefect server stopped at once; see {log} (is port {PORT} in use?)"


def _home() -> Path:
    return Path(os.environ.get("PREFECT_HOME", ROOT / ".prefect"))


def _free() -> bool:
    with socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            ours.bind((HOST, PORT))
        except OSError:
            return False
        return True


def _finish(process: "subprocess.Popen[bytes]", since: datetime) -> None:
    """Stop our server once it has recorded how every task that began after `since` ended."""
    deadline = time.monotonic() + RECORD_SECONDS
    try:
        while process.poll() is None and unfinished_tasks(since) and time.monotonic() < deadline:
            time.sleep(0.3)
    finally:
        stop(process)
