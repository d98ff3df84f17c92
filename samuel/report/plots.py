"""Pictures of a run as PNG files: its training, its dataset, its tracks and its scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pandas as pd
import soundfile
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE
from samuel.evaluate.scores import find_score
from samuel.report.evaluation import Summary, followed
from samuel.report.html import probability

Metrics = Sequence[dict[str, Any]]

SMOOTHED_STEPS, MARKED_POINTS = 15, 40
COURSES = {"gradient_norm": "gradient norm,\nbefore clipping", "learning_rate": "learning rate"}
LATIN_END = 0x250  # of the blocks that matplotlib's own font covers whole
OWN, OTHER = "tab:blue", "0.45"
LONGEST_NAME, LINE_INCHES, SHARE_BINS = 34, 0.3, 20
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
    table = pd.DataFrame(metrics).set_index("step")
    below = [name for name in COURSES if name in table]
    figure = Figure(figsize=(8, 4 + 1.5 * len(below)), layout="constrained")
    axes = figure.subplots(1 + len(below), sharex=True, squeeze=False, height_ratios=[3, *[1] * len(below)])
    plot, *panels = axes[:, 0]
    errors, window = table["v_mse"], max(SMOOTHED_STEPS, len(table) // 50)
    smoothed = errors.rolling(window, center=True, min_periods=1).mean()
    plot.plot(errors, color="0.85", linewidth=0.8, zorder=1, label="training, each step")
    plot.plot(smoothed, color="tab:blue", label=f"training, mean over {window:,} steps")
    # A stray step does not set it.
    highest = [smoothed.max(), errors.quantile(0.995, interpolation="lower")]
    columns = ("validation_loss", "validation_shuffled")
    own, other = (table[name].dropna() if name in table else pd.Series(dtype=float) for name in columns)
    style = "o-" if len(own) <= MARKED_POINTS else "-"
    if len(other):
        plot.plot(other, style, color="tab:red", label="validation, another song's vocal")
    if len(own):
        plot.plot(own, style, color="tab:orange", label="validation, its own vocal")
        if own.index.equals(other.index):
            gain = {"color": "tab:red", "alpha": 0.2, "linewidth": 0, "zorder": 1.5}
            plot.fill_between(own.index, own, other, label="conditioning gain", **gain)
        plot.axvline(own.idxmin(), color="0.4", linestyle=":", label="the exported model")
    plot.set(ylabel="mean squared error of v", ylim=(0, 1.05 * max([*highest, *own, *other])))
    title = f"Training, {len(metrics):,} steps"
    figure.legend(loc="outside upper center", ncols=3, frameon=False, title=title, title_fontsize="large")
    for panel, name in zip(panels, below, strict=True):
        panel.plot(table[name].dropna(), color="tab:blue", linewidth=0.8)
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


def plot_vocal_shares(shares: Sequence[float], min_vocal_share: float, path: Path) -> None:
    """Draw a histogram of the vocal share of all chunks, their mean, and the half that the paper assumes."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes, measured = figure.subplots(), np.array(shares)
    kept = measured >= min_vocal_share
    edges = [edge / SHARE_BINS for edge in range(SHARE_BINS + 1)]
    parts = [(measured[kept], "tab:blue", "chunks of the dataset")]
    if not kept.all():
        parts.insert(0, (measured[~kept], "0.8", f"under {min_vocal_share:g}: left out"))
    values, colours, labels = (list(column) for column in zip(*parts, strict=True))
    axes.hist(values, bins=edges, stacked=True, color=colours, edgecolor="white", label=labels)
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

    Of a longer file, as many windows of 93 ms are read, evenly spread.
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
    figure = Figure(figsize=(8, 1.2 + LINE_INCHES * len(found)), layout="constrained")
    axes = figure.subplots()
    for line, item in enumerate(found):
        mean = summary["scores"].get(item.score, {}).get(item.system, {})
        if mean.get("low") is not None:
            axes.plot([mean["low"], mean["high"]], [line, line], color=OWN, linewidth=1.6, zorder=2)
        if item.own is not None and item.other is not None:
            axes.plot([item.other, item.own], [line, line], color="0.85", linewidth=4, zorder=1)
            axes.plot(item.other, line, "o", color=OTHER, markerfacecolor="white", zorder=3)
            axes.plot(item.own, line, "o", color=OWN, zorder=4)
        certain = "p not measured" if item.p_holm is None else f"p = {probability(item.p_holm)} after Holm"
        axes.annotate(
            f"n = {item.n}, {certain}", (1.01, line), xycoords=axes.get_yaxis_transform(), va="center"
        )
    labels = [f"{find_score(item.score).title}, {drawable(item.system)[:LONGEST_NAME]}" for item in found]
    axes.set_yticks(range(len(found)), labels)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(axis="x", color="0.93")
    hollow: dict[str, Any] = {"marker": "o", "color": OTHER, "markerfacecolor": "white", "linestyle": ""}
    handles = [
        Line2D([], [], marker="o", color=OWN, label="own vocal, with its 95 % interval"),
        Line2D([], [], **hollow, label="other songs' vocals"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    save(figure, path)
