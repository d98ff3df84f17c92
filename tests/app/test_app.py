"""`samuel app` as a person uses it: the real command, a real browser, a real upload, nothing stood in for."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright

from samuel.cli import main
from samuel.codecs.mel import MelCodec
from tests.flows.runs import wait_for
from tests.models import small_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MAKE_MS = 240_000  # a busy machine takes a minute to import what the first request needs
SETTLE_MS = 500
UPLOAD, MULTIPART, JSON = "gradio_api/upload", "multipart/form-data; boundary=B", "application/json"
PICTURE = "img[src*='accompaniment.png']"

expect.set_options(timeout=60_000)  # not five seconds: the machine may be busy with other tests

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal"),
]


@dataclass(frozen=True)
class App:
    """A running `samuel app`."""

    process: "subprocess.Popen[str]"
    printed: str
    address: str
    password: str
    temporary: Path

    def answer(self, path: str = "", body: Any = None, **headers: str) -> tuple[int, str]:
        """The status and text that a request with the password gets."""
        given = b64encode(f"samuel:{self.password}".encode()).decode()
        sent = {"Authorization": f"Basic {given}"} | {n.replace("_", "-"): v for n, v in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, body, sent)) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def folders(self, name: str = "*") -> list[Path]:
        """What lies in its temporary folder."""
        return sorted(self.temporary.glob(f"samuel-app-*/{name}"))


@contextmanager
def serving(model: Path, temporary: Path) -> Iterator[App]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "samuel.cli", "app", "--model", str(model), "device=cpu", "--port", port],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(model)},  # torch's own
    )  # fmt: skip
    try:
        assert process.stdout
        printed = urlsplit(process.stdout.readline().split(" ")[0])
        assert printed.password, process.communicate()[1]
        yield App(process, printed.geturl(), f"http://127.0.0.1:{port}/", printed.password, temporary)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The only one of this file; the last test ends it."""
    folder = tmp_path_factory.mktemp("app")
    (temporary := folder / "temporary").mkdir()
    with serving(small_model(folder), temporary) as app:
        yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(app: App, browser: Browser) -> Iterator[Page]:
    """The page; at the end, every address that it asked must have been this machine's."""
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(app.printed)
    expect(page.get_by_role("button", name="Accompany")).to_be_visible(timeout=30_000)
    yield page
    page.close()
    hosts = {
        urlsplit(url).netloc.rpartition("@")[2] for url in asked if not url.startswith(("data:", "blob:"))
    }
    assert hosts == {urlsplit(app.address).netloc}


@pytest.fixture
def vocal(tmp_path: Path) -> Path:
    """2.27 s of a rising tone, mono."""
    time_s = np.arange(100_001) / 44_100
    soundfile.write(tmp_path / "vocal.wav", 0.3 * np.sin(2 * np.pi * (220 + 60 * time_s) * time_s), 44_100)
    return tmp_path / "vocal.wav"


def give(page: Page, file: Path, **fields: str) -> None:
    """Upload a file, fill in fields by label, and press the button."""
    page.get_by_text("How it is drawn").click()
    page.locator("input[type=file]").first.set_input_files(file)
    expect(page.get_by_label("Clear")).to_be_visible()  # the upload is through
    fill(page, {"Steps": "2"} | fields)
    page.get_by_role("button", name="Accompany").click()


def fill(page: Page, fields: dict[str, str]) -> None:
    """Fill in fields until they hold: while the page still mounts what was folded, it puts defaults back."""
    for _ in range(20):
        for label, value in fields.items():
            page.get_by_label(label, exact=True).fill(value)
        page.wait_for_timeout(SETTLE_MS)
        if all(
            page.get_by_label(label, exact=True).input_value() == value for label, value in fields.items()
        ):
            return
    raise AssertionError(f"the page does not keep {fields}")


def part(disposition: str = '; filename="a.wav"') -> bytes:
    """The body of an upload."""
    return f'--B\r\nContent-Disposition: form-data; name="files"{disposition}\r\n\r\nx\r\n--B--\r\n'.encode()


def download(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download(timeout=MAKE_MS) as download:
        page.get_by_role("button", name=button, exact=True).click(timeout=MAKE_MS)
    download.value.save_as(folder / download.value.suggested_filename)
    return folder / download.value.suggested_filename


def toast(page: Page, words: str) -> None:
    """Wait until the page says so in its corner."""
    expect(page.locator(".toast-body", has_text=words)).to_be_visible(timeout=MAKE_MS)


def test_a_vocal_goes_up_and_a_playable_accompaniment_comes_down(
    page: Page, vocal: Path, tmp_path: Path
) -> None:
    page.get_by_label("It is a whole song").click()
    page.get_by_label("FLAC").click()
    with page.expect_response(re.compile(r"/file=.*/accompaniment\.flac$"), timeout=MAKE_MS) as linked:
        give(page, vocal, Seed="7", Seconds="1.5")
    accompaniment = download(page, "⬇ Accompaniment", tmp_path)
    mix = download(page, "⬇ Mix", tmp_path)
    record = json.loads(download(page, "⬇ Record (JSON)", tmp_path).read_text())

    assert {accompaniment.name, mix.name} == {"accompaniment.flac", "accompaniment-mix.flac"}
    for file in (accompaniment, mix):
        samples, rate = soundfile.read(file)
        assert (samples.shape, rate) == ((66_150, 2), 44_100)
        assert samples.std() > 1e-3
    assert (record["seed"], record["sampling"]["steps"]) == (7, 2)
    assert record["vocal"]["separator"].startswith("repet")
    assert linked.value.body() == accompaniment.read_bytes()

    for track in ("Accompaniment", "Mix with the vocal"):
        player = page.get_by_test_id(f"waveform-{track}")
        expect(player.locator("#duration")).to_have_text("0:02")
        player.get_by_label("Play", exact=True).click()
        expect(player.locator("#time")).to_have_text("0:01")
    assert page.locator(PICTURE).evaluate("image => image.naturalWidth") > 500


def test_what_is_wrong_is_told_in_readable_sentences(app: App, page: Page, tmp_path: Path) -> None:
    (tmp_path / "<b>text & more.wav").write_text("no audio at all")
    give(page, tmp_path / "<b>text & more.wav")
    toast(page, "not readable as audio")
    said = page.locator(".toast-body").inner_text()
    assert re.search(r"text.* more\.wav: not readable as audio .*; give a whole WAV", said)
    assert str(app.temporary) not in said
    fill(page, {"Seed": "4294967296"})
    page.get_by_role("button", name="Accompany").click()
    toast(page, "setting sampling.seed: Input should be less than 4294967296")
    assert "Traceback" not in page.content()


def test_it_serves_this_machine_alone_and_none_of_its_files(app: App, page: Page) -> None:
    expect(page.get_by_text("A sketch, not music quality.")).to_be_visible()  # of the codec `mel`
    listening = [c.laddr for c in psutil.Process(app.process.pid).net_connections() if c.status == "LISTEN"]
    assert [(place.ip, place.port) for place in listening] == [("127.0.0.1", urlsplit(app.address).port)]
    model = app.temporary.parent / "model" / "entry.json"
    assert app.answer(f"gradio_api/file={model}")[0] == 403


FOREIGN = "Another site's page has no business here."


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"Authorization": ""}, (401, "Password?")),
        ({"Authorization": "Basic " + b64encode(b"samuel:guess").decode()}, (401, "Password?")),
        ({"Host": "evil.example"}, (403, "This server has another name.")),
        ({"Origin": "http://evil.example"}, (403, FOREIGN)),
        ({"Sec_Fetch_Site": "cross-site"}, (403, FOREIGN)),
    ],
)
@pytest.mark.parametrize("path", ["", "open", "config", "gradio_api/upload", "gradio_api/cancel", "nowhere"])
def test_strangers_are_refused_before_any_route(
    app: App, path: str, headers: dict[str, str], answer: tuple[int, str]
) -> None:
    for body in (None, b"{}"):
        assert app.answer(path, body, **headers) == answer


def test_a_page_of_another_site_cannot_send_what_its_browser_may(app: App, browser: Browser) -> None:
    page, before = browser.new_page(), app.folders("served/*")
    page.goto(app.printed)  # from now on the browser knows the password
    page.goto("data:text/html,<form method=post enctype=multipart/form-data></form>")
    send = """async url => {const form = new FormData(); form.append("files", new File(["x"], "x.wav"));
        const sent = {method: "POST", mode: "no-cors", credentials: "include", body: form};
        await fetch(url, sent).catch(() => 0)}"""
    page.evaluate(send, app.address + UPLOAD)
    with page.expect_navigation() as arrived:
        submit = "url => {document.forms[0].action = url; document.forms[0].submit()}"
        page.evaluate(submit, app.address + UPLOAD)
    assert arrived.value
    assert (arrived.value.status, arrived.value.text()) == (403, FOREIGN)
    page.close()
    assert app.folders("served/*") == before


@pytest.mark.parametrize(
    ("disposition", "status", "kept"),
    [
        ('; filename="a.flac"', 200, "a.flac"),
        ('; filename=".."', 200, "vocal.wav"),
        ('; filename="../../x.wav"', 200, "x.wav"),
        ('; filename="/x/..\\\\..\\\\.ssh"', 200, "vocal.ssh"),
        (f'; filename="{"é" * 900}.{"é" * 900}"', 200, f"{'é' * 50}.{'é' * 8}"),
        ('; filename=""', 200, "vocal.wav"),
        ("", 400, None),
    ],
)
def test_an_upload_lies_where_uploads_lie_whatever_its_name(
    app: App, disposition: str, status: int, kept: str | None
) -> None:
    around = sorted(path for path in app.temporary.parent.rglob("*") if "served" not in path.parts)
    code, text = app.answer(UPLOAD, part(disposition), Content_Type=MULTIPART)
    assert code == status
    assert kept is None or Path(json.loads(text)[0]).name == kept
    assert sorted(path for path in app.temporary.parent.rglob("*") if "served" not in path.parts) == around


def test_what_comes_up_and_what_is_made_are_bounded(app: App, page: Page, vocal: Path) -> None:
    assert app.answer(UPLOAD, part(), Content_Type=MULTIPART, Content_Length=str(10**9 + 1))[0] == 413
    assert app.answer(UPLOAD, iter([part()]), Content_Type=MULTIPART)[0] == 413  # of no said length
    for other in ("component_server", "component_server/", "process_recording"):  # gradio's other doors
        assert app.answer(f"gradio_api/{other}", part(), Content_Type=MULTIPART)[0] == 404
    page.locator("input[type=file]").first.set_input_files(vocal)
    expect(page.get_by_label("Clear")).to_be_visible()
    filler = app.folders("served")[0] / "filler"
    with filler.open("wb") as file:
        file.truncate(8 * 10**9)  # of nothing: it takes no room
    code, text = app.answer(UPLOAD, part(), Content_Type=MULTIPART)
    assert (code, text[:24]) == (507, "Too much lies here alrea")
    page.get_by_role("button", name="Accompany").click()
    toast(page, "Too much lies here already")
    filler.unlink()


def test_stop_and_leaving_end_the_run_of_one_visitor_alone_and_few_wait(
    app: App, page: Page, browser: Browser, vocal: Path
) -> None:
    soundfile.write(vocal, np.tile(soundfile.read(vocal)[0], 30), 44_100)  # a minute of it is being made
    other = browser.new_page()
    other.goto(app.printed)
    ours, others = (tab.get_by_text("Writing the accompaniment") for tab in (page, other))
    give(page, vocal, Steps="800")
    expect(ours).to_be_visible(timeout=MAKE_MS)
    give(other, vocal, Steps="800")
    expect(other.get_by_text("queue: 1/1")).to_be_visible()
    other.get_by_role("button", name="Stop").click()
    expect(other.get_by_text("queue: 1/1")).to_be_hidden()
    other.wait_for_timeout(2000)
    expect(ours).to_be_visible()
    other.get_by_role("button", name="Accompany").click()
    page.get_by_role("button", name="Stop").click()
    expect(ours).to_be_hidden()
    expect(others).to_be_visible(timeout=MAKE_MS)  # once the first has ended
    [_] = app.folders("tmp*")
    run = {"data": [None, False, 0, "WAV", 2, 2, 0, "ddim"], "fn_index": 0, "session_hash": "another"}
    joined = [
        app.answer("gradio_api/queue/join", json.dumps(run).encode(), Content_Type=JSON) for _ in "x" * 17
    ]
    assert [code for code, _ in joined] == [200] * 16 + [503]
    left_at = time.monotonic()
    other.close()
    wait_for(lambda: not app.folders("tmp*"))
    assert time.monotonic() - left_at < 10


def test_what_a_killed_one_left_goes_at_the_next_start(app: App) -> None:
    model, [alive] = app.temporary.parent / "model", app.folders("")
    with serving(model, app.temporary) as killed:
        [left] = set(app.folders("")) - {alive}
        killed.process.kill()
        killed.process.wait()
        assert (left / "served").is_dir()
    (link := app.temporary / "samuel-app-link").symlink_to(model)
    with serving(model, app.temporary) as another:
        assert not left.exists()
        assert (alive / "served").is_dir()
        assert (model / "entry.json").is_file()
        another.process.send_signal(signal.SIGINT)
        assert another.process.wait(60) == 130
    link.unlink()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # uvicorn leaves its socket open
def test_what_is_wrong_is_told_before_anything_is_served(
    app: App, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(tmp_path / "other", codec=MelCodec.info.model_dump() | {"version": "0"})
    assert main(["app", "--model", str(model), "device=cpu"]) == 1
    assert "the model learned latents of mel/0" in capsys.readouterr().err
    model, port = small_model(tmp_path), urlsplit(app.address).port
    assert main(["app", "device=cpu", "--model", str(model), "--port", str(port)]) == 1
    assert f"port {port} is taken, or not for you; choose another with --port" in capsys.readouterr().err
    finders = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"]
    monkeypatch.setattr(sys, "meta_path", finders)
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    assert main(["app", "--model", str(tmp_path)]) == 1
    assert "pip install 'samuel-accompaniment[app]'" in capsys.readouterr().err


def test_ctrl_c_ends_it_amid_its_work_and_leaves_nothing(app: App, browser: Browser, vocal: Path) -> None:
    page = browser.new_page()
    page.goto(app.printed)
    give(page, vocal, Steps="800")
    expect(page.get_by_text("Writing the accompaniment")).to_be_visible(timeout=MAKE_MS)
    assert list(app.temporary.iterdir())
    app.process.send_signal(signal.SIGINT)
    _, said = app.process.communicate(timeout=60)
    page.close()
    assert app.process.returncode == 130
    assert said.endswith("interrupted; the page is closed, and its temporary files are gone\n")
    assert "Traceback" not in said
    assert list(app.temporary.iterdir()) == []
