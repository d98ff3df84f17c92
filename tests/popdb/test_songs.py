"""Songs from each source: what is listed, in which order, what each rule removes, and what is refused."""

import csv
import hashlib
import json
import random
import re
import traceback
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from samuel.config import SongsConfig
from samuel.errors import InputError, MissingPartError
from samuel.popdb.songs import KAGGLE_FILE, fetch_kaggle_list, list_songs, normalise_title, rule
from tests.popdb.choice_cases import REAL_LIST, needs_real_list

HEADER = "song_name,song_popularity,song_duration_ms\n"
FEATURES = "song_name,song_popularity,song_duration_ms,instrumentalness,speechiness\n"


def folder_titles(root: Path, data: Path | None = None) -> list[str]:
    listed = list_songs(SongsConfig(source="folder", path=root), data or root.parent / "data")
    return [song.title for song in listed.songs]


def put(path: Path, content: bytes = b"sound") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_folder_leaves_out_what_is_hidden_ours_or_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    for name in ("a.wav", ".b.wav", ".trash/c.wav", "data/raw/x/audio.wav", "run/track/mix.wav"):
        put(root / name)
    put(root / "run" / "track" / "entry.json", b"{}")
    (root / "folder.wav").mkdir()
    assert folder_titles(root, root / "data") == ["a"]
    assert folder_titles(root) == ["a", "audio"]
    (root / "leaves.wav").symlink_to(put(tmp_path / "elsewhere" / "b.wav"))
    (root / "leaves").symlink_to(tmp_path / "elsewhere")
    (root / "stays.wav").symlink_to(root / "a.wav")
    (root / "broken.wav").symlink_to(root / "gone.wav")
    (root / "loop.wav").symlink_to(root / "loop.wav")
    assert folder_titles(root, root / "data") == ["a", "stays"]
    link = tmp_path / "a" / "link"
    link.parent.mkdir()
    link.symlink_to(root)
    assert folder_titles(link, root / "data") == ["a", "stays"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("song_name,tempo\nx,1\n", "no column song_popularity, song_duration_ms; the header must name"),
        (HEADER + "x" * 200_000 + ",1,1\n", "has over 1,000 characters"),
        (HEADER.encode() + "Café,1,60000\n".encode("latin-1"), "not UTF-8"),
        (HEADER + "x,1e10,60000\n", "row 2, song_popularity: '1e10' is not a number from 0 to 1"),
        (HEADER + "\r" * 4_000_000, "over 4,000,000 cells"),
        (HEADER + "x" * 2**25, "over 33,554,432 bytes"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_csv_that_cannot_be_used(text: str | bytes, complaint: str, tmp_path: Path) -> None:
    path = put(tmp_path / "list.csv", text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=re.escape(complaint)):
        list_songs(SongsConfig(source="csv", path=path), tmp_path / "data")


def plain_loop(path: Path, bounds: dict[str, float]) -> list[tuple[str, float, int]]:
    """What is chosen, most popular first, by a loop over the rows."""
    groups: dict[str, list[dict[str, Any]]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for place, cells in enumerate(csv.DictReader(file)):
            title = normalise_title(cells["song_name"])
            row = {"title": title, "place": place, "ms": float(cells["song_duration_ms"])}
            row["popularity"] = round(float(cells["song_popularity"]))
            row |= {share: float(cells[share]) for share in ("instrumentalness", "speechiness")}
            groups.setdefault(normalise_title(title.casefold()), []).append(row)
    found: list[tuple[int, int, str, float]] = []
    for group in groups.values():
        group.sort(key=lambda row: (row["ms"], row["title"]))
        recordings = [[group[0]]]
        for before, row in pairwise(group):
            if row["ms"] - before["ms"] > 3000:
                recordings.append([])
            recordings[-1].append(row)
        for rows in recordings:
            best = min(rows, key=lambda row: (-row["popularity"], row["place"]))
            values = {**best, "duration_s": rows[0]["ms"] / 1000}
            if all(
                (values[name[4:]] >= bound if name[:3] == "min" else values[name[4:]] <= bound)
                for name, bound in bounds.items()
            ):
                first = min(row["place"] for row in rows)
                found.append((-best["popularity"], first, rows[0]["title"], values["duration_s"]))
    return [(title, duration_s, -popularity) for popularity, _, title, duration_s in sorted(found)]


BOUNDS = {
    "min_popularity": 50, "min_duration_s": 60, "max_duration_s": 900, "max_instrumentalness": 0.5,
    "max_speechiness": 0.33,
}  # fmt: skip


@pytest.mark.parametrize("bounds", [{}, BOUNDS], ids=["all", "filtered"])
@pytest.mark.parametrize("source", ["drawn", pytest.param("real", marks=needs_real_list)])
def test_a_list_is_chosen_as_by_a_plain_loop(source: str, bounds: dict[str, Any], tmp_path: Path) -> None:
    path = REAL_LIST
    if source == "drawn":
        rng, path = random.Random(0), tmp_path / "list.csv"  # noqa: S311
        names = ("One", "one", "ONE ", "Two", "Three", "Straße", "strasse")
        rows = [
            f"{rng.choice(names)},{rng.randrange(100)},{rng.randrange(50_000, 950_000)},"
            f"{rng.random():.3f},{rng.random() / 2:.4f}\n"
            for _ in range(400)
        ]
        path.write_text(FEATURES + "".join(reversed(rows)), "utf-8")
        other_order = list_songs(SongsConfig(source="csv", path=path), tmp_path).songs
        path.write_text(FEATURES + "".join(rows), "utf-8")
        songs = list_songs(SongsConfig(source="csv", path=path), tmp_path).songs
        assert {song.song_id: song.duration_s for song in songs} == {
            song.song_id: song.duration_s for song in other_order
        }
    config = SongsConfig(source="csv", path=path, order="popularity", **bounds)
    listed = [(song.title, song.duration_s, song.popularity) for song in list_songs(config, tmp_path).songs]
    assert len(listed) > 5
    assert listed == plain_loop(path, bounds)


@needs_real_list
def test_real_list() -> None:
    listed = list_songs(SongsConfig(source="csv", path=REAL_LIST), Path("data"))
    rows = rule("rows of the list", 0, 18_835)
    assert listed.rules == [rows, rule("same name, duration within 3 s", 4_848, 13_987)]
    titles = {song.song_id: song.title for song in listed.songs}
    assert len(titles) == len(listed.songs) == 13_987
    assert len({normalise_title(title).casefold() for title in titles.values()}) == 12_963
    assert list(titles.items())[:2] == [
        ("02f45b6b8d13045a0da7", "Boulevard of Broken Dreams"),
        ("c09a5382f982e2517b35", "In The End"),
    ]
    assert titles["16d0d8143a308b40f4ba"] == "22"
    assert titles["c40b8b34aa1a6716b1e5"] == titles["3b83bff1b3215e26b031"] == "TRUE"
    assert "앞자리" in titles.values()  # after a zero-width space in the list


USER, KEY = "someone", "0123456789abcdef0123456789abcdef"
AUTHORIZATION = f"Basic {b64encode(f'{USER}:{KEY}'.encode()).decode()}"
SERVICE, STORE = "/api/v1/datasets.DatasetApiService", "/store/archive.zip"
LIST = (HEADER + "Song,1,60000\n").encode()


def zipped(**files: bytes) -> bytes:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


@dataclass
class LocalKaggle:
    """A Kaggle that holds one dataset; as an HTTP proxy it is heard on any port."""

    archive: bytes = zipped(**{KAGGLE_FILE: LIST})
    version: int = 1
    status: int = 200  # sent in place of an answer where it is not 200
    requests: list[str] = field(default_factory=list)  # paths


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
        else:
            self._send(302, {"Location": f"http://localhost{STORE}"}, b"")

    def do_GET(self) -> None:
        self._seen()
        archive = self.kaggle.archive
        md5 = b64encode(hashlib.md5(archive, usedforsecurity=False).digest()).decode()
        store = {"Accept-Ranges": "bytes", "x-goog-hash": f"md5={md5}"}
        self._send(200, store, archive)

    def _seen(self) -> str:
        self.kaggle.requests.append(urlsplit(self.path).path)
        return self.kaggle.requests[-1]

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        kind = "application/octet-stream" if "Accept-Ranges" in headers else "application/json"
        length = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Kaggle-HubVersion": "99.0"}
        for name, value in {**length, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalKaggle]:
    handler = type("Served", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        environment = {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": f"http://127.0.0.1:{server.server_port}",
            "no_proxy": "", "NO_PROXY": "", "HOME": str(tmp_path), "KAGGLEHUB_CACHE": str(tmp_path / "cache"),
            "KAGGLE_CONFIG_DIR": str(tmp_path / "config"), "KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY,
            "KAGGLE_API_TOKEN": "",
        }  # fmt: skip
        monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        handler.kaggle = LocalKaggle()
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield handler.kaggle
        server.shutdown()
        thread.join()


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


def test_each_version_of_the_list_is_fetched_once(
    kaggle: LocalKaggle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = SongsConfig(source="csv")
    listed = list_songs(config, tmp_path / "data")
    assert [song.title for song in listed.songs] == ["Song"]
    assert kaggle.requests == [f"{SERVICE}/GetDataset", f"{SERVICE}/DownloadDataset", STORE]
    kaggle.requests.clear()
    assert list_songs(config, tmp_path / "data") == listed
    assert kaggle.requests == [f"{SERVICE}/GetDataset"]  # which version there is, nothing else
    hostile = {KAGGLE_FILE: b"another list", "../../x": b"x", str(tmp_path / "y"): b"y"}
    kaggle.version, kaggle.archive = 2, zipped(**hostile)
    assert fetch_kaggle_list().read_bytes() == b"another list"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(tmp_path / "cache" / "datasets") for path in written)
    assert capfd.readouterr() == ("", "")


def test_a_refusal_or_a_damaged_archive_is_named(kaggle: LocalKaggle) -> None:
    kaggle.status = 401
    assert "(HTTP 401)" in failure()
    kaggle.status, kaggle.archive = 200, kaggle.archive.replace(b"Song,1", b"Sony,1")
    assert "BadZipFile" in failure()
    kaggle.version, kaggle.archive = 2, zipped(licence=b"alone")
    assert "the Kaggle dataset holds no" in failure()
