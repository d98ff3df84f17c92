"""A training in the UI while it goes on: how far it is, and the curve of its loss so far."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from prefect.artifacts import MarkdownArtifact

from flows.artifacts.live import Live, Pace, Share
from flows.artifacts.pictures import reduce_colours, with_pictures
from samuel.config import TrainingConfig
from samuel.files import Entry, read_jsonl
from samuel.popdb.accounts import duration
from samuel.report.markdown import number, table

LEAST_S, GROWTH = 60.0, 0.02
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
        self._bar_pace, self._page_pace = Pace(), Pace(LEAST_S, GROWTH)
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

    def end(self, model: Entry) -> None:
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
