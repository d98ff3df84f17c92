"""What the Prefect UI shows of a run beside its states."""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

import httpx
from PIL import Image
from prefect.artifacts import Artifact as PrefectArtifact
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

# Artifacts on the server. What is shown of a run never ends it: a server may be away for a while.


Item = TypeVar("Item")

LEAST_S = 10.0
GROWTH = 0.005


class Pace:
    """When something may be shown again: the longer a run takes, the rarer.

    Each time costs a call and a row in the server's database. At this pace a run of two days shows a thing
    some thousand times.
    """

    def __init__(self, least_s: float = LEAST_S, growth: float = GROWTH) -> None:
        """From now on, every `least_s` and every `growth` of the time that has passed."""
        self._least_s, self._growth = least_s, growth
        self._began = self._last = time.monotonic()

    def due(self) -> bool:
        """True when it is time; the next time counts from here."""
        now = time.monotonic()
        if now - self._last < max(self._least_s, self._growth * (now - self._began)):
            return False
        self._last = now
        return True


class Connection:
    """The one way to the server for artifacts. Where it cannot be reached, a warning says so once."""

    def __init__(self) -> None:
        self._away = False

    def call(self, send: Callable[[], UUID | None], *, patient: bool) -> UUID | None:
        """What `send` returns; None where the server cannot be reached.

        Args:
            send: Calls the server.
            patient: Wait for it as long as Prefect's client does; else the work in hand matters more.
        """
        try:
            with _patience(patient):
                sent = send()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error:
                raise
            if not self._away:
                get_run_logger().warning(
                    "the Prefect server cannot be reached (%s): the run goes on, the UI shows less of it",
                    error,
                )
            self._away = True
            return None
        self._away = False
        return sent


CONNECTION = Connection()


def show(artifact: PrefectArtifact) -> None:
    """Show what stays as it is."""
    CONNECTION.call(lambda: _create(artifact), patient=True)


class Live:
    """An artifact that changes while a run goes on: one row in the server's database, however often."""

    def __init__(self) -> None:
        self._id: UUID | None = None

    def show(self, artifact: PrefectArtifact) -> None:
        """Show this in place of what was shown before."""
        self._id = CONNECTION.call(lambda: self._send(artifact), patient=False) or self._id

    def _send(self, artifact: PrefectArtifact) -> UUID:
        if self._id is None:
            return _create(artifact)
        try:
            update = ArtifactUpdate(data=cast("Any", artifact.format()), description=artifact.description)
            get_client(sync_client=True).update_artifact(self._id, update)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            return _create(artifact)  # somebody deleted it in the UI
        return self._id


class Share:
    """How much of something is done, as a bar.

    Args:
        key: Of the artifact.
        title: What is done.
    """

    def __init__(self, key: str, title: str) -> None:
        self._key, self._title, self._live, self._pace = key, title, Live(), Pace()

    def show(self, done: int, total: int) -> None:
        """Show how much is done."""
        description = f"{self._title}: {done:,} of {total:,}"
        progress = 100 * done / total if total else 100.0
        self._live.show(ProgressArtifact(key=self._key, description=description, progress=progress))

    def over(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """The items; each counts as done when the next one is asked for."""
        self.show(0, total)
        for done, item in enumerate(items):
            if self._pace.due():
                self.show(done, total)
            yield item
        self.show(total, total)


def _create(artifact: PrefectArtifact) -> UUID:
    return cast("Any", artifact.create()).id


def _patience(patient: bool) -> AbstractContextManager[Any]:
    return nullcontext() if patient else temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})


# Pictures inside Markdown, as the UI has no other place for them.


IMAGE = re.compile(r"!\[([^\]]*)\]\(([\w.-]+\.png)\)")
COLOURS = 32


def with_pictures(text: str, folder: Path) -> str:
    """Markdown with the pictures that it names, which lie in `folder`, inside it."""
    return IMAGE.sub(lambda found: f"![{found[1]}]({data_url(folder / found[2])})", text)


def reduce_colours(png: Path) -> None:
    """Make a plot a quarter of its size: the server's database keeps every one that is shown."""
    Image.open(png).convert("RGB").quantize(COLOURS).save(png, optimize=True)


# The songs in the UI: on their way through the stages, and what the dataset made of them holds.


STAGES = {"download": "Songs downloaded", "separate": "Songs separated", "encode": "Songs encoded"}


def show_list(listed: SongList) -> None:
    """How many rows each rule took away."""
    table = listed.table()
    show(TableArtifact(key="song-list", table=table, description="The song list, rule by rule"))


class Journey:
    """The songs on their way through the stages: a bar for each stage, a funnel, and how long it will take.

    Args:
        songs: All of the list.
        settings: The tree.
    """

    def __init__(self, songs: Sequence[Song], settings: Settings) -> None:
        self._at_hand = all(song.url for song in songs)
        pauses = [least_s(songs, settings.download), 0.0, 0.0]
        self._stages = [Progress(len(songs), pause) for pause in pauses]
        self._bars = [Share(key, title) for key, title in STAGES.items()]
        self._newest: dict[str, tuple[int, Outcome]] = {}
        self._table, self._pace = Live(), Pace()
        self._send()

    def show(self, stage: int, outcomes: Sequence[Outcome]) -> None:
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
        if self._pace.due() or self._over:
            self._send()

    def line(self) -> str:
        """How far the songs are, and how long the rest will take: for the log."""
        done = ", ".join(f"{STEPS[k]} {p.done:,}" for k, p in zip(STAGES, self._stages, strict=True))
        return f"{done} of {self._stages[0].songs:,} songs, {self._left()}"

    @property
    def _over(self) -> bool:
        return all(stage.done == stage.songs for stage in self._stages)

    def _left(self) -> str:
        if self._over:
            return "all stages are done"
        known = [stage.worked or stage.done == stage.songs for stage in self._stages]
        left_s = max(stage.left_s for stage in self._stages)
        if not left_s:
            return "time left not known yet"
        return f"{'about' if all(known) else 'at least'} {duration(left_s)} left"

    def _send(self) -> None:
        get_run_logger().info(self.line())
        for progress, shown in zip(self._stages, self._bars, strict=True):
            shown.show(progress.done, progress.songs)
        outcomes = [outcome for _, outcome in self._newest.values()]
        rows = rows_under_way(outcomes, self._stages[0].songs, at_hand=self._at_hand)
        self._table.show(TableArtifact(key="songs", table=rows, description=self.line()))


def rows_under_way(outcomes: Iterable[Outcome], listed: int, *, at_hand: bool) -> list[dict[str, Any]]:
    """The funnel while songs are still on their way: of each step also how many may yet reach it.

    Args:
        outcomes: The newest of each song that has any.
        listed: How many songs there are.
        at_hand: They are not searched for.
    """
    steps = [stage for stage in STEPS if not (at_hand and stage in SEARCHES)]
    fates = [(steps.index(outcome.stage), outcome) for outcome in outcomes if outcome.stage in steps]
    rows: list[dict[str, Any]] = [Step("listed", listed, {}).row() | {"to come": 0}]
    before = listed
    for place, stage in enumerate(steps):
        lost = Counter(outcome.status.value for at, outcome in fates if at == place and not outcome.ok)
        reached = sum(at > place or (at == place and outcome.ok) for at, outcome in fates)
        step = Step(STEPS[stage], reached, dict(lost.most_common()))
        rows.append(step.row() | {"to come": before - reached - lost.total()})
        before -= lost.total()
    return rows


def show_dataset(popdb: Popdb, outcomes: Sequence[Outcome]) -> None:
    """What became of the songs, and what the dataset holds."""
    songs = popdb.songs(WHY_NO_PAIR).to_pylist()  # without the candidates, which are many
    kept = step_into_dataset(songs, popdb.info["settings"]["min_vocal_share"])
    rows = [step.row() for step in [*funnel(outcomes), kept]]
    get_run_logger().info("What became of the songs\n%s", text_of(rows))
    show(TableArtifact(key="songs", table=rows, description="What became of the songs"))
    numbers = [{"count": name, "value": value} for name, value in popdb.info["counts"].items()]
    show(TableArtifact(key="popdb", table=numbers, description=f"POPDB at {popdb.location}"))
    _show_vocal_share(popdb)


def _show_vocal_share(popdb: Popdb) -> None:
    from samuel.report.report import caveats, vocal_share_report  # matplotlib: not before it is drawn

    with TemporaryDirectory() as folder:
        text = with_pictures(vocal_share_report(popdb, Path(folder)), Path(folder))
    markdown = f"# Vocal share of the chunks\n\n{text}\n\n{caveats(popdb)}"
    show(MarkdownArtifact(key="vocal-share", markdown=markdown, description="How much is sung"))


# A training in the UI while it goes on: how far it is, and the curve of its loss so far.


TRAINING_LEAST_S, TRAINING_GROWTH = 60.0, 0.02
RECENT_STEPS = 100
SHOWN_VALIDATIONS = 12


class TrainingPage:
    """A training on its way.

    Args:
        config: Its settings.
        metrics: The file to which it writes a row for each step.
    """

    def __init__(self, config: TrainingConfig, metrics: Path) -> None:
        self._config, self._metrics = config, metrics
        self._bar, self._page = Share("training", "Steps of the training"), Live()
        self._bar_pace, self._page_pace = Pace(), Pace(TRAINING_LEAST_S, TRAINING_GROWTH)
        self._began: tuple[int, float] | None = None
        self._validated = 0  # validations that the page has seen

    def show(self, row: dict[str, Any]) -> None:
        """Show the training after a step; it costs next to nothing where it is not time to."""
        step = row["step"]
        self._began = self._began or (step, time.monotonic())
        if self._bar_pace.due():
            self._bar.show(step, self._config.steps)
        validated = step // self._config.validate_every
        if validated > self._validated and (not self._validated or self._page_pace.due()):
            self._validated = validated
            self._show_page(read_jsonl(self._metrics), self._left(step))

    def end(self, model: Artifact) -> None:
        """Show the whole training, also one that was over before."""
        progress = model.record["progress"]
        self._bar.show(self._config.steps, self._config.steps)
        best = f"the model is that of step {progress['best_step']:,}"
        self._show_page(read_jsonl(model.path("metrics.jsonl")), f"The training is over; {best}")

    def _left(self, step: int) -> str:
        first, began = self._began or (step, 0.0)
        if step <= first:
            return "Time left not known yet"
        left_s = (self._config.steps - step) * (time.monotonic() - began) / (step - first)
        limit = "At most" if self._config.patience else "About"
        return f"{limit} {duration(left_s)} left"

    def _show_page(self, rows: Sequence[dict[str, Any]], state: str) -> None:
        if sum("validation_loss" in row for row in rows) > 1:  # one point is no curve
            markdown = training_markdown(rows, self._config.steps, state)
            self._page.show(
                MarkdownArtifact(key="training-loss", markdown=markdown, description="Loss so far")
            )


def training_markdown(rows: Sequence[dict[str, Any]], steps: int, state: str) -> str:
    """A page about the steps so far, with their curve inside.

    Args:
        rows: The metrics of each step.
        steps: How many there will be.
        state: How long it takes, or that it is over.
    """
    from samuel.report.plots import plot_loss  # matplotlib: not before something is drawn

    step_s = median(row["seconds"] for row in rows[-RECENT_STEPS:])
    pace = f"{1 / step_s:,.3g} steps a second (median of the last {min(len(rows), RECENT_STEPS)})"
    head = f"**Step {rows[-1]['step']:,} of {steps:,}**, {pace}. {state}."
    with TemporaryDirectory() as folder:
        plot_loss(rows, Path(folder) / "loss.png")
        reduce_colours(Path(folder) / "loss.png")
        picture = with_pictures("![Loss](loss.png)", Path(folder))
    return "\n\n".join(["# Training", head, picture, _validations(rows)])


def _validations(rows: Sequence[dict[str, Any]]) -> str:
    """The newest validations as a table, the newest first."""
    found = [row for row in rows if "validation_loss" in row]
    best = min(row["validation_loss"] for row in found)
    cells = [
        [f"{row['step']:,}", _marked(row["validation_loss"], best), number(row.get("validation_shuffled"), 4)]
        for row in found[: -SHOWN_VALIDATIONS - 1 : -1]
    ]
    head = ["step", "own vocal", "another song's vocal"]
    return f"Mean squared error of v on held-out pairs; the best in bold.\n\n{table(head, cells, words=0)}"


def _marked(value: float, best: float) -> str:
    return f"**{number(value, 4)}**" if value == best else number(value, 4)


# A finished report in the UI: its text and pictures, its scores, and the way to its audio.


# In the environment of a flow: where `flows.service.pages` answers, and the folder that it serves.
URL, FOLDER = "SAMUEL_PAGES_URL", "SAMUEL_PAGES_FOLDER"
PLAYER = re.compile(r"\[([^\]]*)\]\((audio/[^)\s]*)\)")
TRACK_PICTURE = re.compile(r"!\[[^\]]*\]\(spectrogram-[\w.-]+\.png\)\n*")
PICTURED_TRACKS = 3
FIRST_HEARD = "audio/mix/"


def show_report(report: Artifact) -> None:
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


def show_ablation(table: Artifact) -> None:
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
