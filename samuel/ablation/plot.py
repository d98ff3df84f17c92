"""An ablation as a picture: every fit a dot."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samuel.ablation.rows import Row
from samuel.ablation.statistics import spread
from samuel.ablation.study import Result

MEASURES: tuple[tuple[str, Callable[[Result], float | None]], ...] = (
    ("best validation loss\n(squared error of v)", lambda result: result.best_loss),
    ("what the vocal is worth\n(squared error of v)", lambda result: result.vocal_worth),
)
INCHES_PER_VALUE = 0.75


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """A column for each factor, a dot for each fit, a line at each mean; the settings' own value in colour.

    What no fit measured has no row of plots.
    """
    factors = [list(group) for _, group in groupby(rows, lambda row: row.factor)]
    results = [result for row in rows for result in row.results]
    shown = [measure for measure in MEASURES if any(measure[1](result) is not None for result in results)]
    widths = [len(group) for group in factors]
    figure = Figure(figsize=(INCHES_PER_VALUE * sum(widths) + 2, 3.2 * len(shown)), layout="constrained")
    plots = figure.subplots(
        len(shown), len(factors), squeeze=False, sharey="row", sharex="col", width_ratios=widths
    )
    for line, (title, measure) in zip(plots, shown, strict=True):
        line[0].set_ylabel(title)
        for axes, group in zip(line, factors, strict=True):
            _draw(axes, group, measure)
    for axes, group in zip(plots[-1], factors, strict=True):
        axes.set_xlabel(group[0].factor.replace("_", " "))
    figure.suptitle("each fit, and the mean; orange: the settings as they are", fontsize="medium")
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def _draw(axes: Axes, rows: Sequence[Row], measure: Callable[[Result], float | None]) -> None:
    axes.set_xticks(range(len(rows)), [str(row.value) for row in rows])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    for place, row in enumerate(rows):
        values = [value for result in row.results if (value := measure(result)) is not None]
        colour = "tab:orange" if row.as_set else "tab:blue"
        axes.plot([place] * len(values), values, "o", color=colour, alpha=0.6, markersize=5)
        if middle := spread(values):
            axes.hlines(middle.mean, place - 0.25, place + 0.25, color=colour, linewidth=2)
