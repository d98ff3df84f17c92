"""What the Prefect UI shows of a run beside its states."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from samuel.config import Settings
from samuel.files import Entry, read_json
from samuel.popdb.accounts import Progress, funnel, least_s, text_of
from samuel.popdb.catalog import Song, SongList
from samuel.popdb.outcome import Outcome
from samuel.popdb.shards import Popdb
from samuel.report.evaluation import score_table
from samuel.report.training import caveats, vocal_share_report

IMAGE = re.compile(r"!\[([^\]]*)\]\(([\w.-]+\.png)\)")
PLAYER = re.compile(r"\[([^\]]*)\]\(audio/[^)\s]*\)")
TRACK_PICTURE = re.compile(r"!\[[^\]]*\]\(spectrogram-[\w.-]+\.png\)\n*")
PICTURED_TRACKS = 3
SECONDS_BETWEEN_TABLES = 10.0


def show_list(listed: SongList) -> None:
    """How many rows each rule took away."""
    create_table_artifact(key="song-list", table=listed.table(), description="The song list, rule by rule")


class Acquisition:
    """The songs on their way, while they are downloaded: a funnel, and how long it will take."""

    def __init__(self, songs: Sequence[Song], settings: Settings) -> None:
        self.progress = Progress(len(songs), least_s(songs, settings.download))
        self.outcomes: list[Outcome] = []
        self._artifact: UUID | None = None
        get_run_logger().info(self.progress.line())

    def show(self, downloaded: list[Outcome]) -> None:
        """Count songs whose download is over; many at once make one table, not many."""
        self.outcomes += downloaded
        self.progress.add(downloaded)
        if not self.progress.due(SECONDS_BETWEEN_TABLES):
            return
        get_run_logger().info(self.progress.line())
        self._show_progress()
        show_funnel(self.outcomes, self.progress.line())

    def _show_progress(self) -> None:
        share = 100 * self.progress.done / self.progress.songs
        if self._artifact is None:
            made = create_progress_artifact(share, key="download", description="Songs downloaded")
            self._artifact = cast("UUID", made)
        else:
            update_progress_artifact(self._artifact, share)


def show_funnel(outcomes: Sequence[Outcome], description: str) -> None:
    """How many songs reached each step, and why not: the UI cannot hold a row per song."""
    rows = [step.row() for step in funnel(outcomes)]
    create_table_artifact(key="songs", table=rows, description=description)


def show_dataset(popdb: Popdb, outcomes: Sequence[Outcome]) -> None:
    """What became of the songs, and what the dataset holds."""
    show_funnel(outcomes, "What became of the songs")
    rows = [step.row() for step in funnel(outcomes)]
    get_run_logger().info("What became of the songs\n%s", text_of(rows))
    numbers = [{"count": name, "value": value} for name, value in popdb.info["counts"].items()]
    create_table_artifact(key="popdb", table=numbers, description=f"POPDB at {popdb.location}")
    _show_vocal_share(popdb)


def show_report(report: Entry) -> None:
    """The report with its plots inside, and a table of its scores; the audio is beside its page."""
    text = few_tracks_pictured(PLAYER.sub(r"\1", report.path("report.md").read_text("utf-8")))
    markdown = f"With audio: `{report.path('report.html')}`\n\n{_with_pictures(text, report.folder)}"
    create_markdown_artifact(key="report", markdown=markdown)
    table = score_table(read_json(report.path("summary.json")))
    create_table_artifact(key="scores", table=table, description="Means over the tracks, with 95 % intervals")


def few_tracks_pictured(text: str) -> str:
    """A report without the pictures of all tracks but the first: the server's database keeps every one."""
    for extra in reversed(list(TRACK_PICTURE.finditer(text))[PICTURED_TRACKS:]):
        text = text[: extra.start()] + text[extra.end() :]
    return text


def show_ablation(table: Entry) -> None:
    """The table of an ablation with its picture inside."""
    text = table.path("ablation.md").read_text("utf-8")
    create_markdown_artifact(key="ablation", markdown=_with_pictures(text, table.folder))


def _show_vocal_share(popdb: Popdb) -> None:
    with TemporaryDirectory() as folder:
        text = _with_pictures(vocal_share_report(popdb, Path(folder)), Path(folder))
    markdown = f"# Vocal share of the chunks\n\n{text}\n\n{caveats(popdb)}"
    create_markdown_artifact(key="vocal-share", markdown=markdown, description="How much is sung")


def _with_pictures(text: str, folder: Path) -> str:
    """Markdown with the pictures that it names, which lie in `folder`, inside it."""
    return IMAGE.sub(lambda found: f"![{found[1]}]({_data_url(folder / found[2])})", text)


def _data_url(png: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"
