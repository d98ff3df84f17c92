"""The Prefect server of this machine: its address, its password, and its life.

    python -m flows.server

runs it, as `prefect server start` does, behind the guard that all our web servers have. Prefect itself is
imported there alone: it takes seconds.
"""

import atexit
import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.processes import spawn, stop
from samuel import web
from samuel.errors import SamuelError
from samuel.web import HOST

ROOT = Path(__file__).resolve().parent.parent
NAMES = (*web.NAMES, *os.environ.get("SAMUEL_NAMES", "").split())  # which a server in front of ours has
PORT_VARIABLE = "SAMUEL_PREFECT_PORT"
PORT = int(os.environ.get(PORT_VARIABLE, "4200"))
UI_URL = f"http://{HOST}:{PORT}"
API_URL = f"{UI_URL}/api"
PASSWORD, SERVER_PASSWORD = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
BOOT_S, RECORD_S = 120, 15  # of a server: to answer, and to record what it was told last
# A proxy of the environment's would hear the password.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(SamuelError):
    """The server does not come up, or is not what it should be."""


# What those who talk to it must know.


def home() -> Path:
    """Return the folder of Prefect's database, of the password, and of the log of a server of ours."""
    return Path(os.environ.get("PREFECT_HOME", ROOT / ".prefect"))


def password_file() -> Path:
    """Return where the password stands that the environment does not give."""
    return home() / "password"


def environment() -> dict[str, str]:
    """Return the variables for every process that talks to this server; one password serves both sides."""
    return {
        **os.environ,
        **without_proxy(),
        PASSWORD: auth_string(),
        "PREFECT_HOME": str(home()),
        "PREFECT_API_URL": API_URL,
        "DO_NOT_TRACK": "1",
    }


def without_proxy() -> dict[str, str]:
    """Return the variables by which everything speaks to this machine itself, by no proxy."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = dict.fromkeys(filter(None, (*given.split(","), *web.NAMES)))
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(names))


def auth_string() -> str:
    """Return the server's `user:password`: the environment's, else the file's, which the first use makes.

    Raises:
        ServerError: It is not of that form, or others can read the file.
    """
    given = os.environ.get(PASSWORD) or os.environ.get(SERVER_PASSWORD) or read_password()
    if not given:
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=home()) as new:  # nobody else can read it
            new.write(f"samuel:{secrets.token_urlsafe(24)}\n")
            new.flush()
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(new.name, password_file())
        given = read_password()
    if not given or not given.isascii() or not all(given.partition(":")):
        where = f"{PASSWORD} or {password_file()}"
        raise ServerError(f"{where} is not usable: set it to user:password, in ASCII")
    return given


def read_password() -> str | None:
    """Return what the file says, None where there is none; a ServerError where others can read it."""
    try:
        with password_file().open(encoding="utf-8", errors="replace") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or status.st_mode & 0o077:
                remedy = "remove it, and the next start makes a new one"
                raise ServerError(f"{password_file()} is not for your eyes alone: {remedy}")
            return file.read().strip()
    except FileNotFoundError:
        return None


# Its life: use the one that runs, else start one.


def main() -> None:
    """Run the server until it is told to end, as `prefect server start` does, behind the guard."""
    try:
        os.environ.update(environment())
    except ServerError as error:
        sys.exit(f"error: {error}")
    os.environ[SERVER_PASSWORD] = os.environ.get(SERVER_PASSWORD) or os.environ[PASSWORD]
    # Left by a server that was killed, it would block the next one where another process has got its number.
    (home() / "concurrency_leases" / "expirations.lock").unlink(missing_ok=True)
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    uvicorn.run(
        web.Guard(create_app(final=True), names=NAMES), host=HOST, port=PORT,
        log_level=settings.logging_level.lower(), timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
    )  # fmt: skip


def now(before: timedelta = timedelta()) -> str:
    """Return the time as the server takes it, or how it was before."""
    return (datetime.now(UTC) - before).isoformat()


def ask(path: str, body: Any = None, method: str | None = None, *, anonymous: bool = False) -> Any:
    """Return the server's answer to a GET, or to a POST of `body`; an OSError where there is none."""
    headers = {"Content-Type": "application/json"}
    if not anonymous:
        headers["Authorization"] = f"Basic {base64.b64encode(auth_string().encode()).decode()}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API_URL + path, content, headers, method=method)  # noqa: S310  (ours)
    with OPENER.open(request, timeout=2 if content is None else 10) as answer:
        return json.loads(answer.read() or b"null")


def healthy() -> bool:
    """Return whether a Prefect server of the installed version answers; a ServerError where others do."""
    ours, health, found, anybody = version("prefect"), None, None, None
    try:
        health, found = ask("/health"), ask("/admin/version")
        with contextlib.suppress(urllib.error.HTTPError):
            anybody = ask("/admin/version", anonymous=True)
    except urllib.error.HTTPError as error:
        if error.code == http.client.UNAUTHORIZED:
            wants = f"the server at {UI_URL} wants another authentication string"
            raise ServerError(f"{wants}: set {PASSWORD} to its own") from error
    except OSError:  # also of a server that ends just now, so before HTTPException
        return False
    except (ValueError, http.client.HTTPException):  # it speaks, and not like Prefect
        pass
    if health is not True or found != ours:
        there = f"a server of Prefect {found}" if health is True else "something that is no Prefect server"
        taken = f"port {PORT} is taken by {there}, and {ours} is installed here"
        raise ServerError(f"{taken}; stop it, or set {PORT_VARIABLE}")
    if anybody:
        harm = "so any page that is open in a browser can run commands by it"
        raise ServerError(f"the server at {UI_URL} has no password, {harm}; stop it: we start one that has")
    return True


def take_port() -> bool:
    """Return whether a server may be started at our address, or else is one to use; else a ServerError."""
    if healthy():
        return False
    try:
        socket.create_server((HOST, PORT)).close()
    except OSError as error:
        taken = f"port {PORT} is taken by something that gives no answer"
        raise ServerError(f"{taken}; set {PORT_VARIABLE}") from error
    (home() / "server.log").unlink(missing_ok=True)
    return True


def start_server() -> "subprocess.Popen[bytes]":
    """Start a server at our address, which prints into `server.log`."""
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    return spawn([sys.executable, "-m", "flows.server"], environment(), home() / "server.log")


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

    The ephemeral one that Prefect would start by itself exits before it has recorded the history, and has no
    password. Call this before importing prefect: exit handlers run last in, first out, so that Prefect's,
    which send the last logs and states, find the server alive, and ours, which stops it, comes after them.
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


if __name__ == "__main__":
    main()
