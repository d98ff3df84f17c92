"""A finished report in the UI: its text and pictures, its scores, and the way to its audio."""

import os
import re
from pathlib import Path
from urllib.parse import quote

from prefect.artifacts import LinkArtifact, MarkdownArtifact, TableArtifact

from flows.artifacts.live import show
from flows.artifacts.pictures import with_pictures
from samuel.files import Entry, read_json
from samuel.report.evaluation import score_table

# In the environment of a flow: where `flows.service.pages` answers, and the folder that it serves.
URL, FOLDER = "SAMUEL_PAGES_URL", "SAMUEL_PAGES_FOLDER"
PLAYER = re.compile(r"\[([^\]]*)\]\((audio/[^)\s]*)\)")
TRACK_PICTURE = re.compile(r"!\[[^\]]*\]\(spectrogram-[\w.-]+\.png\)\n*")
PICTURED_TRACKS = 3
FIRST_HEARD = "audio/mix/"


def show_report(report: Entry) -> None:
    """The report with its plots inside, a table of its scores, and links where somebody serves its folder."""
    address = address_of(report.folder)
    text = report.path("report.md").read_text("utf-8")
    page = address and f"{address}/report.html"
    head = f"[Open it with its audio]({page})" if page else f"With audio: `{report.path('report.html')}`"
    linked = with_pictures(few_tracks_pictured(with_links(text, address)), report.folder)
    show(MarkdownArtifact(key="report", markdown=f"{head}\n\n{linked}", description="What came of the run"))
    table = score_table(read_json(report.path("summary.json")))
    show(TableArtifact(key="scores", table=table, description="Means over the tracks, with 95 % intervals"))
    if address:
        _show_links(address, text)


def show_ablation(table: Entry) -> None:
    """The table of an ablation with its picture inside."""
    text = with_pictures(table.path("ablation.md").read_text("utf-8"), table.folder)
    show(MarkdownArtifact(key="ablation", markdown=text, description="Every choice against the others"))


def few_tracks_pictured(text: str) -> str:
    """A report without the pictures of all tracks but the first: the server's database keeps every one."""
    for extra in reversed(list(TRACK_PICTURE.finditer(text))[PICTURED_TRACKS:]):
        text = text[: extra.start()] + text[extra.end() :]
    return text


def with_links(text: str, address: str | None) -> str:
    """A report's text with whole addresses of its audio; without the links where it has no address."""
    # The UI shows backslashes in the words of a link, and brackets of this kind end nothing there.
    unescaped = PLAYER.sub(lambda found: re.sub(r"\\([()])", r"\1", found[0]), text)
    return PLAYER.sub(rf"[\1]({address}/\2)" if address else r"\1", unescaped)


def address_of(folder: Path) -> str | None:
    """Where a folder of the artifacts is served; None where nobody serves it, or not this one."""
    url, served = os.environ.get(URL), Path(os.environ.get(FOLDER, "artifacts"))
    if not url or not folder.resolve().is_relative_to(served.resolve()):
        return None
    return f"{url.rstrip('/')}/{quote(folder.resolve().relative_to(served.resolve()).as_posix())}"


def _show_links(address: str, text: str) -> None:
    page = LinkArtifact(
        key="report-page", link=f"{address}/report.html", link_text="The report, with players",
        description="Everything of the report, and every track to hear",
    )  # fmt: skip
    show(page)
    heard = [found[2] for found in PLAYER.finditer(text)]
    if first := next((link for link in heard if link.startswith(FIRST_HEARD)), None):
        track = LinkArtifact(
            key="first-track", link=f"{address}/{first}", link_text="Hear the first track",
            description="A held-out vocal with the accompaniment that the model made for it",
        )  # fmt: skip
        show(track)
