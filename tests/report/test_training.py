"""What the report says of the dataset and of the training, and draws of the latter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samuel.artifacts import Artifact, make_artifact
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from samuel.report.plots import plot_loss, smooth
from samuel.report.report import (
    caveats,
    training_section,
    training_summary,
    vocal_share_report,
)
from tests.lines import append_line
from tests.popdb.latents import encoded_song, small_settings

Rows = list[dict[str, Any]]


def measured(steps: int = 30, *, gpu: bool = False) -> Rows:
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


def before(rows: Rows) -> Rows:
    """The same as an earlier version wrote them."""
    new = {"pairs_per_s", "memory_mb", "validation_shuffled", "conditioning_gain_error"}
    return [{name: value for name, value in row.items() if name not in new} for row in rows]


def model_entry(root: Path, rows: Rows) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        for row in rows:
            append_line(folder / "metrics.jsonl", row)
        progress = {"step": 30, "best_loss": 0.6, "best_step": 20}
        return {"training": {"batch_size": 16}, "progress": progress, "held_out": True}

    return make_artifact(root / "model", make)


def curves(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
    }


def of(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def section_of(root: Path, rows: Rows) -> str:
    return training_section(model_entry(root, rows), rows)


def test_smoothing_is_the_mean_of_what_is_near() -> None:
    values = np.random.default_rng(0).lognormal(size=60)
    for window in (1, 5, 15):
        near = [values[max(0, i - window // 2) : i + window // 2 + 1].mean() for i in range(60)]
        assert smooth(values, window) == pytest.approx(near)
    assert smooth(np.full(4, 3.0)) == pytest.approx(np.full(4, 3.0))  # shorter than the window


def test_a_long_training_is_smoothed_as_exactly() -> None:
    values = np.random.default_rng(1).lognormal(size=200_000)
    found = smooth(values, 4001)
    for place in (0, 100_000, 199_999):
        assert found[place] == pytest.approx(values[max(0, place - 2000) : place + 2001].mean(), rel=1e-9)


def test_the_plot_shows_what_was_measured(tmp_path: Path, figures: list[Figure]) -> None:
    rows = measured()
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


def test_the_plot_of_an_earlier_version_s_training(tmp_path: Path, figures: list[Figure]) -> None:
    plot_loss(before(measured()), tmp_path / "loss.png")
    assert set(curves(figures[0].axes[0])) == {
        "training, each step", "training, mean over 15 steps", "validation, its own vocal",
        "the exported model",
    }  # fmt: skip
    least = [{"step": row["step"], "v_mse": row["v_mse"]} for row in measured()]
    plot_loss(least, tmp_path / "least.png")
    (errors,) = figures[1].axes
    assert set(curves(errors)) == {"training, each step", "training, mean over 15 steps"}


@pytest.mark.parametrize("steps", [20, 300])
def test_a_stray_step_does_not_flatten_the_plot(steps: int, tmp_path: Path, figures: list[Figure]) -> None:
    rows = measured(steps)
    for row in rows:
        row["v_mse"] = 0.5
    rows[10]["v_mse"] = 8.0
    plot_loss(rows, tmp_path / "loss.png")
    assert figures[0].axes[0].get_ylim()[1] < 2


def test_a_long_training_is_drawn_in_few_points(tmp_path: Path, figures: list[Figure]) -> None:
    plot_loss(measured(50_000), tmp_path / "loss.png")
    errors = curves(figures[0].axes[0])
    steps, values = errors["training, one step in 13"]
    assert steps == list(range(1, 50_001, 13))
    assert values == [1.0 - 0.02 * step for step in steps]
    assert len(errors["training, mean over 1,000 steps"][0]) == len(steps)


def test_the_summary_of_a_fit(tmp_path: Path) -> None:
    summary = training_summary(model_entry(tmp_path, []), measured(gpu=True))
    assert summary == {
        "steps": 30, "first": pytest.approx(0.89), "last": pytest.approx(0.49), "validation": 0.6,
        "best_step": 20, "seconds_per_step": pytest.approx(0.062), "shuffled": pytest.approx(0.62),
        "gain_error": 0.002,
        "pairs_per_s": 4015.5, "memory_mb": 9006.0,
    }  # fmt: skip


def test_the_summary_of_an_earlier_version_s_fit(tmp_path: Path) -> None:
    rows: Rows = [{"v_mse": float(i), "seconds": 0.1 * i} for i in range(1, 31)]
    summary = training_summary(model_entry(tmp_path, []), rows)
    assert (summary["first"], summary["last"], summary["steps"]) == (5.5, 25.5, 30)
    assert summary.keys() == {"steps", "first", "last", "validation", "best_step", "seconds_per_step"}


def test_the_report_tells_pace_memory_and_conditioning_gain(tmp_path: Path) -> None:
    text = section_of(tmp_path, measured(gpu=True))
    assert (
        "30 steps of 16 pairs, 62.0 ms a step, 4,015.5 pairs a second (median); at most 9,006 MB of" in text
    )
    assert "Conditioning gain: 0.0200 ± 0.0020 (standard error over the pairs)." in text
    assert "of another song: 0.6000 with its own, 0.6200 shuffled." in text


def test_the_report_of_an_earlier_version_s_training(tmp_path: Path) -> None:
    text = section_of(tmp_path, before(measured(gpu=True)))
    assert "62.0 ms a step (median). Mean squared error" in text
    assert "Conditioning gain: not measured" in text
    assert "memory" not in text


def described(popdb: Popdb, **info: Any) -> Popdb:
    return replace(popdb, state=replace(popdb.state, info=popdb.info | info))


def test_the_vocal_share_is_that_of_all_chunks_whatever_was_left_out(tmp_path: Path) -> None:
    songs = [encoded_song(tmp_path, "a", 3), encoded_song(tmp_path, "b")]
    for song, shares in zip(songs, ((0.2, 0.55, 0.9), (0.1, 0.5)), strict=True):
        for chunk, share in zip(song.record["chunks"], shares, strict=True):
            chunk["vocal_share"] = share
    popdb = write_popdb(songs, small_settings(tmp_path, popdb={"min_vocal_share": 0.15}))
    text = vocal_share_report(popdb, tmp_path)
    assert "5 chunks of 2.97 s: 0.450 on average; 3 of them (60.0%)" in text
    assert "`popdb.min_vocal_share` = 0.15: 1 of the chunks left out." in text
    assert (tmp_path / "vocal-share.png").read_bytes().startswith(b"\x89PNG")
    everything = write_popdb(songs, small_settings(tmp_path))
    assert "`popdb.min_vocal_share` = 0: all kept" in vocal_share_report(everything, tmp_path)


def test_caveats_name_the_embedded_parts_alone(tmp_path: Path) -> None:
    popdb = write_popdb([encoded_song(tmp_path, "a")], small_settings(tmp_path))
    info = {"source": "csv", "separator": "repet-sim/1 n_fft=2048", "codec": "stable-audio-open/1"}
    assert caveats(described(popdb, **info)).count("\n- ") == 1
    assert "vocal shares are too high" in caveats(described(popdb, **info))
    assert caveats(described(popdb, **info | {"separator": "demucs/4.1.0 htdemucs"})) == ""
    published = info | {"source": "published", "separator": "demucs/published"}
    assert "published without their songs" in caveats(described(popdb, **published))
