"""How long the pages of the UI take until they show what they are for, in a Chromium of this machine."""

import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from flows.orchestration.measure import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS, PAGE_S = 60_000, 2.0
DRAWN_PIXELS = 50
VISITS = 5
NOT_MEASURED = "not measured"

Visit = Callable[["Page"], object]


def page_rows(server: Server) -> Iterator[tuple[str, str]]:
    """Yield (page, seconds) of the newest flow run's pages, opened by their address, scripts in the cache.

    The median of `VISITS`.
    """
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        yield "pages of the UI", f"{NOT_MEASURED}: no chromium"
        return
    try:
        import playwright.sync_api  # noqa: F401  (of the development tools)
    except ImportError:
        yield "pages of the UI", f"{NOT_MEASURED}: no playwright"
        return
    ui = server.url.removesuffix("/api")
    with _page(browser) as page:
        _seconds(page, f"{ui}/dashboard", _dashboard)  # its scripts are in the cache from now on
        for name, path, shown in _visits(server):
            yield f"page: {name}", _told([_seconds(page, ui + path, shown) for _ in range(VISITS)])


def _visits(server: Server) -> list[tuple[str, str, Visit]]:
    [newest] = server.ask("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    run = f"/runs/flow-run/{newest['id']}"
    return [
        ("dashboard", "/dashboard", _dashboard),
        ("runs", "/runs", lambda page: _see(page, newest["name"])),
        ("the flow run, its head and logs", run, lambda page: _see(page, "Beginning flow run")),
        ("the flow run, its graph", run, _graph),
        ("the flow run, its task runs", run, _task_runs),
        ("artifacts", "/artifacts", lambda page: _see(page, "song-list")),
    ]


@contextmanager
def _page(browser: str) -> "Iterator[Page]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        try:
            yield page
        finally:
            chromium.close()


def _seconds(page: "Page", url: str, shown: Visit) -> float | None:
    """From asking for a page to seeing what it is for; None where that is not seen."""
    from playwright.sync_api import TimeoutError as NotSeen

    try:
        page.goto("about:blank")  # the page before has ended
        started = time.perf_counter()
        page.goto(url, wait_until="commit")
        shown(page)
    except NotSeen:
        return None
    return time.perf_counter() - started


def _told(visits: Sequence[float | None]) -> str:
    times = [seconds for seconds in visits if seconds is not None]
    if len(times) < len(visits):
        return (
            f"NOT shown within {PATIENCE_MS // 1000} s, in {len(visits) - len(times)} of {len(visits)} visits"
        )
    seconds = median(times)
    spread = f"{min(times):.2f} to {max(times):.2f}"
    return f"{seconds:.2f} s ({spread}); under {PAGE_S:g} s: {'yes' if seconds < PAGE_S else 'NO'}"


def _see(page: "Page", text: str) -> None:
    page.get_by_text(text).first.wait_for()


def _dashboard(page: "Page") -> None:
    """The share of task runs by state, which is asked for last."""
    page.get_by_text("100%").first.wait_for()


def _task_runs(page: "Page") -> None:
    page.locator("#task-runs").click()
    page.locator(".task-run-list-item").first.wait_for()


def _graph(page: "Page") -> None:
    """It is drawn into a canvas: there is something green in it."""
    from playwright.sync_api import TimeoutError as NotSeen

    stage = page.locator(".run-graph__stage canvas")
    stage.wait_for()
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while _green(stage.screenshot()) < DRAWN_PIXELS:
        if time.monotonic() > deadline:
            raise NotSeen("the graph has no task run")
        page.wait_for_timeout(20)


def _green(png: bytes) -> int:
    """Pixels in the colour of a task run that completed."""
    red, green, blue = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int).transpose(2, 0, 1)
    return int(((green > red + 60) & (green > blue + 40)).sum())
