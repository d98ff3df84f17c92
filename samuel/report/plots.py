"""Pictures of a run as PNG files: its training, its dataset, its tracks and its scores."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from samuel.audio import SAMPLE_RATE
from samuel.evaluate.cost import TABLE_I
from samuel.evaluate.scores import AUDIOBOX, find_score
from samuel.report.evaluation import Summary, followed
from samuel.report.html import probability

Metrics = Sequence[dict[str, Any]]

SMOOTHED_STEPS = 15
DRAWN_STEPS = 4000  # several for each pixel
MARKED_POINTS = 40
COURSES = {"gradient_norm": "gradient norm,\nbefore clipping", "learning_rate": "learning rate"}
LATIN_END = 0x250  # of the blocks that matplotlib's own font covers whole
SHARE_BINS = 20
OWN, OTHER, PUBLISHED = "tab:blue", "0.45", "0.6"
LINE_INCHES, PANEL_INCHES, COLUMNS = 0.55, 4.6, 2
LONGEST_NAME = 34
N_FFT, MEL_BANDS, RANGE_DB = 4096, 96, 80.0
MAX_COLUMNS = 1000  # of a spectrogram: more than a page has pixels
TICKS_HZ = (125, 500, 2000, 8000)
GREY = "#808080"  # to be read on a light page and on a dark one


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a PNG; the same figure gives the same bytes."""
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": ""})


def drawable(title: str) -> str:
    """A title, which is hostile text, as one short line that matplotlib draws as it is."""
    line = " ".join(title.split())[:80]
    shown = "".join(c if c.isprintable() and ord(c) < LATIN_END else "?" for c in line)
    return shown.replace("$", r"\$")  # no mathematics


def plot_loss(metrics: Metrics, path: Path) -> None:
    """Draw the error of v over the steps, raw, smoothed and validated, and what else was measured."""
    below = [name for name in COURSES if any(name in row for row in metrics)]
    figure = Figure(figsize=(8, 4 + 1.5 * len(below)), layout="constrained")
    axes = figure.subplots(1 + len(below), sharex=True, squeeze=False, height_ratios=[3, *[1] * len(below)])
    plot, *panels = axes[:, 0]
    steps, errors = series(metrics, "v_mse")
    window = max(SMOOTHED_STEPS, len(steps) // 50)
    smoothed = smooth(errors, window)
    drawn = slice(None, None, math.ceil(len(steps) / DRAWN_STEPS))
    label = "training, each step" if drawn.step == 1 else f"training, one step in {drawn.step}"
    plot.plot(steps[drawn], errors[drawn], color="0.85", linewidth=0.8, zorder=1, label=label)
    plot.plot(steps[drawn], smoothed[drawn], color="tab:blue", label=f"training, mean over {window:,} steps")
    highest = [smoothed.max(), np.quantile(errors, 0.995, method="lower")]  # which a stray step does not set
    validated, own = series(metrics, "validation_loss")
    other_validated, other = series(metrics, "validation_shuffled")
    style = "o-" if len(own) <= MARKED_POINTS else "-"
    if len(other):
        plot.plot(other_validated, other, style, color="tab:red", label="validation, another song's vocal")
    if len(own):
        plot.plot(validated, own, style, color="tab:orange", label="validation, its own vocal")
        if np.array_equal(validated, other_validated):
            gain = {"color": "tab:red", "alpha": 0.2, "linewidth": 0, "zorder": 1.5}
            plot.fill_between(validated, own, other, label="conditioning gain", **gain)
        plot.axvline(validated[np.argmin(own)], color="0.4", linestyle=":", label="the exported model")
    plot.set(ylabel="mean squared error of v", ylim=(0, 1.05 * max([*highest, *own, *other])))
    title = f"Training, {len(metrics):,} steps"
    figure.legend(loc="outside upper center", ncols=3, frameon=False, title=title, title_fontsize="large")
    for panel, name in zip(panels, below, strict=True):
        steps, values = series(metrics, name)
        panel.plot(steps[drawn], values[drawn], color="tab:blue", linewidth=0.8)
        panel.set_ylabel(COURSES[name])
        if name == "gradient_norm":
            panel.set_yscale("log")
        else:
            panel.set_ylim(0, None)
            panel.ticklabel_format(axis="y", scilimits=(0, 0))
    for panel in axes[:, 0]:
        panel.grid(color="0.93")
    axes[-1, 0].set_xlabel("step")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1, 0].xaxis.set_major_formatter("{x:,.0f}")
    save(figure, path)


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
    measured = np.array(shares)
    kept = measured >= min_vocal_share
    parts = {f"under {min_vocal_share:g}: left out": measured[~kept], "chunks of the dataset": measured[kept]}
    first = 1 if kept.all() else 0
    edges = [edge / SHARE_BINS for edge in range(SHARE_BINS + 1)]
    axes.hist(
        list(parts.values())[first:], bins=edges, stacked=True,
        color=["0.8", "tab:blue"][first:], edgecolor="white", label=list(parts)[first:],
    )  # fmt: skip
    half, mean = np.mean(measured >= 0.5), measured.mean()
    axes.axvline(0.5, color="tab:orange", label=f"the paper's half: reached by {half:.0%} of all chunks")
    axes.axvline(float(mean), color="black", linestyle="--", label=f"mean of all chunks: {mean:.2f}")
    axes.set(xlabel="vocal share of a chunk", ylabel="chunks", xlim=(0, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2)
    save(figure, path)


def plot_spectrograms(tracks: Mapping[str, Path], path: Path) -> None:
    """Draw mel spectrograms of audio at 44.1 kHz, one above the other, on a transparent background."""
    figure = Figure(figsize=(9, 2.0 * len(tracks)), layout="constrained", facecolor="none")
    axes = figure.subplots(len(tracks), 1, sharex=True, squeeze=False)[:, 0]
    ticks = band_of(TICKS_HZ, MEL_BANDS)
    for plot, (name, track) in zip(axes, tracks.items(), strict=True):
        plot.imshow(
            mel_spectrogram(track), extent=(0, soundfile.info(track).duration, 0, MEL_BANDS), origin="lower",
            aspect="auto", vmin=-RANGE_DB, vmax=0, cmap="magma", interpolation="nearest",
        )  # fmt: skip
        plot.set_title(drawable(name), loc="left", color=GREY, fontsize=10)
        plot.set_yticks(ticks, [f"{hertz / 1000:g}" for hertz in TICKS_HZ])
        plot.set_ylabel("kHz", color=GREY)
        plot.tick_params(colors=GREY)
        plot.spines[:].set_visible(False)
        plot.label_outer()
    axes[-1].set_xlabel("seconds", color=GREY)
    save(figure, path)


def mel_spectrogram(track: Path) -> NDArray[np.float32]:
    """Measure levels of a file's mean channel in dB under its loudest, (96 mel bands, at most 1000 columns).

    Of a longer file, as many windows of 93 ms are read as there are columns, evenly spread: time and memory
    are the same however long it is.
    """
    with soundfile.SoundFile(track) as file:
        columns = max(1, min(MAX_COLUMNS, -(-file.frames // (N_FFT // 2))))
        windows = np.empty((columns, N_FFT))
        for column, start in enumerate(np.linspace(0, max(file.frames - N_FFT, 0), columns, dtype=int)):
            file.seek(start)
            windows[column] = file.read(N_FFT, always_2d=True, fill_value=0.0).mean(axis=1)
    spectra = np.abs(np.fft.rfft(windows * np.hanning(N_FFT))) ** 2
    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=MEL_BANDS)
    return librosa.power_to_db(bands @ spectra.T, ref=np.max, top_db=RANGE_DB).astype(np.float32)


def band_of(frequencies_hz: Sequence[float], bands: int) -> NDArray[np.float64]:
    """Places of frequencies on the axis of a mel spectrogram; band b is drawn from b to b + 1."""
    centres_hz = librosa.mel_frequencies(n_mels=bands + 2, fmin=0.0, fmax=SAMPLE_RATE / 2)[1:-1]
    return np.interp(frequencies_hz, centres_hz, np.arange(bands)) + 0.5


def plot_following(summary: Summary, path: Path) -> None:
    """Draw every score that follows the vocal: own vocal with its interval, and other songs' vocals."""
    found = followed(summary)
    figure, panels = _panels(list(dict.fromkeys(item.score for item in found)), summary["systems"])
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
    hollow: dict[str, Any] = {"color": OTHER, "markerfacecolor": "white", "linestyle": ""}
    handles = [
        Line2D([], [], marker="o", color=OWN, label="own vocal, with its 95 % interval"),
        Line2D([], [], marker="o", label="other songs' vocals", **hollow),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
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
    handles = [
        Line2D([], [], marker="o", color=OWN, label="measured here, with its 95 % interval"),
        Line2D([], [], marker="D", color=PUBLISHED, linestyle="", label="the paper's, not measured here"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
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
    if found.get("low") is not None:
        axes.plot([found["low"], found["high"]], [line, line], color=OWN, linewidth=1.6, zorder=2)
