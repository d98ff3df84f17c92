from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from samuel.report.plots import (
    drawable,
    plot_loss,
    plot_spectrograms,
    plot_vocal_shares,
)


@pytest.mark.parametrize("least", [0.0, 0.33])
def test_the_histogram_counts_every_chunk_once(
    least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    shares = [0.0, 0.04, 0.05, 0.15, 0.31, 0.34, 0.5, 0.5, 0.4999, 0.999, 1.0]
    plot_vocal_shares(shares, least, tmp_path / "plot.png")
    bars = [bar for bar in drawn[0].axes[0].patches if isinstance(bar, Rectangle)]
    for kept, members in (
        (True, [share for share in shares if share >= least]),
        (False, [share for share in shares if share < least]),
    ):
        counts: dict[float, int] = {}
        for share in members:
            start = min(int(100 * share) // 5 * 5, 95) / 100
            counts[start] = counts.get(start, 0) + 1
        of_kind = [bar for bar in bars if (to_rgba(bar.get_facecolor())[0] < 0.5) == kept]  # blue, and grey
        assert {round(b.get_x(), 9): int(b.get_height()) for b in of_kind if b.get_height()} == counts
    half, mean = (np.asarray(line.get_xdata()).tolist() for line in drawn[0].axes[0].lines)
    assert half == [0.5, 0.5]
    assert mean == pytest.approx([sum(shares) / 11] * 2)
    words = [text.get_text() for text in drawn[0].legends[0].get_texts()]
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
def test_a_hostile_title_is_drawn_as_one_plain_line(title: str, drawn: str, tmp_path: Path) -> None:
    assert drawable(title) == drawn
    plot_spectrograms({"vocal": np.zeros((2, 44_100), dtype=np.float32)}, title, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_stem_s_name_is_no_mathematics(tmp_path: Path, figures: list[Figure]) -> None:
    plot_spectrograms({"a $x$ \\frac": np.zeros((2, 44_100), dtype=np.float32)}, "t", tmp_path / "plot.png")
    assert figures[0].axes[0].get_title() == r"a \$x\$ \frac"


def test_a_validation_without_another_song_is_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [{"step": n + 1, "v_mse": 1.0, "learning_rate": 0.1, "gradient_norm": 1.0} for n in range(4)]
    rows[-1]["validation_loss"] = 2.0
    plot_loss(rows, tmp_path / "loss.png")
    assert figures[0].axes[0].get_ylim()[1] == pytest.approx(2.1)
