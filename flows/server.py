"""The Prefect server on this machine: use the one that runs, else start one.

The ephemeral server that Prefect would start by itself exits before it has recorded the history, so it is
never used. This module does not import prefect, which takes seconds: the server boots meanwhile.
"""

import atexit
import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.processes import spawn, stop
from samuel.errors import SamuelError

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
PORT = int(os.environ.get("SAMUEL_PREFECT_PORT", "4200"))
UI_URL = f"http://{HOST}:{PORT}"
API_URL = f"{UI_URL}/api"
PASSWORD, SERVER_PASSWORD = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
BOOT_S = 120
RECORD_S = 15  # in which a server that is about to end records what it was told last
FOREIGN_DATABASE = "Can't locate revision"  # Alembic's words where another version has written


class ServerError(SamuelError):
    """The server does not come up, or is not what it should be."""


def environment() -> dict[str, str]:
    """Return the variables for every process that talks to this server; one password serves both sides."""
    password = os.environ.get(PASSWORD) or os.environ.get(SERVER_PASSWORD)
    return {
        **os.environ,
        **({PASSWORD: password} if password else {}),
        "PREFECT_HOME": str(_home()),
        "PREFECT_API_URL": API_URL,
        "DO_NOT_TRACK": "1",
    }


def prefect(*arguments: str) -> list[str]:
    """Return the command line of Prefect's own CLI, by this interpreter."""
    return [sys.executable, "-m", "prefect", *arguments]


def ask(path: str, body: Any = None, method: str | None = None) -> Any:
    """Return the server's answer to a GET, or to a POST of `body`.

    Raises:
        OSError: There is no answer; an HTTPError where it is a refusal.
    """
    headers = {"Content-Type": "application/json"}
    if password := environment().get(PASSWORD):
        headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API_URL + path, content, headers, method=method)  # noqa: S310  (ours)
    with urllib.request.urlopen(request, timeout=2 if content is None else 10) as answer:  # noqa: S310
        return json.loads(answer.read() or b"null")


def healthy() -> bool:
    """Return whether a Prefect server of the installed version answers at our address.

    Raises:
        ServerError: Something else answers there.
    """
    try:
        health, found = ask("/health"), ask("/admin/version")
    except urllib.error.HTTPError as error:
        if error.code == http.client.UNAUTHORIZED:
            wants = f"the server at {UI_URL} wants another authentication string"
            raise ServerError(f"{wants}: set {PASSWORD} to its own") from error
        raise ServerError(_taken(f"HTTP {error.code}")) from error
    except OSError:  # also of a server that ends just now, so before HTTPException
        return False
    except (ValueError, http.client.HTTPException) as error:
        raise ServerError(_taken("an answer that is not JSON")) from error
    if health is not True:
        raise ServerError(_taken("an answer that is not Prefect's"))
    if found != (ours := version("prefect")):
        served = f"port {PORT} has a server of Prefect {found}, and {ours} is installed here"
        raise ServerError(f"{served}; stop it, or set SAMUEL_PREFECT_PORT")
    return True


def ensure_server() -> None:
    """Have a healthy server: the one that is there, else one of our own that ends with this process.

    Call it before importing prefect: exit handlers run last in, first out, so that Prefect's, which send the
    last logs and states, find the server alive, and ours, which stops it, comes after them.

    Raises:
        ServerError: There is none, and none can be started.
    """
    if take_port():
        process = start_server()
        atexit.register(_finish, process, datetime.now(UTC))
        wait_until_healthy(process)


def take_port() -> bool:
    """Return whether a server may be started at our address; False where there is one to use.

    Raises:
        ServerError: Something else is there.
    """
    if healthy():
        return False
    try:
        socket.create_server((HOST, PORT)).close()
    except OSError as error:
        raise ServerError(_taken("it gives no answer")) from error
    server_log().unlink(missing_ok=True)
    return True


def start_server() -> "subprocess.Popen[bytes]":
    """Start a server at our address."""
    # Left by a server that was killed, it would block the next one where another process has got its number.
    (_home() / "concurrency_leases" / "expirations.lock").unlink(missing_ok=True)
    log = server_log()
    log.parent.mkdir(parents=True, exist_ok=True)
    return spawn(prefect("server", "start", "--host", HOST, "--port", str(PORT)), environment(), log)


def server_log() -> Path:
    """Return the file where a server of ours writes what it has to say."""
    return _home() / "server.log"


def wait_until_healthy(process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Return once the server answers.

    Args:
        process: The server, where it is ours.

    Raises:
        ServerError: It exits, or does not answer in time; names the log.
    """
    deadline = time.monotonic() + BOOT_S
    while not healthy():
        if process and process.poll() is not None:
            raise ServerError(_why_it_stopped())
        if process and time.monotonic() > deadline:
            raise ServerError(f"the Prefect server gave no sign within {BOOT_S} s; see {server_log()}")
        time.sleep(0.2)


def _why_it_stopped() -> str:
    if FOREIGN_DATABASE in server_log().read_text("utf-8", "replace"):
        return (
            f"the Prefect server cannot read its database, which another version of Prefect has written: "
            f"{_home() / 'prefect.db'} (or what PREFECT_SERVER_DATABASE_CONNECTION_URL names); install that "
            f"version, or move the database away: songs and models stay, the UI's history begins anew"
        )
    return f"the Prefect server stopped at once; see {server_log()} (is port {PORT} in use?)"


def _taken(answer: str) -> str:
    return f"port {PORT} is taken by something that is no Prefect server ({answer}); set SAMUEL_PREFECT_PORT"


def _home() -> Path:
    return Path(os.environ.get("PREFECT_HOME", ROOT / ".prefect"))


def _finish(process: "subprocess.Popen[bytes]", since: datetime) -> None:
    """Stop our server once it has recorded how every task that began after `since` ended."""
    open_tasks = {
        "state": {"type": {"any_": ["PENDING", "RUNNING"]}}, "start_time": {"after_": since.isoformat()}
    }  # fmt: skip
    deadline = time.monotonic() + RECORD_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if not ask("/task_runs/count", {"task_runs": open_tasks}):
                break
            time.sleep(0.3)
    finally:
        stop(process)
