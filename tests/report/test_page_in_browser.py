"""The report as a reader opens it: a file in a real browser, without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from samuel.audio import write_wav
from samuel.evaluate.systems import Lineup, System, Track
from samuel.report.report import write_evaluation_report
from tests.report.evaluations import CEILING, OURS, noise, scores_entry, summary

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<img src=http://x.invalid/a.png onerror=\"document.title='taken'\"> <script>alert(1)</script>"
SECONDS = 3.5
DURATIONS = """() => Promise.all([...document.querySelectorAll("audio")].map(audio =>
    new Promise((done, failed) => {
        audio.onloadedmetadata = () => done(audio.duration);
        audio.onerror = () => failed(audio.error.message);
        audio.preload = "metadata";
        audio.load();
    })
))"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_wav(root / "a.wav", noise(SECONDS))
    files = {HOSTILE: root / "a.wav"}
    lineup = Lineup((Track(HOSTILE, HOSTILE, root / "a.wav"),), (System(CEILING, files), System(OURS, files)))
    scores = scores_entry(root / "scores", summary(systems=[CEILING, OURS, HOSTILE]))
    return write_evaluation_report(lineup, scores, root / "report").path("report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(params=[1280, 360])
def page(report: Path, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, wide and narrow; at the end, it must have complained of nothing and asked nobody else."""
    page = browser.new_page(viewport={"width": request.param, "height": 800})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert said == []
    folder = report.parent.as_uri()
    assert [url for url in asked if not url.startswith((f"{folder}/", "data:"))] == []


def test_everything_works_without_a_network_and_hostile_titles_are_text(page: Page) -> None:
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 2  # following, and one track
    assert min(widths) > 500
    assert page.evaluate(DURATIONS) == pytest.approx([SECONDS] * 3, abs=1e-3)
    assert [caption.inner_text() for caption in page.locator("figcaption").all()] == ["vocal", CEILING, OURS]
    assert page.locator("h3", has_text="<script>").inner_text() == HOSTILE
    assert page.title() == "SAMUeL evaluation"
    assert page.locator("script, iframe, object").count() == 0
    width = page.evaluate("document.documentElement.scrollWidth")  # nothing is wider than the screen
    assert width <= page.viewport_size["width"]  # type: ignore[index]
    overflow = page.eval_on_selector_all(".scroll", "all => all.map(e => getComputedStyle(e).overflowX)")
    assert set(overflow) == {"auto"}
    assert page.eval_on_selector("td.number", "cell => getComputedStyle(cell).textAlign") == "right"


def test_a_script_could_not_run(report: Path, browser: Browser, tmp_path: Path) -> None:
    """What the policy is worth, should markup ever get in."""
    text = report.read_text().replace("</main>", "<script>document.title='taken'</script></main>")
    (tmp_path / "taken.html").write_text(text)
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "taken.html").as_uri())
    assert page.title() == "SAMUeL evaluation"
    assert "Content Security Policy" in said[0]
    page.close()
