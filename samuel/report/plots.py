"""Pictures of a run as PNG files: its training, its dataset, its tracks and its scores."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from samuel.audio import SAMPLE_RATE, Audio
from samuel.evaluate.cost import TABLE_I
from samuel.evaluate.features import LOG_MEL_HOP, log_mel_db
from samuel.evaluate.scores import AUDIOBOX, find_score
from samuel.report.following import followed
from samuel.report.html import probability

Metrics = Sequence[dict[str, Any]]
Summary = Mapping[str, Any]

SMOOTHED_STEPS = 15
DRAWN_STEPS = 4000  # several for each pixel
MARKED_POINTS = 40
COURSES = {"gradient_norm": "gradient norm,\nbefore clipping", "learning_rate": "learning rate"}
LATIN_END = 0x250  # of the blocks that matplotlib's own font covers whole
SHARE_BINS = 20
OWN, OTHER, PUBLISHED = "tab:blue", "0.45", "0.6"
LINE_INCHES, PANEL_INCHES, COLUMNS = 0.55, 4.6, 2
LONGEST_NAME = 34


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a PNG; the same figure gives the same bytes."""
    figure.savefig(path, dpi=dpi, metadata={"Software": ""})


def plot_loss(metrics: Metrics, path: Path) -> None:
    """Draw a training over its steps: the error of v, raw, smoothed and at the validations.

    A validation has it with each song's own vocal and, where that was measured, with another song's. Below
    are the gradient's norm and the learning rate, where they were measured.
    """
    below = [name for name in COURSES if any(name in row for row in metrics)]
    figure = Figure(figsize=(8, 4 + 1.5 * len(below)), layout="constrained")
    axes = figure.subplots(1 + len(below), sharex=True, squeeze=False, height_ratios=[3, *[1] * len(below)])
    errors, *panels = axes[:, 0]
    highest = max(_plot_training(errors, metrics), _plot_validations(errors, metrics))
    errors.set(ylabel="mean squared error of v", ylim=(0, 1.05 * highest))
    title = f"Training, {len(metrics):,} steps"
    figure.legend(loc="outside upper center", ncols=3, frameon=False, title=title, title_fontsize="large")
    for plot, name in zip(panels, below, strict=True):
        steps, values = series(metrics, name)
        drawn = slice(None, None, math.ceil(len(steps) / DRAWN_STEPS))
        plot.plot(steps[drawn], values[drawn], color="tab:blue", linewidth=0.8)
        plot.set_ylabel(COURSES[name])
        if name == "gradient_norm":
            plot.set_yscale("log")
        else:
            plot.set_ylim(0, None)
            plot.ticklabel_format(axis="y", scilimits=(0, 0))
    for plot in axes[:, 0]:
        plot.grid(color="0.93")
    axes[-1, 0].set_xlabel("step")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1, 0].xaxis.set_major_formatter("{x:,.0f}")
    save(figure, path)


def _plot_training(axes: Axes, metrics: Metrics) -> float:
    """Draw the error of the training; returns the highest value to show, which a stray step does not set."""
    steps, errors = series(metrics, "v_mse")
    window = max(SMOOTHED_STEPS, len(steps) // 50)
    smoothed = smooth(errors, window)
    drawn = slice(None, None, math.ceil(len(steps) / DRAWN_STEPS))
    label = "training, each step" if drawn.step == 1 else f"training, one step in {drawn.step}"
    axes.plot(steps[drawn], errors[drawn], color="0.85", linewidth=0.8, zorder=1, label=label)
    axes.plot(steps[drawn], smoothed[drawn], color="tab:blue", label=f"training, mean over {window:,} steps")
    return max(smoothed.max(), np.quantile(errors, 0.995, method="lower"))


def _plot_validations(axes: Axes, metrics: Metrics) -> float:
    """Draw the errors of the validations; returns the highest of them."""
    steps, own = series(metrics, "validation_loss")
    other_steps, other = series(metrics, "validation_shuffled")
    if not len(own):
        return 0.0
    style = "o-" if len(own) <= MARKED_POINTS else "-"
    if len(other):
        axes.plot(other_steps, other, style, color="tab:red", label="validation, another song's vocal")
    axes.plot(steps, own, style, color="tab:orange", label="validation, its own vocal")
    if np.array_equal(steps, other_steps):
        gain = {"color": "tab:red", "alpha": 0.2, "linewidth": 0, "zorder": 1.5}
        axes.fill_between(steps, own, other, label="conditioning gain", **gain)
    axes.axvline(steps[np.argmin(own)], color="0.4", linestyle=":", label="the exported model")
    return max([*own, *other])


def series(metrics: Metrics, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps at which a quantity was measured, and its values there."""
    found = [(row["step"], row[name]) for row in metrics if name in row]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def smooth(values: NDArray[np.float64], window: int = SMOOTHED_STEPS) -> NDArray[np.float64]:
    """Centred moving average; near the ends, over the values there are."""
    size = min(window, len(values))
    sums, counts = (uniform_filter1d(part, size, mode="constant") for part in (values, np.ones(len(values))))
    return sums / counts


def plot_vocal_shares(shares: Sequence[float], min_vocal_share: float, path: Path) -> None:
    """Draw a histogram of the vocal share of all chunks, their mean, and the half that the paper assumes."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    left_out = [share for share in shares if share < min_vocal_share]
    kept = [share for share in shares if share >= min_vocal_share]
    names = [f"under {min_vocal_share:g}: left out", "chunks of the dataset"]
    first = 0 if left_out else 1
    axes.hist(
        [left_out, kept][first:], bins=[edge / SHARE_BINS for edge in range(SHARE_BINS + 1)], stacked=True,
        color=["0.8", "tab:blue"][first:], edgecolor="white", label=names[first:],
    )  # fmt: skip
    half, mean = np.mean(np.array(shares) >= 0.5), np.mean(shares)
    axes.axvline(0.5, color="tab:orange", label=f"the paper's half: reached by {half:.0%} of all chunks")
    axes.axvline(float(mean), color="black", linestyle="--", label=f"mean of all chunks: {mean:.2f}")
    axes.set(xlabel="vocal share of a chunk", ylabel="chunks", xlim=(0, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2)
    save(figure, path)


def drawable(title: str) -> str:
    """A title, which is hostile text, as one short line that matplotlib draws as it is.

    Without control characters, and without what its font lacks; a dollar sign would start mathematics.
    """
    line = " ".join(title.split())[:80]
    return "".join(c if c.isprintable() and ord(c) < LATIN_END else "?" for c in line).replace("$", r"\$")


def plot_spectrograms(stems: dict[str, Audio], title: str, path: Path) -> None:
    """Draw mel spectrograms one above the other, on one time axis and one colour scale (dB)."""
    figure = Figure(figsize=(9, 0.6 + 1.6 * len(stems)), layout="constrained")
    axes = figure.subplots(len(stems), 1, sharex=True, squeeze=False)[:, 0]
    image = None
    for plot, (name, audio) in zip(axes, stems.items(), strict=True):
        levels = log_mel_db(audio)
        extent = (0, levels.shape[1] * LOG_MEL_HOP / SAMPLE_RATE, 0, levels.shape[0])
        image = plot.imshow(levels, origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=0)
        plot.set(title=drawable(name), ylabel="mel band")
    axes[-1].set_xlabel("seconds")
    figure.suptitle(drawable(title))
    if image is not None:
        figure.colorbar(image, ax=axes, label="dB")
    save(figure, path, dpi=90)


def plot_following(summary: Summary, path: Path) -> None:
    """Draw every score that follows the vocal: own vocal with its interval, and other songs' vocals."""
    found = followed(summary)
    scores = list(dict.fromkeys(item.score for item in found))
    figure, panels = _panels(scores, summary["systems"])
    for item in found:
        axes, line = panels[item.score], summary["systems"].index(item.system)
        if item.own is not None and item.other is not None:
            axes.plot([item.other, item.own], [line, line], color="0.85", linewidth=4, zorder=1)
        _draw_interval(axes, line, summary["scores"].get(item.score, {}).get(item.system, {}))
        if item.other is not None:
            axes.plot(item.other, line, "o", color=OTHER, markerfacecolor="white", zorder=3)
        if item.own is not None:
            axes.plot(item.own, line, "o", color=OWN, zorder=4)
        certain = "p not measured" if item.p_holm is None else f"p = {probability(item.p_holm)} after Holm"
        axes.annotate(
            f"n = {item.n}, {certain}", (1, line), xycoords=axes.get_yaxis_transform(), xytext=(0, 7),
            textcoords="offset points", ha="right", va="bottom", fontsize="x-small", color="0.35",
        )  # fmt: skip
    own = Line2D([], [], marker="o", color=OWN, label="own vocal, with its 95 % interval")
    other = Line2D(
        [], [], marker="o", color=OTHER, markerfacecolor="white", linestyle="", label="other songs' vocals"
    )
    figure.legend(handles=[own, other], loc="outside upper center", ncols=2, frameon=False)
    save(figure, path)


def plot_audiobox(summary: Summary, path: Path) -> None:
    """Draw AudioBox's four axes with their intervals; grey marks are the paper's figures, of other songs."""
    names = [*summary["systems"], *(f"paper: {system}" for system in TABLE_I)]
    figure, panels = _panels(AUDIOBOX, names, LINE_INCHES / 2)
    for score, axes in panels.items():
        axes.set_xlim(1, 10)
        for line, system in enumerate(summary["systems"]):
            found = summary["scores"].get(score, {}).get(system)
            if found and found["mean"] is not None:
                _draw_interval(axes, line, found)
                axes.plot(found["mean"], line, "o", color=OWN)
        for line, means in enumerate(TABLE_I.values(), len(summary["systems"])):
            axes.plot(means[score], line, "D", color=PUBLISHED)
    measured = Line2D([], [], marker="o", color=OWN, label="measured here, with its 95 % interval")
    paper = Line2D([], [], marker="D", color=PUBLISHED, linestyle="", label="the paper's, not measured here")
    figure.legend(handles=[measured, paper], loc="outside upper center", ncols=2, frameon=False)
    save(figure, path)


def _panels(
    scores: Sequence[str], systems: Sequence[str], line_inches: float = LINE_INCHES
) -> tuple[Figure, dict[str, Axes]]:
    """A plot for each score, in two columns, with a line for each system, the first at the top."""
    columns = min(COLUMNS, len(scores))
    rows = -(-len(scores) // columns)
    height = 0.6 + rows * (1.0 + line_inches * len(systems))
    figure = Figure(figsize=(PANEL_INCHES * columns, height), layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False, sharey=True)
    names = [drawable(system) for system in systems]
    labels = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…" for name in names]
    for unused in plots.flat[len(scores) :]:
        unused.set_visible(False)
    panels = dict(zip(scores, plots.flat, strict=False))
    for score, axes in panels.items():
        axes.set_title(find_score(score).title, loc="left", fontsize="medium", fontweight="bold")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.7)
        axes.grid(axis="x", color="0.93")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    return figure, panels


def _draw_interval(axes: Axes, line: int, found: Mapping[str, Any]) -> None:
    low, high = found.get("low"), found.get("high")
    if low is not None and high is not None:
        axes.plot([low, high], [line, line], color=OWN, linewidth=1.6, zorder=2)
