"""What the Prefect UI shows of a run beside its states: songs, training, scores, report.

Nothing of it ends a run: where the server is away for a while, the UI shows less.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

import httpx
from PIL import Image
from prefect.artifacts import Artifact as Shown
from prefect.artifacts import LinkArtifact, MarkdownArtifact, ProgressArtifact, TableArtifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from samuel.artifacts import Artifact, read_json, read_jsonl
from samuel.config import Settings, TrainingConfig
from samuel.popdb.accounts import (
    SEARCHES,
    STEPS,
    WHY_NO_PAIR,
    Progress,
    Step,
    duration,
    funnel,
    least_s,
    step_into_dataset,
    text_of,
)
from samuel.popdb.dataset import Popdb
from samuel.popdb.songs import Song, SongList
from samuel.popdb.status import Outcome
from samuel.report.evaluation import score_table
from samuel.report.html import data_url, number, table

Item = TypeVar("Item")


class Throttle:
    """When something may be shown again: the longer a run takes, the rarer.

    Each time costs a call and a row in the server's database. In two days a thing is shown a thousand times.

    Args:
        least_s: Every so many seconds at first.
        growth: And every so large a share of the time that has passed.
    """

    def __init__(self, least_s: float = 10.0, growth: float = 0.005) -> None:
        self._least_s, self._growth = least_s, growth
        self._began = self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time; the next time counts from here."""
        now = time.monotonic()
        if now - self._last < max(self._least_s, self._growth * (now - self._began)):
            return False
        self._last = now
        return True


class Live:
    """An artifact that changes while a run goes on: one row in the server's database, however often."""

    def __init__(self) -> None:
        self._id: UUID | None = None
        self._away = False

    def show(self, artifact: Shown, *, patient: bool = False) -> None:
        """Show this in place of what was shown before.

        Args:
            artifact: What is shown.
            patient: Wait for the server as long as Prefect's client does; else the work in hand matters more.
        """
        try:
            with temporary_settings({} if patient else {PREFECT_CLIENT_MAX_RETRIES: 0}):
                self._id = self._send(artifact)
            self._away = False
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error:
                raise
            if not self._away:
                words = "the Prefect server cannot be reached (%s): the run goes on, the UI shows less of it"
                get_run_logger().warning(words, error)
            self._away = True

    def _send(self, artifact: Shown) -> UUID:
        if self._id:
            update = ArtifactUpdate(data=cast("Any", artifact.format()), description=artifact.description)
            try:
                get_client(sync_client=True).update_artifact(self._id, update)
            except PrefectHTTPStatusError as error:
                if error.response.status_code != httpx.codes.NOT_FOUND:  # else it was deleted in the UI
                    raise
            else:
                return self._id
        return cast("Any", artifact.create()).id


def show(artifact: Shown) -> None:
    """Show what stays as it is."""
    Live().show(artifact, patient=True)


class ProgressBar:
    """How much of something is done.

    Args:
        key: Of the artifact.
        title: What is done.
    """

    def __init__(self, key: str, title: str) -> None:
        self._key, self._title, self._live, self._throttle = key, title, Live(), Throttle()

    def show(self, done: int, total: int) -> None:
        """Show how much is done."""
        description = f"{self._title}: {done:,} of {total:,}"
        progress = 100 * done / total if total else 100.0
        self._live.show(ProgressArtifact(key=self._key, description=description, progress=progress))

    def over(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Yield the items; each counts as done when the next one is asked for."""
        self.show(0, total)
        for done, item in enumerate(items):
            if self._throttle.due():
                self.show(done, total)
            yield item
        self.show(total, total)


# The songs, on their way through the stages and in the dataset.

STAGES = {"download": "Songs downloaded", "separate": "Songs separated", "encode": "Songs encoded"}


def show_list(listed: SongList) -> None:
    """Show how many rows of the list each rule took away."""
    rules = listed.table()
    show(TableArtifact(key="song-list", table=rules, description="The song list, rule by rule"))


class SongProgress:
    """The songs on their way through the stages: a bar for each stage, a funnel, and how long it will take.

    Args:
        songs: All of the list.
        settings: The tree.
    """

    def __init__(self, songs: Sequence[Song], settings: Settings) -> None:
        self._local = all(song.url for song in songs)
        pauses_s = [least_s(songs, settings.download), 0.0, 0.0]
        self._stages = [Progress(len(songs), pause_s) for pause_s in pauses_s]
        self._bars = [ProgressBar(key, title) for key, title in STAGES.items()]
        self._newest: dict[str, tuple[int, Outcome]] = {}
        self._table, self._throttle = Live(), Throttle()
        self.send()

    def add(self, stage: int, outcomes: Sequence[Outcome]) -> None:
        """Count songs that came out of a stage; many groups at once are one table, not many.

        Args:
            stage: 0 download, 1 separate, 2 encode.
            outcomes: What became of them there.
        """
        for outcome in outcomes:
            known = self._newest.get(outcome.song.song_id)
            if known is None or stage >= known[0]:
                self._newest[outcome.song.song_id] = stage, outcome
        self._stages[stage].add(outcomes)
        if self._throttle.due() or self._over:
            self.send()

    def send(self) -> None:
        """Show how far the songs are, here and in the log."""
        line = self._line()
        get_run_logger().info(line)
        for progress, shown in zip(self._stages, self._bars, strict=True):
            shown.show(progress.done, progress.songs)
        outcomes = [outcome for _, outcome in self._newest.values()]
        rows = open_funnel(outcomes, self._stages[0].songs, local=self._local)
        self._table.show(TableArtifact(key="songs", table=rows, description=line))

    @property
    def _over(self) -> bool:
        return all(stage.done == stage.songs for stage in self._stages)

    def _line(self) -> str:
        done = ", ".join(f"{STEPS[k]} {p.done:,}" for k, p in zip(STAGES, self._stages, strict=True))
        left_s = max(stage.left_s for stage in self._stages)
        known = all(stage.worked or stage.done == stage.songs for stage in self._stages)
        if self._over:
            left = "all stages are done"
        else:
            left = (
                f"{'about' if known else 'at least'} {duration(left_s)} left"
                if left_s
                else "time left not known yet"
            )
        return f"{done} of {self._stages[0].songs:,} songs, {left}"


def open_funnel(outcomes: Iterable[Outcome], listed: int, *, local: bool) -> list[dict[str, Any]]:
    """Make the funnel while songs are still on their way: of each step also how many may yet reach it.

    Args:
        outcomes: The newest of each song that has any.
        listed: How many songs there are.
        local: They are not searched for.
    """
    stages = [stage for stage in STEPS if not (local and stage in SEARCHES)]
    fates = [(stages.index(outcome.stage), outcome) for outcome in outcomes if outcome.stage in stages]
    rows: list[dict[str, Any]] = [Step("listed", listed, {}).row() | {"to come": 0}]
    for place, stage in enumerate(stages):
        lost = Counter(outcome.status.value for at, outcome in fates if at == place and not outcome.ok)
        reached = sum(at > place or (at == place and outcome.ok) for at, outcome in fates)
        step = Step(STEPS[stage], reached, dict(lost.most_common()))
        rows.append(step.row() | {"to come": listed - reached - lost.total()})
        listed -= lost.total()
    return rows


def show_dataset(popdb: Popdb, outcomes: Sequence[Outcome]) -> None:
    """Show what became of the songs, and what the dataset holds."""
    from samuel.report.report import caveats, vocal_share_report  # matplotlib: not before it is drawn

    songs = popdb.songs(WHY_NO_PAIR).to_pylist()  # without the candidates, which are many
    kept = step_into_dataset(songs, popdb.info["settings"]["min_vocal_share"])
    rows = [step.row() for step in [*funnel(outcomes), kept]]
    get_run_logger().info("What became of the songs\n%s", text_of(rows))
    show(TableArtifact(key="songs", table=rows, description="What became of the songs"))
    numbers = [{"count": name, "value": value} for name, value in popdb.info["counts"].items()]
    show(TableArtifact(key="popdb", table=numbers, description=f"POPDB at {popdb.location}"))
    with TemporaryDirectory() as folder:
        text = with_pictures(vocal_share_report(popdb, Path(folder)), Path(folder))
    markdown = f"# Vocal share of the chunks\n\n{text}\n\n{caveats(popdb)}"
    show(MarkdownArtifact(key="vocal-share", markdown=markdown, description="How much is sung"))


# A training while it goes on.

RECENT_STEPS = 100
SHOWN_VALIDATIONS = 12
COLOURS = 32  # make a plot a quarter of its size: the server's database keeps every one that is shown


class TrainingPage:
    """A training on its way: how far it is, and the curve of its loss so far.

    Args:
        config: Its settings.
        metrics: The file to which it writes a row for each step.
    """

    def __init__(self, config: TrainingConfig, metrics: Path) -> None:
        self._config, self._metrics = config, metrics
        self._bar, self._page = ProgressBar("training", "Steps of the training"), Live()
        self._bar_throttle, self._page_throttle = Throttle(), Throttle(60.0, 0.02)
        self._began: tuple[int, float] | None = None
        self._validated = 0  # validations that the page has seen

    def show(self, row: dict[str, Any]) -> None:
        """Show the training after a step; it costs next to nothing where it is not time to."""
        step = row["step"]
        self._began = self._began or (step, time.monotonic())
        if self._bar_throttle.due():
            self._bar.show(step, self._config.steps)
        validated = step // self._config.validate_every
        if validated > self._validated and (not self._validated or self._page_throttle.due()):
            self._validated = validated
            self._show_page(self._metrics, self._time_left(step))

    def end(self, model: Artifact) -> None:
        """Show the whole training, also one that was over before."""
        self._bar.show(self._config.steps, self._config.steps)
        best = f"the model is that of step {model.record['progress']['best_step']:,}"
        self._show_page(model.path("metrics.jsonl"), f"The training is over; {best}")

    def _time_left(self, step: int) -> str:
        first, began = self._began or (step, 0.0)
        if step <= first:
            return "Time left not known yet"
        left_s = (self._config.steps - step) * (time.monotonic() - began) / (step - first)
        return f"{'At most' if self._config.patience else 'About'} {duration(left_s)} left"

    def _show_page(self, metrics: Path, state: str) -> None:
        rows = read_jsonl(metrics)
        if sum("validation_loss" in row for row in rows) > 1:  # one point is no curve
            markdown = training_markdown(rows, self._config.steps, state)
            page = MarkdownArtifact(key="training-loss", markdown=markdown, description="Loss so far")
            self._page.show(page)


def training_markdown(rows: Sequence[dict[str, Any]], steps: int, state: str) -> str:
    """Write a page about the steps so far, with their curve inside.

    Args:
        rows: The metrics of each step.
        steps: How many there will be.
        state: How long it takes, or that it is over.
    """
    from samuel.report.plots import plot_loss  # matplotlib: not before something is drawn

    step_s = median(row["seconds"] for row in rows[-RECENT_STEPS:])
    pace = f"{1 / step_s:,.3g} steps a second (median of the last {min(len(rows), RECENT_STEPS)})"
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "loss.png"
        plot_loss(rows, picture)
        Image.open(picture).convert("RGB").quantize(COLOURS).save(picture, optimize=True)
        curve = with_pictures("![Loss](loss.png)", Path(folder))
    head = f"**Step {rows[-1]['step']:,} of {steps:,}**, {pace}. {state}."
    return "\n\n".join(["# Training", head, curve, _validations(rows)])


def _validations(rows: Sequence[dict[str, Any]]) -> str:
    """The newest validations as a table, the newest first."""
    found = [row for row in rows if "validation_loss" in row]
    best = min(row["validation_loss"] for row in found)
    cells = []
    for row in found[: -SHOWN_VALIDATIONS - 1 : -1]:
        mark = "**" if row["validation_loss"] == best else ""
        loss = f"{mark}{number(row['validation_loss'], 4)}{mark}"
        cells.append([f"{row['step']:,}", loss, number(row.get("validation_shuffled"), 4)])
    head = ["step", "own vocal", "another song's vocal"]
    return f"Mean squared error of v on held-out pairs; the best in bold.\n\n{table(head, cells, words=0)}"


# A finished report: its text and pictures, its scores, and the way to its audio.

# In the environment of a flow: where `make serve` serves reports, and the folder of all of them.
URL, FOLDER = "SAMUEL_PAGES_URL", "SAMUEL_PAGES_FOLDER"
PICTURE = re.compile(r"!\[([^\]]*)\]\(([\w.-]+\.png)\)")
PLAYER = re.compile(r"\[([^\]]*)\]\((audio/[^)\s]*)\)")
TRACK_PICTURE = re.compile(r"!\[[^\]]*\]\(spectrogram-[\w.-]+\.png\)\n*")
PICTURED_TRACKS = 3


def show_report(report: Artifact) -> None:
    """Show the report with its plots inside, a table of its scores, and links where its folder is served."""
    address = address_of(report.folder)
    text = report.path("report.md").read_text("utf-8")
    page = address and f"{address}/report.html"
    head = f"[Open it with its audio]({page})" if page else f"With audio: `{report.path('report.html')}`"
    body = with_pictures(few_tracks_pictured(with_links(text, address)), report.folder)
    show(MarkdownArtifact(key="report", markdown=f"{head}\n\n{body}", description="What came of the run"))
    scores = score_table(read_json(report.path("summary.json")))
    show(TableArtifact(key="scores", table=scores, description="Means over the tracks, with 95 % intervals"))
    if page:
        words = "The report, with players"
        show(LinkArtifact(key="report-page", link=page, link_text=words, description="Every track to hear"))
        mixes = [found[2] for found in PLAYER.finditer(text) if found[2].startswith("audio/mix/")]
        for mix in mixes[:1]:
            link, words = f"{address}/{mix}", "A held-out vocal with the accompaniment made for it"
            show(
                LinkArtifact(
                    key="first-track", link=link, link_text="Hear the first track", description=words
                )
            )


def show_ablation(ablation: Artifact) -> None:
    """Show the table of an ablation with its picture inside."""
    text = with_pictures(ablation.path("ablation.md").read_text("utf-8"), ablation.folder)
    show(MarkdownArtifact(key="ablation", markdown=text, description="Every choice against the others"))


def with_pictures(text: str, folder: Path) -> str:
    """Put the pictures that Markdown names, which lie in `folder`, inside it: the UI has no other place."""
    return PICTURE.sub(lambda found: f"![{found[1]}]({data_url(folder / found[2])})", text)


def few_tracks_pictured(text: str) -> str:
    """Take the pictures of all tracks but the first from a report: the server's database keeps every one."""
    for extra in reversed(list(TRACK_PICTURE.finditer(text))[PICTURED_TRACKS:]):
        text = text[: extra.start()] + text[extra.end() :]
    return text


def with_links(text: str, address: str | None) -> str:
    """Give a report's text whole addresses of its audio; no links where it has no address."""
    # The UI shows backslashes in the words of a link, and brackets of this kind end nothing there.
    unescaped = PLAYER.sub(lambda found: re.sub(r"\\([()])", r"\1", found[0]), text)
    return PLAYER.sub(rf"[\1]({address}/\2)" if address else r"\1", unescaped)


def address_of(folder: Path) -> str | None:
    """Return where a folder of the artifacts is served; None where nobody serves it, or not this one."""
    url, served = os.environ.get(URL), Path(os.environ.get(FOLDER, "artifacts"))
    if not url or not folder.resolve().is_relative_to(served.resolve()):
        return None
    return f"{url.rstrip('/')}/{quote(folder.resolve().relative_to(served.resolve()).as_posix())}"
