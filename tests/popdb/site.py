"""A site of our own on 127.0.0.1 that the real yt-dlp searches and downloads from."""

import importlib
import io
import json
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import soundfile
import yt_dlp.globals
from numpy.typing import NDArray
from yt_dlp.extractor import import_extractors
from yt_dlp.plugins import load_all_plugins

PLUGIN_FOLDER = Path(__file__).with_name("site_plugin")
# `download` settings for the site: no pause that a test would have to wait for, one try, the site's order.
AT_ONCE: dict[str, Any] = {
    "search": "samueltest",
    "extractors": ["samueltest:search$", "samueltest$"],
    "policy": "first",
    "search_interval_s": 0,
    "download_interval_s": 0,
    "request_interval_s": 0,
    "retries": 0,
    "attempts": 1,
    "pause_s": 0.01,
    "pause_ceiling_s": 0.05,
    "stop_after": 1000,
}


def sine(duration_s: float = 3.0, sample_rate: int = 44_100, channels: int = 2) -> NDArray[np.float32]:
    """A tone of 440 Hz at half of full scale, (S, channels)."""
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time_s)
    return np.repeat(tone[:, None], channels, axis=1).astype(np.float32)


def encoded(audio: NDArray[np.float32], sample_rate: int = 44_100, kind: str = "FLAC") -> bytes:
    """`audio` (S, channels) as the bytes of a WAV, FLAC, OGG or MP3 file."""
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, format=kind)
    return file.getvalue()


@dataclass
class Answer:
    """Sent for a path. A request for a range gets the rest of the body (206), or 416 where there is none."""

    body: bytes
    status: int = 200
    sent: int | None = None  # so many bytes are sent, then the site hangs up; None: all
    kind: str = "application/octet-stream"
    length: int | None = None  # Content-Length that is claimed; None: the true one
    bytes_per_s: float | None = None  # rate of a slow body; None: at once
    reset: bool = False  # the connection is reset instead of closed
    times: int | None = None  # so many requests meet the fault; None: all

    def now(self) -> "Answer":
        """This answer to one more request: healed where its fault held only for the first ones."""
        if self.times is None:
            return self
        self.times -= 1
        return self if self.times >= 0 else Answer(self.body, kind=self.kind)


@dataclass
class LocalSite:
    """The site's content, and the requests it saw."""

    base: str
    # By path; "/search" is that of every search, "/search?q=<title>" that of one.
    answers: dict[str, Answer] = field(default_factory=dict)
    hits: list[dict[str, Any]] = field(default_factory=list)  # found by a search
    # Ids of the hits that the search for a title finds; where it is not in here, it finds all.
    found: dict[str, list[str]] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # paths asked for
    headers: list[dict[str, str]] = field(default_factory=list)  # of each; the target is under ":path"

    def add_video(self, video_id: str, media: Answer, duration: float | None = 3.0, **page: Any) -> None:
        """A hit of every search, its page, and its media; `page` is added to hit and page."""
        self.add_hit(video_id, duration=duration, **page)
        self.add_page(video_id, duration=duration, **page)
        self.answers[f"/media/{video_id}"] = media

    def add_song(self, title: str, video_id: str, media: Answer, duration: float | None = 3.0) -> None:
        """A video that is a hit of the search for `title` alone."""
        self.add_video(video_id, media, duration)
        self.found[title] = [video_id]

    def add_hit(self, video_id: str, **fields: Any) -> None:
        """A hit of every search, without a page behind it."""
        url = f"{self.base}/watch/{video_id}"
        self.hits.append({"id": video_id, "title": f"Video {video_id}", "url": url, **fields})

    def add_page(self, video_id: str, **fields: Any) -> None:
        """The page of a video."""
        media = {"url": f"{self.base}/media/{video_id}", "ext": "flac", "vcodec": "none"}
        page = {"id": video_id, "title": f"Video {video_id}", **media, **fields}
        self.answers[f"/watch/{video_id}"] = Answer(json.dumps(page).encode())

    def sent(self, path: str, header: str) -> list[str | None]:
        """Values of `header` in the requests for `path`."""
        return [headers.get(header) for headers in self.headers if urlsplit(headers[":path"]).path == path]

    def answer(self, target: str) -> Answer:
        """Answer a request."""
        parts = urlsplit(target)
        self.requests.append(parts.path)
        if parts.path == "/search":
            [title] = parse_qs(parts.query)["q"]
            self.queries.append(title)
            return self._search(title).now()
        return self.answers.get(parts.path, Answer(b"nothing here", 404)).now()

    def _search(self, title: str) -> Answer:
        if answer := self.answers.get(f"/search?q={title}") or self.answers.get("/search"):
            return answer
        wanted = self.found.get(title)
        return Answer(json.dumps([h for h in self.hits if wanted is None or h["id"] in wanted]).encode())


@contextmanager
def serving(site: LocalSite | None = None) -> Iterator[LocalSite]:
    """Serve `site`, or a fresh and empty one, while the block runs; its `base` is set."""
    served = site or LocalSite("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.headers.append({":path": self.path, **self.headers})
            _send(self, served.answer(self.path))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        served.base = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(asked[1]) if asked and answer.status == 200 else None
    body = answer.body[start or 0 :]
    beyond = start is not None and not body
    handler.send_response(answer.status if start is None else 416 if beyond else 206)
    handler.send_header("Content-Type", answer.kind)
    if start is not None:
        part = "*" if beyond else f"{start}-{len(answer.body) - 1}"
        handler.send_header("Content-Range", f"bytes {part}/{len(answer.body)}")
    handler.send_header("Content-Length", str(len(body) if answer.length is None else answer.length))
    handler.send_header("Connection", "close")
    handler.close_connection = True
    handler.end_headers()
    try:
        _write(handler, body[: answer.sent], answer.bytes_per_s)
        if answer.reset:
            handler.wfile.flush()
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
    except OSError:  # the client has had enough
        return


def _write(handler: BaseHTTPRequestHandler, body: bytes, bytes_per_s: float | None) -> None:
    if bytes_per_s is None:
        handler.wfile.write(body)
        return
    step = max(1, round(bytes_per_s / 20))
    for start in range(0, len(body), step):
        handler.wfile.write(body[start : start + step])
        handler.wfile.flush()
        time.sleep(step / bytes_per_s)


@contextmanager
def yt_dlp_plugin() -> Iterator[None]:
    """Make yt-dlp know the site's extractors while the block runs, whoever used yt-dlp before."""
    import_extractors()
    before = yt_dlp.globals.extractors.value, yt_dlp.globals.plugin_ies.value
    sys.path.insert(0, str(PLUGIN_FOLDER))
    try:
        importlib.invalidate_caches()
        load_all_plugins()
        yield
    finally:
        sys.path.remove(str(PLUGIN_FOLDER))
        yt_dlp.globals.extractors.value, yt_dlp.globals.plugin_ies.value = before
        importlib.invalidate_caches()
