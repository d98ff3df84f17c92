"""The server of reports and audio, by a real socket."""

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SECRET = b"not for the browser"
AUDIO = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pages")
    (root / "secret.txt").write_bytes(SECRET)
    report = root / "artifacts" / "run" / "report"
    (report / "audio").mkdir(parents=True)
    (report / "report.html").write_text("<!doctype html><p>heard</p>")
    (report / "audio" / "a b.flac").write_bytes(AUDIO)
    (report / "link.txt").symlink_to(root / "secret.txt")
    (report / "folder").symlink_to(root)
    return root / "artifacts"


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flows.service.pages", "--port", str(port), "--directory", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(port)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """The answer to a request whose path nobody has tidied."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def test_a_page_comes_as_what_its_name_says(port: int) -> None:
    status, headers, body = ask(port, "/run/report/report.html")
    assert (status, body) == (200, b"<!doctype html><p>heard</p>")
    assert headers["content-type"].startswith("text/html")
    assert headers["x-content-type-options"] == "nosniff"


def test_audio_can_be_asked_for_in_parts(port: int) -> None:
    status, headers, body = ask(port, "/run/report/audio/a%20b.flac", Range="bytes=100-199")
    assert (status, body) == (206, AUDIO[100:200])
    assert headers["content-type"] == "audio/flac"
    assert headers["content-range"] == f"bytes 100-199/{len(AUDIO)}"
    assert headers["x-content-type-options"] == "nosniff"
    status, headers, body = ask(port, "/run/report/audio/a%20b.flac", "HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(AUDIO)), b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/run/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/run/%2e%2e%2f%2e%2e%2fsecret.txt",
        "/..%5csecret.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/run/report/link.txt",
        "/run/report/folder/secret.txt",
        "/run/report/report.html%00.png",
        "/" + "a" * 5000,
        "/",
        "/run/report/",
        "/run/report",
    ],
)
def test_nothing_else_is_there(port: int, path: str) -> None:
    status, _, body = ask(port, path)
    assert status == 404
    assert SECRET not in body
    assert b"report.html" not in body  # no folder is listed


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_reads(port: int, folder: Path, method: str) -> None:
    assert ask(port, "/run/report/report.html", method)[0] == 405
    assert (folder / "run/report/report.html").is_file()


def test_a_page_of_another_name_reads_nothing(port: int) -> None:
    status, _, body = ask(port, "/run/report/report.html", Host="evil.example")
    assert status == 400
    assert b"heard" not in body


def test_only_this_machine_is_answered(port: int) -> None:
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    bound = {entry[1] for entry in lines if entry[1].endswith(f":{port:04X}") and entry[3] == "0A"}
    assert bound == {f"0100007F:{port:04X}"}


def test_a_port_in_use_is_named(port: int, folder: Path) -> None:
    command = [sys.executable, "-m", "flows.service.pages", "--port", str(port), "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}: Address already in use; give another --port" in done.stderr
    assert "Traceback" not in done.stderr
