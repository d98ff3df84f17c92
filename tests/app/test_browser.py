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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.models import small_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SAMPLES = 100_001
MAKE_MS = 240_000  # a busy machine takes a minute to import what the first request needs
SETTLE_MS = 500
PICTURE = "img[src*='accompaniment.png']"
DURATION_S = """url => new Promise((done, failed) => {
    const audio = new Audio(url);
    audio.onloadedmetadata = () => done(audio.duration);
    audio.onerror = () => failed(audio.error.message);
})"""

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

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; exit code and standard error."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(folder: Path) -> Iterator[App]:
    small_model(folder)
    (temporary := folder / "temporary").mkdir()
    command = [sys.executable, "-m", "samuel.cli", "app", "--model", str(folder / "model"), "device=cpu"]
    process = subprocess.Popen(
        [*command, "--port", str(free_port())], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
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
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running(tmp_path_factory.mktemp("app")) as app:
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
    page.goto(app.address)
    expect(page.get_by_role("button", name="Accompany")).to_be_visible(timeout=30_000)
    yield page
    page.close()
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(app.address).netloc}


@pytest.fixture
def vocal(tmp_path: Path) -> Path:
    """2.27 s of a rising tone, mono."""
    time_s = np.arange(SAMPLES) / 44_100
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


def toast(page: Page) -> str:
    """What the page says in its corner."""
    shown = page.locator(".toast-body")
    expect(shown).to_be_visible(timeout=MAKE_MS)
    return shown.inner_text()


def test_a_vocal_goes_up_and_a_playable_accompaniment_of_its_length_comes_down(
    page: Page, vocal: Path, tmp_path: Path
) -> None:
    with page.expect_response(re.compile(r"/file=.*/accompaniment\.wav$"), timeout=MAKE_MS) as linked:
        give(page, vocal, Seed="7")
    accompaniment = download(page, "⬇ Accompaniment", tmp_path)
    mix = download(page, "⬇ Mix", tmp_path)
    record = json.loads(download(page, "⬇ Record (JSON)", tmp_path).read_text())

    assert {accompaniment.name, mix.name} == {"accompaniment.wav", "accompaniment-mix.wav"}
    for file in (accompaniment, mix):
        samples, rate = soundfile.read(file)
        assert (samples.shape, rate) == ((SAMPLES, 2), 44_100)
        assert samples.std() > 1e-3
    assert (record["seed"], record["sampling"]["steps"]) == (7, 2)
    assert linked.value.body() == accompaniment.read_bytes()
    assert page.evaluate(DURATION_S, linked.value.url) == pytest.approx(SAMPLES / 44_100, abs=1e-3)

    for track in ("Accompaniment", "Mix with the vocal"):
        player = page.get_by_test_id(f"waveform-{track}")
        expect(player.locator("#duration")).to_have_text("0:02")
        player.get_by_label("Play", exact=True).click()
        expect(player.locator("#time")).to_have_text("0:01")
    assert page.locator(PICTURE).evaluate("image => image.naturalWidth") > 500


def test_the_vocals_of_the_beginning_of_a_song_come_back_as_flac(
    page: Page, vocal: Path, tmp_path: Path
) -> None:
    page.get_by_label("FLAC").click()
    page.get_by_label("It is a whole song").click()
    give(page, vocal, Seconds="1.5")
    accompaniment = soundfile.info(download(page, "⬇ Accompaniment", tmp_path))
    assert (accompaniment.format, accompaniment.frames) == ("FLAC", 66_150)
    record = json.loads(download(page, "⬇ Record (JSON)", tmp_path).read_text())
    assert record["vocal"]["separator"].startswith("repet")


def test_a_file_that_is_no_audio_is_told_in_one_readable_sentence(
    app: App, page: Page, tmp_path: Path
) -> None:
    (tmp_path / "<b>text & more.wav").write_text("no audio at all")
    give(page, tmp_path / "<b>text & more.wav")
    said = toast(page)
    assert re.search(r"text.* more\.wav: not readable as audio .*; give a whole WAV", said)
    assert str(app.temporary) not in said
    assert "Traceback" not in page.content()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"Seed": "4294967296"}, "setting sampling.seed: Input should be less than 4294967296"),
        ({"Steps": "900"}, "sampling.steps = 900 is more than diffusion.timesteps = 800"),
    ],
)
def test_a_number_out_of_range_is_told(fields: dict[str, str], said: str, page: Page, vocal: Path) -> None:
    give(page, vocal, **fields)
    assert said in toast(page)


def test_silence_is_warned_of_and_accompanied(page: Page, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(44_100), 44_100)
    give(page, tmp_path / "silence.wav")
    assert "silence.wav: silent" in toast(page)
    assert soundfile.info(download(page, "⬇ Accompaniment", tmp_path)).frames == 44_100


def test_stop_ends_what_is_being_made(page: Page, vocal: Path) -> None:
    give(page, vocal, Steps="800")
    expect(page.get_by_text("Writing the accompaniment")).to_be_visible(timeout=MAKE_MS)
    page.get_by_role("button", name="Stop").click()
    assert "Nothing of it was kept." in toast(page)


def test_a_stand_in_codec_is_said_to_be_one(page: Page) -> None:
    expect(page.get_by_text("A sketch, not music quality.")).to_be_visible()


@pytest.mark.usefixtures("page")  # which waits until it serves
def test_files_of_the_machine_are_not_served(app: App) -> None:
    model = app.temporary.parent / "model" / "entry.json"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{app.address}gradio_api/file={model}")


def test_no_other_machine_reaches_it(app: App) -> None:
    listening = [c.laddr for c in psutil.Process(app.process.pid).net_connections() if c.status == "LISTEN"]
    assert [(address.ip, address.port) for address in listening] == [
        ("127.0.0.1", urlsplit(app.address).port)
    ]


def test_ctrl_c_ends_it_amid_its_work_and_leaves_nothing(
    browser: Browser, vocal: Path, tmp_path: Path
) -> None:
    with running(tmp_path) as app:
        page = browser.new_page()
        page.goto(app.address)
        give(page, vocal, Steps="800")
        expect(page.get_by_text("Writing the accompaniment")).to_be_visible(timeout=MAKE_MS)
        assert list(app.temporary.iterdir())
        code, said = app.interrupt()
        page.close()
    assert (code, said) == (130, "interrupted; the page is closed, and its temporary files are gone\n")
    assert list(app.temporary.iterdir()) == []
