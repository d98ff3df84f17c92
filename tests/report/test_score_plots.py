from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samuel.report.plots import (
    OTHER,
    OWN,
    plot_audiobox,
    plot_following,
)
from tests.report.evaluations import (
    OURS,
    REAL,
    followed,
    interval,
    summary,
)
from tests.report.evaluations import OWN as MEANS

HOSTILE = "a $\\frac$ \x1b[31m" + "W" * 100


def points(axes: Axes, colour: str) -> list[tuple[float, float]]:
    """Where the dots of a colour are, from the top."""
    lines = [
        line
        for line in axes.lines
        if line.get_marker() in {"o", "D"} and to_hex(line.get_color()) == to_hex(colour)
    ]
    return sorted((float(y), float(x)) for line in lines for x, y in zip(*xy(line), strict=True))


def xy(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}


def test_every_system_has_its_dots_where_the_numbers_are(tmp_path: Path, figures: list[Figure]) -> None:
    plot_following(summary(), tmp_path / "following.png")
    drawn = panels(figures[0])
    assert list(drawn) == ["chroma likeness", "beat F1", "onset correlation", "key agreement"]
    for axes, own in zip(drawn.values(), MEANS.values(), strict=True):
        assert [x for _, x in points(axes, OWN)] == pytest.approx(list(own))
        assert [x for _, x in points(axes, OTHER)] == pytest.approx(
            [own[0] - 0.2, own[1] - 0.15, own[2] - 0.09]
        )
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first at the top
    labels = [label.get_text() for label in drawn["chroma likeness"].get_yticklabels()]
    assert labels == [REAL, "real (through the codec)", OURS]
    thin = [line for line in drawn["beat F1"].lines if 1 < line.get_linewidth() < 2 and len(xy(line)[0]) == 2]
    bars = [xy(line)[0] for line in thin]
    assert bars[2] == pytest.approx([0.28, 0.34])
    notes = [text.get_text() for text in drawn["beat F1"].texts]
    assert notes[2] == "n = 20, p = 0.048 after Holm"
    assert (tmp_path / "following.png").read_bytes().startswith(b"\x89PNG")


def test_other_vocals_are_hollow(tmp_path: Path, figures: list[Figure]) -> None:
    plot_following(summary(), tmp_path / "following.png")
    for line in figures[0].axes[0].lines:
        if line.get_marker() == "o":
            hollow = to_rgba(line.get_markerfacecolor())[:3] == (1, 1, 1)
            assert hollow == (to_hex(line.get_color()) == to_hex(OTHER))


def test_what_was_not_measured_is_not_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    nothing = {"n": 0, "own": None, "other": None, "difference": None, "p": None}
    following = {"beat_f1": {OURS: nothing, HOSTILE: followed(0.5, 0.4, 0.01)}}
    plot_following(
        summary(systems=[OURS, HOSTILE, "absent"], scores={}, following=following), tmp_path / "p.png"
    )
    (axes,) = panels(figures[0]).values()
    assert points(axes, OWN) == [(1, 0.5)]
    assert [text.get_text() for text in axes.texts] == [
        "n = 0, p not measured",
        "n = 20, p = 0.010 after Holm",
    ]
    assert axes.get_yticklabels()[1].get_text().startswith(r"a \$\frac\$ ?[31mWWW")


def test_the_paper_s_scores_are_grey_marks_beside_ours(tmp_path: Path, figures: list[Figure]) -> None:
    scores = {"PQ": {OURS: interval(6.5)}, "CE": {OURS: {"n": 0, "mean": None, "low": None, "high": None}}}
    plot_audiobox(summary(systems=[OURS], scores=scores), tmp_path / "audiobox.png")
    drawn = panels(figures[0])
    assert len(drawn) == 4
    quality = drawn["PQ, production quality"]
    assert points(quality, OWN) == [(0, 6.5)]
    assert [x for _, x in points(quality, "0.6")] == [7.92, 7.99, 7.54, 5.30, 5.73]
    assert points(drawn["CE, content enjoyment"], OWN) == []
    labels = [label.get_text() for label in quality.get_yticklabels()]
    assert labels[0] == OURS
    assert labels[-1] == "paper: SAMUeL"
