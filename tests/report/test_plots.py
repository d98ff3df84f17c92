from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from samuel.report.plots import (
    OTHER,
    OWN,
    drawable,
    plot_audiobox,
    plot_following,
    plot_loss,
    plot_spectrograms,
    plot_vocal_shares,
    smooth,
)
from tests.report.evaluations import OURS, REAL, followed, interval, summary
from tests.report.evaluations import OWN as MEANS

HOSTILE = "a $\\frac$ \x1b[31m" + "W" * 100
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


def of(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def test_smoothing_is_the_mean_of_what_is_near() -> None:
    values = np.random.default_rng(0).lognormal(size=60)
    for window in (1, 5, 15):
        near = [values[max(0, i - window // 2) : i + window // 2 + 1].mean() for i in range(60)]
        assert smooth(values, window) == pytest.approx(near)
    assert smooth(np.full(4, 3.0)) == pytest.approx(np.full(4, 3.0))  # shorter than the window
    many = np.random.default_rng(1).lognormal(size=200_000)
    assert smooth(many, 4001)[100_000] == pytest.approx(many[98_000:102_001].mean(), rel=1e-9)


def test_the_loss_plot_shows_what_was_measured(tmp_path: Path, figures: list[Figure]) -> None:
    rows = training()
    plot_loss(rows, tmp_path / "loss.png")
    errors, norm, rate = figures[0].axes
    found = curves(errors)
    assert found["training, each step"] == of(rows, "v_mse")
    assert found["training, mean over 15 steps"][1] == pytest.approx(smooth(np.array(of(rows, "v_mse")[1])))
    assert found["validation, its own vocal"] == of(rows, "validation_loss")
    assert found["validation, another song's vocal"] == of(rows, "validation_shuffled")
    assert found["the exported model"][0] == [20, 20]
    assert list(curves(norm).values()) == [of(rows, "gradient_norm")]
    assert norm.get_yscale() == "log"
    assert list(curves(rate).values()) == [of(rows, "learning_rate")]
    labels = [plot.get_ylabel() for plot in (errors, norm, rate)]
    assert labels == ["mean squared error of v", "gradient norm,\nbefore clipping", "learning rate"]
    assert rate.get_xlabel() == "step"
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_loss_plot_without_what_was_not_measured(tmp_path: Path, figures: list[Figure]) -> None:
    rows = without(training(), "validation_shuffled", "gradient_norm", "learning_rate")
    plot_loss(rows, tmp_path / "loss.png")
    plot_loss(without(rows, "validation_loss"), tmp_path / "loss.png")
    trained = {"training, each step", "training, mean over 15 steps"}
    validated, untested = (figure.axes for figure in figures)
    assert [set(curves(axes)) for axes in validated] == [
        trained | {"validation, its own vocal", "the exported model"}
    ]
    assert [set(curves(axes)) for axes in untested] == [trained]


def test_a_long_training_is_drawn_in_few_points(tmp_path: Path, figures: list[Figure]) -> None:
    plot_loss(training(50_000), tmp_path / "loss.png")
    errors = curves(figures[0].axes[0])
    steps, values = errors["training, one step in 13"]
    assert steps == list(range(1, 50_001, 13))
    assert values == [1.0 - 0.02 * step for step in steps]
    assert len(errors["training, mean over 1,000 steps"][0]) == len(steps)


@pytest.mark.parametrize("least", [0.0, 0.33])
def test_the_histogram_counts_every_chunk_once(least: float, tmp_path: Path, figures: list[Figure]) -> None:
    shares = [0.0, 0.04, 0.05, 0.15, 0.31, 0.34, 0.5, 0.5, 0.4999, 0.999, 1.0]
    plot_vocal_shares(shares, least, tmp_path / "plot.png")
    bars = [bar for bar in figures[0].axes[0].patches if isinstance(bar, Rectangle)]
    for kept in (True, False):
        counts: dict[float, int] = {}
        for share in (share for share in shares if (share >= least) == kept):
            start = min(int(100 * share) // 5 * 5, 95) / 100
            counts[start] = counts.get(start, 0) + 1
        of_kind = [bar for bar in bars if (to_rgba(bar.get_facecolor())[0] < 0.5) == kept]  # blue, and grey
        assert {round(b.get_x(), 9): int(b.get_height()) for b in of_kind if b.get_height()} == counts
    half, mean = (xy(line)[0] for line in figures[0].axes[0].lines)
    assert half == [0.5, 0.5]
    assert mean == pytest.approx([sum(shares) / 11] * 2)
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert any("36% of all chunks" in line for line in words)
    assert any("left out" in line for line in words) == (least > 0)


@pytest.mark.parametrize(
    ("title", "drawn"),
    [
        ("$1 \x1b[31m\nred", r"\$1 ?[31m red"),
        ("愛 \N{GUITAR}", "? ?"),
        ("x" * 300, "x" * 80),
        ("Beyoncé", "Beyoncé"),
    ],
)
def test_a_hostile_title_is_drawn_as_one_plain_line(
    title: str, drawn: str, tmp_path: Path, figures: list[Figure]
) -> None:
    assert drawable(title) == drawn
    plot_spectrograms({title: np.zeros((2, 44_100), dtype=np.float32)}, title, tmp_path / "plot.png")
    assert figures[0].axes[0].get_title() == figures[0].get_suptitle() == drawn


def points(axes: Axes, colour: str) -> list[tuple[float, float]]:
    """Where the dots of a colour are, from the top."""
    lines = [line for line in axes.lines if line.get_marker() in {"o", "D"}]
    found = [xy(line) for line in lines if to_hex(line.get_color()) == to_hex(colour)]
    return sorted((y, x) for xs, ys in found for x, y in zip(xs, ys, strict=True))


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}


def test_every_system_has_its_dots_where_the_numbers_are(tmp_path: Path, figures: list[Figure]) -> None:
    plot_following(summary(), tmp_path / "following.png")
    drawn = panels(figures[0])
    assert list(drawn) == ["chroma likeness", "beat F1", "onset correlation", "key agreement"]
    for axes, own in zip(drawn.values(), MEANS.values(), strict=True):
        assert [x for _, x in points(axes, OWN)] == pytest.approx(list(own))
        others = [own[0] - 0.2, own[1] - 0.15, own[2] - 0.09]
        assert [x for _, x in points(axes, OTHER)] == pytest.approx(others)
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first at the top
    labels = [label.get_text() for label in drawn["chroma likeness"].get_yticklabels()]
    assert labels == [REAL, "real (through the codec)", OURS]
    thin = [line for line in drawn["beat F1"].lines if 1 < line.get_linewidth() < 2 and len(xy(line)[0]) == 2]
    assert xy(thin[2])[0] == pytest.approx([0.28, 0.34])
    assert [text.get_text() for text in drawn["beat F1"].texts][2] == "n = 20, p = 0.048 after Holm"
    for line in drawn["beat F1"].lines:
        if line.get_marker() == "o":
            hollow = to_rgba(line.get_markerfacecolor())[:3] == (1, 1, 1)
            assert hollow == (to_hex(line.get_color()) == to_hex(OTHER))


def test_what_was_not_measured_is_not_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    nothing = {"n": 0, "own": None, "other": None, "difference": None, "p": None, "p_least": None}
    following = {"beat_f1": {OURS: nothing, HOSTILE: followed(0.5, 0.4, 0.01)}}
    found = summary(systems=[OURS, HOSTILE, "absent"], scores={}, following=following)
    plot_following(found, tmp_path / "p.png")
    (axes,) = panels(figures[0]).values()
    assert points(axes, OWN) == [(1, 0.5)]
    notes = [text.get_text() for text in axes.texts]
    assert notes == ["n = 0, p not measured", "n = 20, p = 0.010 after Holm"]
    assert axes.get_yticklabels()[1].get_text().startswith(r"a \$\frac\$ ?[31mWWW")


def test_the_papers_scores_are_grey_marks_beside_ours(tmp_path: Path, figures: list[Figure]) -> None:
    scores = {"PQ": {OURS: interval(6.5)}, "CE": {OURS: {"n": 0, "mean": None, "low": None, "high": None}}}
    plot_audiobox(summary(systems=[OURS], scores=scores), tmp_path / "audiobox.png")
    drawn = panels(figures[0])
    assert len(drawn) == 4
    quality = drawn["PQ, production quality"]
    assert points(quality, OWN) == [(0, 6.5)]
    assert [x for _, x in points(quality, "0.6")] == [7.92, 7.99, 7.54, 5.30, 5.73]
    assert points(drawn["CE, content enjoyment"], OWN) == []
    labels = [label.get_text() for label in quality.get_yticklabels()]
    assert (labels[0], labels[-1]) == (OURS, "paper: SAMUeL")
