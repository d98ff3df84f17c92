"""`samuel app` as a person uses it: the real command, a real browser, a real upload, nothing stood in for."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright

from samuel.cli import main
from samuel.codecs.mel import MelCodec
from tests.models import small_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MAKE_MS = 240_000  # a busy machine takes a minute to import what the first request needs
SETTLE_MS = 500
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
    address: str
    temporary: Path


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The only one of this file; the last test ends it."""
    folder = tmp_path_factory.mktemp("app")
    (temporary := folder / "temporary").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    model = str(small_model(folder))
    process = subprocess.Popen(
        [sys.executable, "-m", "samuel.cli", "app", "--model", model, "device=cpu", "--port", port],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(folder)},  # torch's own
    )  # fmt: skip
    try:
        assert process.stdout
        address = process.stdout.readline().split(" ")[0]
        assert address.startswith("http://127.0.0.1:"), process.communicate()[1]
        yield App(process, address, temporary)
    finally:
        process.kill()
        process.communicate()


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
    page.goto(app.address)
    expect(page.get_by_role("button", name="Accompany")).to_be_visible(timeout=30_000)
    yield page
    page.close()
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
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


def test_it_serves_this_machine_alone_and_none_of_its_files_and_stop_ends_what_is_being_made(
    app: App, page: Page, vocal: Path
) -> None:
    expect(page.get_by_text("A sketch, not music quality.")).to_be_visible()  # of the codec `mel`
    listening = [c.laddr for c in psutil.Process(app.process.pid).net_connections() if c.status == "LISTEN"]
    assert [(place.ip, place.port) for place in listening] == [("127.0.0.1", urlsplit(app.address).port)]
    model = app.temporary.parent / "model" / "entry.json"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{app.address}gradio_api/file={model}")
    give(page, vocal, Steps="800")
    expect(page.get_by_text("Writing the accompaniment")).to_be_visible(timeout=MAKE_MS)
    page.get_by_role("button", name="Stop").click()
    toast(page, "Nothing of it was kept.")


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
    page.goto(app.address)
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
