"""A model hub on this machine: as much of the Hugging Face hub's API as downloading a file takes."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

# Files that the hub keeps apart: their etag is the sha256 of their bytes, others' that of a git blob.
LFS = (".safetensors", ".th", ".pt")


@dataclass
class LocalHub:
    """What the server shows; change it while it runs."""

    address: str = ""  # http://127.0.0.1:port
    folders: dict[str, Path] = field(default_factory=dict)  # the files of each repository, `owner/name`
    gated: set[str] = field(default_factory=set)  # repositories whose terms must be accepted
    accepted: set[str] = field(default_factory=set)  # tokens whose owner has accepted all terms
    known: set[str] = field(default_factory=set)  # tokens of anybody else; others are no login at all
    down: bool = False  # answer everything with 503
    short: bool = False  # send half of each file as if it were all of it
    commit: str = "c0ffee" + "0" * 34  # what `main` stands for; where it is empty, this is some other server
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path of all that was asked

    def refusal(self, repository: str, token: str) -> tuple[int, str, str] | None:
        """Status, error code and words of a refusal; None where the token opens the repository."""
        if self.down:
            return 503, "", "down"
        if token and token not in self.accepted | self.known:
            return 401, "", "Invalid credentials in Authorization header"
        if repository in self.gated and token not in self.accepted:
            return (403 if token else 401), "GatedRepo", f"Access to model {repository} is restricted"
        if repository not in self.folders:
            return (404 if token else 401), "RepoNotFound", "Repository not found"
        return None


@contextlib.contextmanager
def local_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[LocalHub]:
    """A running hub, to which huggingface_hub goes with an empty cache, no login and short patience."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    point_at(monkeypatch, hub.address, cache)
    try:
        yield hub
    finally:
        huggingface_hub.close_session()  # its open connections would be warned of as leaks
        server.shutdown()
        thread.join()
        server.server_close()


def point_at(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """Let huggingface_hub go to `address` and keep its files in `cache`, without login, Xet or long waits."""
    settings: Mapping[str, Any] = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_ETAG_TIMEOUT": 3,
        "HF_HUB_DOWNLOAD_TIMEOUT": 3,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for call in (_http.http_backoff, _http.http_stream_backoff):
        patience: dict[str, Any] = getattr(call, "__wrapped__", call).__kwdefaults__ or {}
        monkeypatch.setitem(patience, "max_retries", 1)
        monkeypatch.setitem(patience, "base_wait_time", 0.01)


class Handler(BaseHTTPRequestHandler):
    """HEAD and GET of `/<owner>/<name>/resolve/<revision>/<file>`."""

    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the server's name
        pass

    def _answer(self, *, with_body: bool) -> None:
        self.hub.requests.append((self.command, self.path))
        repository, _, rest = unquote(self.path).removeprefix("/").partition("/resolve/")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if refused := self.hub.refusal(repository, token):
            self._refuse(*refused)
            return
        folder, name = self.hub.folders[repository], rest.partition("/")[2]
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        if name not in names:
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._give(folder / name, with_body=with_body)

    def _refuse(self, status: int, code: str, words: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", words)
        if self.hub.commit:
            self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _give(self, path: Path, *, with_body: bool) -> None:
        content = path.read_bytes()
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        sent = content[first : len(content) // 2] if self.hub.short and with_body else content[first:]
        self.send_header("Content-Length", str(len(sent)))
        if self.hub.commit:
            self.send_header("X-Repo-Commit", self.hub.commit)
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        self.send_header("ETag", f'"{blob.hexdigest()}"')
        if path.suffix in LFS:
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(sent)
