"""Pictures of a run, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from samuel.audio import SAMPLE_RATE, Audio
from samuel.evaluate.signal import HOP, log_mel_db

LATIN_END = 0x250  # of the blocks that matplotlib's own font covers whole
SHARE_BINS = 20


def plot_loss(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Training error of v, raw and smoothed, and validation loss, over the steps."""
    steps = np.array([row["step"] for row in metrics])
    errors = np.array([row["v_mse"] for row in metrics])
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, errors, color="0.8", linewidth=0.8, label="training, each step")
    axes.plot(steps, smooth(errors), color="tab:blue", label="training, smoothed")
    held = [(row["step"], row["validation_loss"]) for row in metrics if "validation_loss" in row]
    axes.plot(*zip(*held, strict=True), "o-", color="tab:orange", label="validation, averaged weights")
    axes.set(xlabel="step", ylabel="mean squared error of v", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def plot_vocal_shares(shares: Sequence[float], min_vocal_share: float, path: Path) -> None:
    """Histogram of the vocal share of all chunks, the mean, and the half that the paper assumes (§III)."""
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
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def smooth(values: NDArray[np.float64], window: int = 15) -> NDArray[np.float64]:
    """Centred moving average; near the ends, over the values there are."""
    kernel = np.ones(min(window, len(values)))
    counts = np.convolve(np.ones(len(values)), kernel, mode="same")
    return np.convolve(values, kernel, mode="same") / counts


def drawable(title: str) -> str:
    """A title, which is hostile text, as one short line that matplotlib draws as it is.

    Without control characters, and without what its font lacks; a dollar sign would start mathematics.
    """
    line = " ".join(title.split())[:80]
    return "".join(c if c.isprintable() and ord(c) < LATIN_END else "?" for c in line).replace("$", r"\$")


def plot_spectrograms(stems: dict[str, Audio], title: str, path: Path) -> None:
    """Mel spectrograms one above the other, on one time axis and one colour scale (dB)."""
    figure = Figure(figsize=(9, 2.2 * len(stems)), layout="constrained")
    axes = figure.subplots(len(stems), 1, sharex=True, squeeze=False)[:, 0]
    image = None
    for plot, (name, audio) in zip(axes, stems.items(), strict=True):
        levels = log_mel_db(audio)
        seconds = levels.shape[1] * HOP / SAMPLE_RATE
        image = plot.imshow(
            levels, origin="lower", aspect="auto", extent=(0, seconds, 0, levels.shape[0]), vmin=-80, vmax=0
        )
        plot.set(title=name, ylabel="mel band")
    axes[-1].set_xlabel("seconds")
    figure.suptitle(drawable(title))
    if image is not None:
        figure.colorbar(image, ax=axes, label="dB")
    figure.savefig(path, dpi=90, metadata={"Software": ""})
