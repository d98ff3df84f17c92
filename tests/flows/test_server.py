"""Whose server answers at our port, and processes that end with the one that started them."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import server
from flows.processes import exit_words, spawn, stop
from flows.server import ServerError
from tests.flows.runs import wait_for
from tests.flows.serving import ROOT, free_port


def at_port(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(server, "API_URL", f"http://127.0.0.1:{port}/api")
    monkeypatch.setattr(server, "PORT", port)


@contextmanager
def greeting(words: bytes) -> Iterator[int]:
    """A program that takes connections, says `words` and nothing more; its port."""
    with socket.create_server(("127.0.0.1", 0)) as ours:

        def greet() -> None:
            while True:
                try:
                    caller, _ = ours.accept()
                except OSError:
                    return
                with caller:
                    caller.sendall(words)
                    caller.recv(1000)

        threading.Thread(target=greet, daemon=True).start()
        yield ours.getsockname()[1]
        ours.shutdown(socket.SHUT_RDWR)


@contextmanager
def answering(answers: dict[str, Any]) -> Iterator[tuple[int, list[str | None]]]:
    """An HTTP server with these answers: JSON, or a status. Its port, and the Authorization headers."""
    credentials: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            credentials.append(self.headers["Authorization"])
            answer = answers.get(self.path, 404)
            self.send_response(answer if type(answer) is int else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as ours:
        threading.Thread(target=ours.serve_forever, daemon=True).start()
        yield ours.server_port, credentials
        ours.shutdown()


def test_a_free_port_is_ours_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    at_port(monkeypatch, free_port())
    assert server.take_port()


@pytest.mark.parametrize(
    ("words", "complaint"), [(b"", "gives no answer"), (b"SSH-2.0-OpenSSH_9.6\r\n", "no Prefect server")]
)
def test_another_program_at_the_port_is_told(
    monkeypatch: pytest.MonkeyPatch, words: bytes, complaint: str
) -> None:
    with greeting(words) as port:
        at_port(monkeypatch, port)
        with pytest.raises(ServerError, match=rf"port {port} is taken.*{complaint}.*set SAMUEL_PREFECT_PORT"):
            server.take_port()


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ({}, "no Prefect server.*HTTP 404"),
        ({"/api/health": {"status": "fine"}, "/api/admin/version": "1"}, "no Prefect server"),
        (
            {"/api/health": True, "/api/admin/version": "3.1.4"},
            f"server of Prefect 3.1.4, and {version('prefect')}",
        ),
        ({"/api/health": True, "/api/admin/version": 401}, "wants another authentication string"),
    ],
)
def test_another_server_at_the_port_is_told(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], complaint: str
) -> None:
    with answering(answers) as (port, _):
        at_port(monkeypatch, port)
        with pytest.raises(ServerError, match=complaint):
            server.take_port()


@pytest.mark.parametrize("name", ["PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"])
def test_a_server_with_a_password_is_asked_with_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    monkeypatch.setenv(name, "me:word")
    with answering({"/api/health": True, "/api/admin/version": version("prefect")}) as (port, credentials):
        at_port(monkeypatch, port)
        assert not server.take_port()
    assert credentials == ["Basic bWU6d29yZA=="] * 2
    assert server.environment()["PREFECT_API_AUTH_STRING"] == "me:word"


def test_a_database_of_another_version_is_named(tmp_path: Path) -> None:
    database = tmp_path / "prefect.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
    connection.close()
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "SAMUEL_PREFECT_PORT": str(free_port())}
    command = [sys.executable, "-m", "flows.serve"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert f"another version of Prefect has written: {database}" in done.stderr
    assert "Traceback" not in done.stderr


# Starts a process in a session of its own, as Prefect's worker and torchrun do, and says which.
STRAY = """
import subprocess, sys, os, signal, time
stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(stray.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(9)"])
def test_nothing_is_left_of_a_command_that_ends(tmp_path: Path, end: str) -> None:
    process = spawn([sys.executable, "-c", STRAY + end], log=tmp_path / "log")
    assert exit_words(process.wait(timeout=60)) == ("SIGKILL" if "KILL" in end else "exit code 9")
    assert not psutil.pid_exists(int((tmp_path / "log").read_text()))


@pytest.mark.parametrize("how", ["stopped", "parent killed"])
def test_nothing_is_left_of_a_command_whose_parent_ends(tmp_path: Path, how: str) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", STRAY + "time.sleep(600)"]
    if how == "stopped":
        process = spawn(command, log=log)
        wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
        stop(process)
        assert exit_words(process.returncode) == "SIGTERM"
    else:
        spawning = "from flows.processes import spawn; from pathlib import Path; import time;"
        spawning += f"spawn({command!r}, log=Path({str(log)!r})); time.sleep(600)"
        parent = subprocess.Popen([sys.executable, "-c", spawning], cwd=ROOT)
        wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not psutil.pid_exists(int(log.read_text())))
