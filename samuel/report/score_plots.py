"""Scores as pictures: every system on a line of its own, what is sure and what is not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samuel.evaluate.paper_tables import TABLE_I
from samuel.report.following import adjusted_p
from samuel.report.markdown import probability
from samuel.report.plots import drawable
from samuel.report.score_names import AUDIOBOX, in_order, score_name

Summary = Mapping[str, Any]

OWN, OTHER, PUBLISHED = "tab:blue", "0.45", "0.6"
LINE_INCHES, PANEL_INCHES, COLUMNS = 0.55, 4.6, 2
LONGEST_NAME = 34


def plot_following(summary: Summary, path: Path) -> None:
    """For every score that follows the vocal: own vocal with its interval, and other songs' vocals."""
    following, adjusted = summary["following"], adjusted_p(summary)
    scores = in_order(following)
    figure, panels = _panels(len(scores), len(summary["systems"]))
    for axes, score in zip(panels, scores, strict=False):
        _name_systems(axes, summary["systems"])
        axes.set_title(score_name(score).name, loc="left", fontsize="medium", fontweight="bold")
        for place, system in enumerate(summary["systems"]):
            if found := following[score].get(system):
                means = (summary.get("scores") or {}).get(score, {}).get(system, {})
                _draw_pair(axes, place, found, means)
                _note(axes, place, _certainty(found, adjusted[system].get(score)))
    own = Line2D([], [], marker="o", color=OWN, label="own vocal, with its 95 % interval")
    other = Line2D(
        [], [], marker="o", color=OTHER, markerfacecolor="white", linestyle="", label="other songs' vocals"
    )
    figure.legend(handles=[own, other], loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def plot_audiobox(summary: Summary, path: Path) -> None:
    """AudioBox's four axes with their intervals; grey marks are the paper's figures, of other songs."""
    names = [*summary["systems"], *(f"paper: {row.system}" for row in TABLE_I)]
    figure, panels = _panels(len(AUDIOBOX), len(names), LINE_INCHES / 2)
    for axes, score in zip(panels, AUDIOBOX, strict=False):
        _name_systems(axes, names)
        axes.set_title(score_name(score).name, loc="left", fontsize="medium", fontweight="bold")
        axes.set_xlim(1, 10)
        for place, system in enumerate(summary["systems"]):
            found = (summary.get("scores") or {}).get(score, {}).get(system)
            if found and found["mean"] is not None:
                _draw_interval(axes, place, found)
                axes.plot(found["mean"], place, "o", color=OWN)
        for place, row in enumerate(TABLE_I, len(summary["systems"])):
            axes.plot(row.by_axis()[score], place, "D", color=PUBLISHED)
    measured = Line2D([], [], marker="o", color=OWN, label="measured here, with its 95 % interval")
    paper = Line2D([], [], marker="D", color=PUBLISHED, linestyle="", label="the paper's, not measured here")
    figure.legend(handles=[measured, paper], loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def _panels(count: int, lines: int, line_inches: float = LINE_INCHES) -> tuple[Figure, list[Axes]]:
    """So many plots in two columns, with room for so many systems in each."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    height = 0.6 + rows * (1.0 + line_inches * lines)
    figure = Figure(figsize=(PANEL_INCHES * columns, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for unused in axes.flat[count:]:
        unused.set_visible(False)
    return figure, list(axes.flat[:count])


def _name_systems(axes: Axes, systems: Sequence[str]) -> None:
    """The first at the top; a name may be anybody's text."""
    names = [drawable(system) for system in systems]
    axes.set_yticks(
        range(len(names)), [n if len(n) <= LONGEST_NAME else f"{n[:LONGEST_NAME]}…" for n in names]
    )
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.grid(axis="x", color="0.93")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


def _draw_pair(axes: Axes, place: int, found: Mapping[str, Any], means: Mapping[str, Any]) -> None:
    if None not in (found["own"], found["other"]):
        axes.plot([found["other"], found["own"]], [place, place], color="0.85", linewidth=4, zorder=1)
    _draw_interval(axes, place, means)
    if found["other"] is not None:
        axes.plot(found["other"], place, "o", color=OTHER, markerfacecolor="white", zorder=3)
    if found["own"] is not None:
        axes.plot(found["own"], place, "o", color=OWN, zorder=4)


def _draw_interval(axes: Axes, place: int, found: Mapping[str, Any]) -> None:
    if None not in (low := found.get("low"), high := found.get("high")):
        axes.plot([low, high], [place, place], color=OWN, linewidth=1.6, zorder=2)  # type: ignore[list-item]


def _certainty(found: Mapping[str, Any], adjusted: float | None) -> str:
    known = "p not measured" if adjusted is None else f"p = {probability(adjusted)} after Holm"
    return f"n = {found['n']}, {known}"


def _note(axes: Axes, place: int, text: str) -> None:
    """Above a system's line, at the right edge."""
    axes.annotate(
        text, (1, place), xycoords=axes.get_yaxis_transform(), xytext=(0, 7), textcoords="offset points",
        ha="right", va="bottom", fontsize="x-small", color="0.35",
    )  # fmt: skip
