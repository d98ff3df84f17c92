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

from samuel.artifacts import Artifact
from samuel.config import Settings, TrainingConfig
from samuel.popdb import accounts
from samuel.popdb.accounts import STEPS, Progress, step_row
from samuel.popdb.dataset import Popdb
from samuel.popdb.songs import Song, SongList
from samuel.popdb.status import Outcome
from samuel.reading import read_json, read_jsonl
from samuel.report.evaluation import score_table
from samuel.report.html import data_url, number
from samuel.text import duration, text_of

Item = TypeVar("Item")


class Live:
    """An artifact that changes while a run goes on: one row in the server's database, however often.

    The longer the run takes, the rarer it is `due` again: some thousand times in two days.
    """

    def __init__(self, least_s: float = 10.0, growth: float = 0.005) -> None:
        self._least_s, self._growth = least_s, growth
        self._began = self._last = time.monotonic()
        self._id: UUID | None = None
        self._away = False

    def due(self) -> bool:
        """Return whether it is time to show it again; the next time counts from here."""
        now = time.monotonic()
        if now - self._last < max(self._least_s, self._growth * (now - self._began)):
            return False
        self._last = now
        return True

    def show(self, artifact: Shown, *, patient: bool = False) -> None:
        """Show this in place of what was shown before; `patient` waits for a server that is away."""
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


def show(kind: type[Shown], key: str, description: str, **content: Any) -> None:
    """Show what stays as it is."""
    Live().show(kind(key=key, description=description, **content), patient=True)


class ProgressBar:
    """How much of something is done."""

    def __init__(self, key: str, title: str) -> None:
        self._key, self._title, self._live = key, title, Live()

    def show(self, done: int, total: int, *, if_due: bool = False) -> None:
        """Show how much is done."""
        if if_due and not self._live.due():
            return
        description = f"{self._title}: {done:,} of {total:,}"
        progress = 100 * done / total if total else 100.0
        self._live.show(ProgressArtifact(key=self._key, description=description, progress=progress))

    def over(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Yield the items; each counts as done when the next one is asked for."""
        self.show(0, total)
        for done, item in enumerate(items):
            self.show(done, total, if_due=True)
            yield item
        self.show(total, total)


# The songs, on their way through the stages and in the dataset.

STAGES = ("download", "separate", "encode")


def show_list(listed: SongList) -> None:
    """Show how many rows of the list each rule took away."""
    show(TableArtifact, "song-list", "The song list, rule by rule", table=listed.rules)


class SongProgress:
    """The songs on their way: a bar for each stage, a funnel, and how long it will take."""

    def __init__(self, songs: Sequence[Song], settings: Settings) -> None:
        self._local = all(song.url for song in songs)
        pauses_s = (accounts.least_s(songs, settings.download), 0.0, 0.0)
        self._stages = [Progress(len(songs), pause_s) for pause_s in pauses_s]
        self._bars = [ProgressBar(stage, f"Songs {STEPS[stage]}") for stage in STAGES]
        self._newest: dict[str, tuple[int, Outcome]] = {}
        self._table = Live()
        self.send()

    def add(self, stage: int, outcomes: Sequence[Outcome]) -> None:
        """Count songs that came out of a stage: 0 download, 1 separate, 2 encode."""
        for outcome in outcomes:
            known = self._newest.get(outcome.song.song_id)
            if known is None or stage >= known[0]:
                self._newest[outcome.song.song_id] = stage, outcome
        self._stages[stage].add(outcomes)
        if self._table.due() or all(stage.done == stage.songs for stage in self._stages):
            self.send()

    def send(self) -> None:
        """Show how far the songs are, here and in the log."""
        songs = self._stages[0].songs
        done = ", ".join(f"{STEPS[name]} {p.done:,}" for name, p in zip(STAGES, self._stages, strict=True))
        left_s = max(stage.left_s for stage in self._stages)
        known = all(stage.worked or stage.done == songs for stage in self._stages)
        left = f"{'about' if known else 'at least'} {duration(left_s)} left"
        if all(stage.done == songs for stage in self._stages):
            left = "all stages are done"
        elif not left_s:
            left = "time left not known yet"
        line = f"{done} of {songs:,} songs, {left}"
        get_run_logger().info(line)
        for progress, shown in zip(self._stages, self._bars, strict=True):
            shown.show(progress.done, songs)
        rows = open_funnel([outcome for _, outcome in self._newest.values()], songs, local=self._local)
        self._table.show(TableArtifact(key="songs", table=rows, description=line))


def open_funnel(outcomes: Iterable[Outcome], listed: int, *, local: bool) -> list[dict[str, Any]]:
    """Make the funnel of the newest outcomes of the listed songs, with how many may yet reach each step."""
    stages = [stage for stage in STEPS if not (local and stage in accounts.SEARCHES)]
    fates = [(stages.index(outcome.stage), outcome) for outcome in outcomes if outcome.stage in stages]
    rows: list[dict[str, Any]] = [step_row("listed", listed, {}) | {"to come": 0}]
    for place, stage in enumerate(stages):
        lost = Counter(outcome.status.value for at, outcome in fates if at == place and not outcome.ok)
        reached = sum(at > place or (at == place and outcome.ok) for at, outcome in fates)
        step = step_row(STEPS[stage], reached, dict(lost.most_common()))
        rows.append(step | {"to come": listed - reached - lost.total()})
        listed -= lost.total()
    return rows


def show_dataset(popdb: Popdb, outcomes: Sequence[Outcome]) -> None:
    """Show what became of the songs, and what the dataset holds."""
    from samuel.report.report import caveats, vocal_share_report  # matplotlib: not before it is drawn

    songs = popdb.songs(accounts.WHY_NO_PAIR).to_pylist()  # without the candidates, which are many
    kept = accounts.step_into_dataset(songs, popdb.info["settings"]["min_vocal_share"])
    rows = [*accounts.funnel(outcomes), kept]
    get_run_logger().info("What became of the songs\n%s", text_of(rows))
    show(TableArtifact, "songs", "What became of the songs", table=rows)
    numbers = [{"count": name, "value": value} for name, value in popdb.info["counts"].items()]
    show(TableArtifact, "popdb", f"POPDB at {popdb.location}", table=numbers)
    with TemporaryDirectory() as folder:
        text = with_pictures(vocal_share_report(popdb, Path(folder)), Path(folder))
    markdown = f"# Vocal share of the chunks\n\n{text}\n\n{caveats(popdb)}"
    show(MarkdownArtifact, "vocal-share", "How much is sung", markdown=markdown)


# A training while it goes on.

RECENT_STEPS = 100
COLOURS = 32  # make a plot a quarter of its size: the server's database keeps every one that is shown


class TrainingPage:
    """A training on its way: how far it is, and the curve of its loss so far, from its file of metrics."""

    def __init__(self, config: TrainingConfig, metrics: Path) -> None:
        self._config, self._metrics = config, metrics
        self._bar, self._page = ProgressBar("training", "Steps of the training"), Live(60.0, 0.02)
        self._validated = 0  # validations that the page has seen

    def show(self, row: dict[str, Any]) -> None:
        """Show the training after a step; it costs next to nothing where it is not time to."""
        self._bar.show(row["step"], self._config.steps, if_due=True)
        validated = row["step"] // self._config.validate_every
        if validated > self._validated and (not self._validated or self._page.due()):
            self._validated = validated
            self._show_page(self._metrics)

    def end(self, model: Artifact) -> None:
        """Show the whole training, also one that was over before."""
        self._bar.show(self._config.steps, self._config.steps)
        best = f"The training is over; the model is that of step {model.record['progress']['best_step']:,}"
        self._show_page(model.path("metrics.jsonl"), best)

    def _show_page(self, metrics: Path, over: str = "") -> None:
        from samuel.report.plots import plot_loss  # matplotlib: not before something is drawn

        rows = read_jsonl(metrics)
        validated = [row for row in rows if "validation_loss" in row]
        if len(validated) < 2:  # one point is no curve
            return
        step, last = rows[-1]["step"], validated[-1]
        best = min(validated, key=lambda row: row["validation_loss"])
        step_s = median(row["seconds"] for row in rows[-RECENT_STEPS:])
        pace = f"{1 / step_s:,.3g} steps a second (median of the last {min(len(rows), RECENT_STEPS)})"
        at_most = "At most" if self._config.patience else "About"
        state = over or f"{at_most} {duration((self._config.steps - step) * step_s)} left"
        with TemporaryDirectory() as folder:
            picture = Path(folder) / "loss.png"
            plot_loss(rows, picture)
            Image.open(picture).convert("RGB").quantize(COLOURS).save(picture, optimize=True)
            curve = with_pictures("![Loss](loss.png)", Path(folder))
        losses = (
            f"{number(best['validation_loss'], 4)} at step {best['step']:,}, the best; "
            f"{number(last['validation_loss'], 4)} at step {last['step']:,}, the last, and "
            f"{number(last.get('validation_shuffled'), 4)} there with another song's vocal"
        )
        head = f"# Training\n\n**Step {step:,} of {self._config.steps:,}**, {pace}. {state}."
        markdown = f"{head}\n\n{curve}\n\nMean squared error of v on held-out pairs: {losses}."
        page = MarkdownArtifact(key="training-loss", markdown=markdown, description="Loss so far")
        self._page.show(page)


# A finished report: its text and pictures, its scores, and the way to its audio.

# In the environment of a flow: where `make serve` serves reports, and the folder of all of them.
URL, FOLDER = "SAMUEL_PAGES_URL", "SAMUEL_PAGES_FOLDER"
PICTURE = re.compile(r"!\[([^\]]*)\]\(([\w.-]+\.png)\)")
PLAYER = re.compile(r"\[([^\]]*)\]\((audio/[^)\s]*)\)")
TRACK_PICTURE = re.compile(r"!\[[^\]]*\]\(spectrogram-[\w.-]+\.png\)\n*")
PICTURED_TRACKS = 3  # the server's database keeps every picture that is shown


def show_report(report: Artifact) -> None:
    """Show the report with its plots inside, a table of its scores, and links where its folder is served."""
    address = address_of(report.folder)
    text = report.path("report.md").read_text("utf-8")
    page = address and f"{address}/report.html"
    head = f"[Open it with its audio]({page})" if page else f"With audio: `{report.path('report.html')}`"
    for extra in reversed(list(TRACK_PICTURE.finditer(text))[PICTURED_TRACKS:]):
        text = text[: extra.start()] + text[extra.end() :]
    body = with_pictures(with_links(text, address), report.folder)
    show(MarkdownArtifact, "report", "What came of the run", markdown=f"{head}\n\n{body}")
    scores = score_table(read_json(report.path("summary.json")))
    show(TableArtifact, "scores", "Means over the tracks, with 95 % intervals", table=scores)
    if page:
        words = "The report, with players"
        show(LinkArtifact, "report-page", "Every track to hear", link=page, link_text=words)
    mix = next((found[2] for found in PLAYER.finditer(text) if found[2].startswith("audio/mix/")), None)
    if address and mix:
        words = "A held-out vocal with the accompaniment made for it"
        show(LinkArtifact, "first-track", words, link=f"{address}/{mix}", link_text="Hear the first track")


def show_ablation(ablation: Artifact) -> None:
    """Show the table of an ablation with its picture inside."""
    text = with_pictures(ablation.path("ablation.md").read_text("utf-8"), ablation.folder)
    show(MarkdownArtifact, "ablation", "Every choice against the others", markdown=text)


def with_pictures(text: str, folder: Path) -> str:
    """Put the pictures that Markdown names, which lie in `folder`, inside it: the UI has no other place."""
    return PICTURE.sub(lambda found: f"![{found[1]}]({data_url(folder / found[2])})", text)


def with_links(text: str, address: str | None) -> str:
    """Give a report's text whole addresses of its audio; no links where it has no address."""
    # The UI shows backslashes in the words of a link, and brackets of this kind end nothing there.
    unescaped = PLAYER.sub(lambda found: re.sub(r"\\([()])", r"\1", found[0]), text)
    return PLAYER.sub(rf"[\1]({address}/\2)" if address else r"\1", unescaped)


def address_of(folder: Path) -> str | None:
    """Return where a folder of the artifacts is served; None where nobody serves it, or not this one."""
    url, served = os.environ.get(URL), Path(os.environ.get(FOLDER, "artifacts")).resolve()
    if not url or not folder.resolve().is_relative_to(served):
        return None
    return f"{url.rstrip('/')}/{quote(folder.resolve().relative_to(served).as_posix())}"
