from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from samuel.report.plots import (
    MAX_COLUMNS,
    MEL_BANDS,
    OTHER,
    OWN,
    drawable,
    mel_spectrogram,
    plot_following,
    plot_loss,
    plot_spectrograms,
    plot_vocal_shares,
)
from tests.report.evaluations import OURS, REAL, followed, noise, summary
from tests.report.evaluations import OWN as MEANS

HOSTILE = "a $\\frac$ \x1b[31m\n愛 " + "W" * 100
Rows = list[dict[str, Any]]


def training(steps: int = 30, *, gpu: bool = False) -> Rows:
    """Rows as a training writes them; it validates at every tenth step and is best at step 20."""
    rows = []
    for step in range(1, steps + 1):
        row: dict[str, Any] = {"step": step, "loss": 0.1, "v_mse": 1.0 - 0.02 * step}
        row |= {"learning_rate": 1e-3 / step, "gradient_norm": 0.1 * step}
        row |= {"seconds": 0.004 * step, "pairs_per_s": 4000.0 + step}
        if gpu:
            row["memory_mb"] = 9000.0 + step % 7
        if step % 10 == 0:
            loss = 0.6 if step == 20 else 0.65
            row |= {"validation_loss": loss, "validation_shuffled": loss + 0.001 * step}
            row["conditioning_gain_error"] = 0.0001 * step
        rows.append(row)
    return rows


def without(rows: Rows, *names: str) -> Rows:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def xy(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def curves(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {str(line.get_label()): xy(line) for line in axes.lines}


def test_the_loss_plot_shows_what_was_measured(tmp_path: Path, figures: list[Figure]) -> None:
    def of(rows: Rows, name: str) -> tuple[list[float], list[float]]:
        found = [(row["step"], row[name]) for row in rows if name in row]
        return [step for step, _ in found], [value for _, value in found]

    rows = training()
    plot_loss(rows, tmp_path / "loss.png")
    errors, norm, rate = figures[0].axes
    found = curves(errors)
    assert found["training, each step"] == of(rows, "v_mse")
    values = of(rows, "v_mse")[1]
    near = [np.mean(values[max(0, i - 7) : i + 8]) for i in range(30)]  # near the ends, over what there is
    assert found["training, mean over 15 steps"][1] == pytest.approx(near)
    assert found["validation, its own vocal"] == of(rows, "validation_loss")
    assert found["validation, another song's vocal"] == of(rows, "validation_shuffled")
    assert found["the exported model"][0] == [20, 20]
    assert list(curves(norm).values()) == [of(rows, "gradient_norm")]
    assert list(curves(rate).values()) == [of(rows, "learning_rate")]
    rows = without(rows, "validation_shuffled", "gradient_norm", "learning_rate")
    plot_loss(rows, tmp_path / "loss.png")
    plot_loss(without(rows, "validation_loss"), tmp_path / "loss.png")
    trained = {"training, each step", "training, mean over 15 steps"}
    assert [[set(curves(axes)) for axes in figure.axes] for figure in figures[1:]] == [
        [trained | {"validation, its own vocal", "the exported model"}], [trained],
    ]  # fmt: skip


def test_the_histogram_counts_every_chunk_once(tmp_path: Path, figures: list[Figure]) -> None:
    shares = [0.0, 0.04, 0.05, 0.15, 0.31, 0.34, 0.5, 0.5, 0.4999, 0.999, 1.0]
    plot_vocal_shares(shares, 0.33, tmp_path / "plot.png")
    bars = [bar for bar in figures[0].axes[0].patches if isinstance(bar, Rectangle)]
    for kept in (True, False):
        part = [share for share in shares if (share >= 0.33) == kept]
        counts, _ = np.histogram(part, 20, (0, 1))
        of_kind = [bar for bar in bars if (to_rgba(bar.get_facecolor())[0] < 0.5) == kept]  # blue, and grey
        assert sorted(bar.get_height() for bar in of_kind if bar.get_height()) == sorted(counts[counts > 0])
    half, mean = (xy(line)[0] for line in figures[0].axes[0].lines)
    assert (half, mean) == ([0.5, 0.5], pytest.approx([sum(shares) / 11] * 2))
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert any("36% of all chunks" in line for line in words)


def test_a_spectrogram_shows_each_tone_in_its_band_and_time(tmp_path: Path, figures: list[Figure]) -> None:
    time_s = np.arange(20 * 44_100) / 44_100
    tone = np.sin(2 * np.pi * np.where(time_s < 10, 440, 4000) * time_s)
    soundfile.write(tmp_path / "tones.wav", np.stack([tone, tone], axis=1), 44_100)
    levels = mel_spectrogram(tmp_path / "tones.wav")
    centres_hz = librosa.mel_frequencies(n_mels=MEL_BANDS + 2, fmax=22_050)[1:-1]
    loudest_hz = centres_hz[levels.argmax(axis=0)]
    half = levels.shape[1] // 2
    assert loudest_hz[: half - 3] == pytest.approx(440, rel=0.1)
    assert loudest_hz[half + 3 :] == pytest.approx(4000, rel=0.1)
    assert levels.max() == 0.0
    plot_spectrograms({HOSTILE: tmp_path / "tones.wav"}, tmp_path / "plot.png")
    (plot,) = figures[0].axes
    np.testing.assert_allclose(np.asarray(plot.images[0].get_array()), levels)
    assert plot.get_title(loc="left") == drawable(HOSTILE) == r"a \$\frac\$ ?[31m ? " + "W" * 62
    for seconds, columns in ((0.01, 1), (1.0, 22), (100.0, MAX_COLUMNS)):  # no larger for longer audio
        soundfile.write(tmp_path / "noise.flac", noise(seconds).T, 44_100)
        assert mel_spectrogram(tmp_path / "noise.flac").shape == (MEL_BANDS, columns)


def points(axes: Axes, colour: str) -> list[tuple[float, float]]:
    """Where the dots of a colour are, from the top."""
    lines = [line for line in axes.lines if line.get_marker() in {"o", "D"}]
    found = [xy(line) for line in lines if to_hex(line.get_color()) == to_hex(colour)]
    return sorted((y, x) for xs, ys in found for x, y in zip(xs, ys, strict=True))


def test_every_system_has_its_dots_where_the_numbers_are(tmp_path: Path, figures: list[Figure]) -> None:
    plot_following(summary(), tmp_path / "following.png")
    (axes,) = figures[0].axes
    own = [mean for means in MEANS.values() for mean in means]
    assert [x for _, x in points(axes, OWN)] == pytest.approx(own)
    gains = [0.2, 0.15, 0.09] * 4
    others = [mean - gain for mean, gain in zip(own, gains, strict=True)]
    assert [x for _, x in points(axes, OTHER)] == pytest.approx(others)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first at the top
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:3] == [f"chroma likeness, {name}" for name in (REAL, "real (through the codec)", OURS)]
    thin = [line for line in axes.lines if 1 < line.get_linewidth() < 2 and len(xy(line)[0]) == 2]
    assert xy(thin[5])[0] == pytest.approx([0.28, 0.34])
    assert [text.get_text() for text in axes.texts][5] == "n = 20, p = 0.048 after Holm"
    nothing = {"n": 0, "own": None, "other": None, "difference": None, "p": None, "p_least": None}
    following = {"beat_f1": {OURS: nothing, HOSTILE: followed(0.5, 0.4, 0.01)}}
    found = summary(systems=[OURS, HOSTILE, "absent"], scores={}, following=following)
    plot_following(found, tmp_path / "p.png")
    (axes,) = figures[1].axes
    assert points(axes, OWN) == [(1, 0.5)]
    notes = [text.get_text() for text in axes.texts]
    assert notes == ["n = 0, p not measured", "n = 20, p = 0.010 after Holm"]
    assert axes.get_yticklabels()[1].get_text().startswith(r"beat F1, a \$\frac\$ ?[31m ? WWW")
