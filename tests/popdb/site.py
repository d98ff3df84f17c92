"""A site of our own on 127.0.0.1 that the real yt-dlp searches and downloads from."""

import importlib
import io
import json
import sys
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

from samuel.popdb.download import Site

PLUGIN_FOLDER = Path(__file__).with_name("site_plugin")
TEST_SITE = Site("samueltest", ("samueltest:search$", "samueltest$"))


def sine(duration_s: float = 3.0, sample_rate: int = 44_100, channels: int = 2) -> NDArray[np.float32]:
    """A tone of 440 Hz at half of full scale, (S, channels)."""
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    return np.repeat(tone[:, None], channels, axis=1).astype(np.float32)


def encoded(audio: NDArray[np.float32], sample_rate: int = 44_100, kind: str = "FLAC") -> bytes:
    """`audio` (S, channels) as the bytes of a WAV, FLAC, OGG or MP3 file."""
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, format=kind)
    return file.getvalue()


@dataclass
class Answer:
    """What the site sends for a path: `sent` bytes of `body` (all by default), then it hangs up."""

    body: bytes
    status: int = 200
    sent: int | None = None
    kind: str = "application/octet-stream"


@dataclass
class LocalSite:
    """The site's content, and the requests it saw."""

    base: str
    answers: dict[str, Answer] = field(default_factory=dict)
    hits: list[dict[str, Any]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def add_video(self, video_id: str, media: Answer, duration: float | None = 3.0, **page: Any) -> None:
        """A hit of every search, its page, and its media; `page` is added to hit and page."""
        self.add_hit(video_id, duration=duration, **page)
        self.add_page(video_id, duration=duration, **page)
        self.answers[f"/media/{video_id}"] = media

    def add_hit(self, video_id: str, **fields: Any) -> None:
        """A hit of every search, without a page behind it."""
        url = f"{self.base}/watch/{video_id}"
        self.hits.append({"id": video_id, "title": f"Video {video_id}", "url": url, **fields})

    def add_page(self, video_id: str, **fields: Any) -> None:
        """The page of a video."""
        media = {"url": f"{self.base}/media/{video_id}", "ext": "flac", "vcodec": "none"}
        page = {"id": video_id, "title": f"Video {video_id}", **media, **fields}
        self.answers[f"/watch/{video_id}"] = Answer(json.dumps(page).encode())

    def answer(self, target: str) -> Answer:
        """What is sent for a request."""
        parts = urlsplit(target)
        self.requests.append(parts.path)
        if parts.path == "/search":
            self.queries += parse_qs(parts.query)["q"]
            return self.answers.get("/search") or Answer(json.dumps(self.hits).encode())
        return self.answers.get(parts.path, Answer(b"nothing here", 404))


@contextmanager
def serving() -> Iterator[LocalSite]:
    """Serve a fresh, empty site while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = site.answer(self.path)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: answer.sent])

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site = LocalSite(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


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
