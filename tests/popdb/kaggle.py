"""Kaggle on 127.0.0.1, for the real kagglehub.

Its environment variables can choose http://localhost but no port; as an HTTP proxy this server hears it on
any.
"""

import hashlib
import io
import json
import tarfile
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

USER, KEY = "someone", "0123456789abcdef0123456789abcdef"
AUTHORIZATION = f"Basic {b64encode(f'{USER}:{KEY}'.encode()).decode()}"
SERVICE = "/api/v1/datasets.DatasetApiService"
NOTEBOOK_SERVICE = "/kaggle-jwt-handler/"
STORE = "/store/archive.zip"


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP archive of `files`."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    """A TAR archive of `files`."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def environment(proxy: str, home: Path) -> dict[str, str]:
    """What points kagglehub at `proxy`, with credentials, and keeps all it writes below `home`."""
    return {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": proxy,
        "no_proxy": "",
        "NO_PROXY": "",
        "HOME": str(home),
        "KAGGLEHUB_CACHE": str(home / "cache"),
        "KAGGLE_CONFIG_DIR": str(home / "config"),
        "KAGGLE_USERNAME": USER,
        "KAGGLE_KEY": KEY,
        "KAGGLE_API_TOKEN": "",
    }


@dataclass
class LocalKaggle:
    """What the server holds, and the requests it saw.

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


class _Handler(BaseHTTPRequestHandler):
    kaggle: LocalKaggle

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        path = self._seen()
        given = self.headers.get("Authorization", "")
        status = self.kaggle.status if given == AUTHORIZATION else 401
        if path.startswith(NOTEBOOK_SERVICE):
            self._send(200, {}, b'{"wasSuccessful": false}')
        elif status != 200:
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
    """Serve an empty dataset while the block runs."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.kaggle = LocalKaggle(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield handler.kaggle
        finally:
            server.shutdown()
            thread.join()
