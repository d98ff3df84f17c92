"""The paper's song list by real kagglehub, from a Kaggle on 127.0.0.1."""

import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import traceback
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from samuel.config import SongsConfig
from samuel.errors import MissingPartError
from samuel.popdb.songs import KAGGLE_FILE, fetch_kaggle_list, list_songs

ROOT = Path(__file__).parents[2]
USER, KEY = "someone", "0123456789abcdef0123456789abcdef"
AUTHORIZATION = f"Basic {b64encode(f'{USER}:{KEY}'.encode()).decode()}"
SERVICE, STORE = "/api/v1/datasets.DatasetApiService", "/store/archive.zip"
LIST = b"song_name,song_popularity,song_duration_ms\nSong,1,60000\n"
BUNDLE = {KAGGLE_FILE: LIST, "licence.txt": b"of the dataset"}


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


@dataclass
class LocalKaggle:
    """A Kaggle that holds one dataset.

    kagglehub's variables can choose http://localhost but no port: as an HTTP proxy it is heard on any.

    Attributes:
        proxy: Its address.
        archive: The dataset.
        version: Which version of it.
        checksum: Its MD5 as the store states it; None: as it is.
        status: Sent in place of an answer where it is not 200.
        sent: Bytes of the archive that are sent before it hangs up; None: all.
        requests: Paths asked for, with the range where one was asked.
    """

    proxy: str
    archive: bytes = b""
    version: int = 1
    checksum: str | None = None
    status: int = 200
    sent: int | None = None
    requests: list[str] = field(default_factory=list)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that point kagglehub here, with credentials, and keep all it writes below `home`."""
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": self.proxy, "no_proxy": "", "NO_PROXY": "",
            "HOME": str(home), "KAGGLEHUB_CACHE": str(home / "cache"),
            "KAGGLE_CONFIG_DIR": str(home / "config"), "KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY,
            "KAGGLE_API_TOKEN": "",
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    kaggle: LocalKaggle

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        path, given = self._seen(), self.headers.get("Authorization", "")
        status = self.kaggle.status if given == AUTHORIZATION else 401
        if status != 200:
            self._send(status, {}, json.dumps({"code": status, "message": f"{given} {KEY}"}).encode())
        elif path == f"{SERVICE}/GetDataset":
            self._send(200, {}, json.dumps({"currentVersionNumber": self.kaggle.version}).encode())
        elif path == f"{SERVICE}/DownloadDataset":
            self._send(302, {"Location": f"http://localhost{STORE}"}, b"")
        else:
            self._send(404, {}, b"{}")

    def do_GET(self) -> None:
        if self._seen() != STORE:
            return self._send(404, {}, b"")
        archive = self.kaggle.archive
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        md5 = b64encode(hashlib.md5(archive, usedforsecurity=False).digest()).decode()
        store = {"Accept-Ranges": "bytes", "x-goog-hash": f"md5={self.kaggle.checksum or md5}"}
        return self._send(206 if start else 200, store, archive[start:], self.kaggle.sent)

    def _seen(self) -> str:
        path = urlsplit(self.path).path
        self.kaggle.requests.append(f"{path} {self.headers.get('Range', '')}".strip())
        return path

    def _send(self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        kind = "application/octet-stream" if "Accept-Ranges" in headers else "application/json"
        length = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Kaggle-HubVersion": "99.0"}
        for name, value in {**length, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[LocalKaggle]:
    handler = type("Served", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.kaggle = LocalKaggle(f"http://127.0.0.1:{server.server_port}", zipped(BUNDLE))
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield handler.kaggle
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalKaggle]:
    with serving() as site:
        monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
        for name, value in site.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield site


def failure() -> str:
    """The message fetching fails with: it names the remedies, and shows no secret."""
    with pytest.raises(MissingPartError) as caught:
        fetch_kaggle_list()
    for part in ("kaggle.json", "KAGGLE_KEY", "songs.path", "yasserh/song-popularity-dataset"):
        assert part in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in (KEY, AUTHORIZATION, AUTHORIZATION.removeprefix("Basic ")):
        assert secret not in shown
    return str(caught.value)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_version_of_the_list_is_fetched_once(kaggle: LocalKaggle, tmp_path: Path) -> None:
    config = SongsConfig(source="csv")
    listed = list_songs(config, tmp_path / "data")
    assert [song.title for song in listed.songs] == ["Song"]
    assert kaggle.requests == [f"{SERVICE}/GetDataset", f"{SERVICE}/DownloadDataset", STORE]
    kaggle.requests.clear()
    assert list_songs(config, tmp_path / "data") == listed
    assert kaggle.requests == [f"{SERVICE}/GetDataset"]  # which version there is, nothing else
    kaggle.version, kaggle.archive = 2, zipped({KAGGLE_FILE: b"another list"})
    assert fetch_kaggle_list().read_bytes() == b"another list"


def test_nothing_is_printed(kaggle: LocalKaggle, tmp_path: Path) -> None:
    code = "from samuel.popdb.songs import fetch_kaggle_list; fetch_kaggle_list()"
    variables = {**os.environ, **kaggle.environment(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert STORE in kaggle.requests


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "Kaggle refuses the credentials (HTTP 401)"),
        (403, "Kaggle refuses the credentials (HTTP 403)"),
        (404, "Kaggle answers with an error (HTTP 404)"),
        (500, "Kaggle answers with an error (HTTP 500)"),
    ],
)
def test_refusal(status: int, reason: str, kaggle: LocalKaggle) -> None:
    kaggle.status = status
    assert reason in failure()
    assert kaggle.requests == [f"{SERVICE}/GetDataset"]
    kaggle.status = 200
    assert fetch_kaggle_list().read_bytes() == LIST


def test_credentials_that_are_wrong_or_cannot_be_read(
    kaggle: LocalKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "f" * 32)
    assert "Kaggle refuses the credentials (HTTP 401)" in failure()
    kaggle.requests.clear()
    monkeypatch.delenv("KAGGLE_KEY")
    path = tmp_path / "config" / "kaggle.json"
    path.parent.mkdir()
    path.write_text(f'{{"username": "someone", "key": "{KEY}"')
    unread = f"the Kaggle credentials cannot be read (Invalid Kaggle credentials file at {path})"
    assert unread in failure()
    assert kaggle.requests == []


def test_nobody_answers(kaggle: LocalKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as gone:
        pass
    monkeypatch.setenv("http_proxy", gone.proxy)
    assert "Kaggle cannot be reached" in failure()


def test_a_download_that_breaks_off_is_resumed(kaggle: LocalKaggle) -> None:
    noise = random.Random(0).randbytes(3 * 2**20)  # noqa: S311
    kaggle.archive = zipped({KAGGLE_FILE: LIST, "noise": noise})
    kaggle.sent = 2**21 + 5
    assert "the connection broke off" in failure()
    kaggle.sent = None
    path = fetch_kaggle_list()
    assert kaggle.requests[-1] == f"{STORE} bytes={2**21}-"
    assert (path.read_bytes(), path.with_name("noise").read_bytes()) == (LIST, noise)


WHOLE, DEFLATED = zipped(BUNDLE), zipped(BUNDLE, zipfile.ZIP_DEFLATED)
CONTENT = 30 + len(KAGGLE_FILE)  # where the first file begins, after its header
NOISE = random.Random(0).randbytes(50_000)  # noqa: S311


@pytest.mark.parametrize(
    ("archive", "complaint"),
    [
        (b"<html>sign in</html>", "what it found (ValueError)"),
        (WHOLE[: len(WHOLE) // 2], "what it found (ValueError)"),
        (WHOLE.replace(b"Song,1", b"Sony,1"), "what it found (BadZipFile)"),
        (DEFLATED[:CONTENT] + b"\xff" + DEFLATED[CONTENT + 1 :], "what it found (error)"),
        (gzip.compress(tarred({KAGGLE_FILE: NOISE}))[:40_000], "what it found (EOFError)"),
        (zipped({"licence.txt": b"alone"}), f"the Kaggle dataset holds no {KAGGLE_FILE}"),
    ],
)  # fmt: skip
def test_a_damaged_archive(archive: bytes, complaint: str, kaggle: LocalKaggle) -> None:
    kaggle.archive = archive
    assert complaint in failure()


def test_a_download_that_is_not_what_was_sent(kaggle: LocalKaggle) -> None:
    kaggle.checksum = "AAAAAAAAAAAAAAAAAAAAAA=="
    assert "kagglehub cannot use what it found (DataCorruptionError)" in failure()
    kaggle.checksum = None
    assert fetch_kaggle_list().read_bytes() == LIST


def test_an_archive_cannot_write_elsewhere(kaggle: LocalKaggle, tmp_path: Path) -> None:
    hostile = {KAGGLE_FILE: LIST, "../../x": b"x", str(tmp_path / "y"): b"y"}
    kaggle.archive = zipped(hostile)
    assert fetch_kaggle_list().read_bytes() == LIST
    inside = "cache/datasets/yasserh/song-popularity-dataset"
    outside = {name for name in files(tmp_path) if not name.startswith(f"{inside}/versions/1/")}
    assert outside == {f"{inside}/1.complete"}
    kaggle.version, kaggle.archive = 2, tarred(hostile)
    before = files(tmp_path)
    assert "kagglehub cannot use what it found (OutsideDestinationError)" in failure()
    assert files(tmp_path) - before == {f"{inside}/versions/2/{KAGGLE_FILE}", f"{inside}/2.archive"}
