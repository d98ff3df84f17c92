"""The Prefect server on this machine: use the one that runs, else start one.

The ephemeral server that Prefect would start by itself exits before it has recorded the history, so it is
never used. This module does not import prefect: the server boots while the flows are still being imported.
"""

import atexit
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
PORT = int(os.environ.get("SAMUEL_PREFECT_PORT", "4200"))
UI_URL = f"http://{HOST}:{PORT}"
API_URL = f"{UI_URL}/api"
BOOT_SECONDS = 120
RECORD_SECONDS = 15
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class ServerError(RuntimeError):
    """The server does not come up."""


def environment() -> dict[str, str]:
    """Variables for every process that talks to this server."""
    home = os.environ.get("PREFECT_HOME", str(ROOT / ".prefect"))
    return {**os.environ, "PREFECT_HOME": home, "PREFECT_API_URL": API_URL, "DO_NOT_TRACK": "1"}


def prefect(*arguments: str) -> list[str]:
    """Command line of Prefect's own CLI, by this interpreter."""
    return [sys.executable, "-m", "prefect", *arguments]


def healthy() -> bool:
    """True when a Prefect server answers at our address.

    Raises:
        ServerError: Something that is no Prefect server answers there.
    """
    try:
        with urllib.request.urlopen(f"{API_URL}/health", timeout=2) as answer:  # noqa: S310  (http, ours)
            return json.load(answer) is True
    except urllib.error.HTTPError as error:
        raise ServerError(_occupied(f"HTTP {error.code}")) from error
    except json.JSONDecodeError as error:
        raise ServerError(_occupied("an answer that is not JSON")) from error
    except OSError:
        return False


def ensure_server() -> None:
    """A healthy server: the one that is there, else one of our own that ends with this process.

    Call it before importing prefect: exit handlers run last in, first out, so that Prefect's, which send the
    last logs and states, find the server alive, and ours, which stops it, comes after them.
    """
    if healthy():
        return
    log = ROOT / ".prefect" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = spawn(prefect("server", "start", "--host", HOST, "--port", str(PORT)), output.fileno())
    atexit.register(_finish, process, datetime.now(UTC))
    wait_until_healthy(process, log)


def wait_until_healthy(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once the server answers.

    Raises:
        ServerError: It exits, or does not answer in time; names the log.
    """
    deadline = time.monotonic() + BOOT_SECONDS
    while not healthy():
        if process.poll() is not None:
            raise ServerError(f"the Prefect server stopped at once; see {log} (is port {PORT} in use?)")
        if time.monotonic() > deadline:
            raise ServerError(f"the Prefect server gave no sign within {BOOT_SECONDS} s; see {log}")
        time.sleep(0.2)


def spawn(command: Sequence[str], output: int | None = None) -> "subprocess.Popen[bytes]":
    """A process in a session of its own, so that Ctrl-C reaches it only through us; it ends when we do."""
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=output, stderr=output, start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  (no threads yet)
    )  # fmt: skip


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a spawned process and its children."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _finish(process: "subprocess.Popen[bytes]", since: datetime) -> None:
    """Stop our server once it has recorded how every task that began after `since` ended."""
    deadline = time.monotonic() + RECORD_SECONDS
    try:
        while process.poll() is None and _unfinished_tasks(since) and time.monotonic() < deadline:
            time.sleep(0.3)
    finally:
        stop(process)


def _unfinished_tasks(since: datetime) -> int:
    unfinished = {
        "state": {"type": {"any_": ["PENDING", "RUNNING"]}},
        "start_time": {"after_": since.isoformat()},
    }
    request = urllib.request.Request(  # noqa: S310  (http, ours)
        f"{API_URL}/task_runs/count",
        json.dumps({"task_runs": unfinished}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return json.load(answer)


def _occupied(answer: str) -> str:
    return f"port {PORT} is taken by something that is no Prefect server ({answer}); set SAMUEL_PREFECT_PORT"
