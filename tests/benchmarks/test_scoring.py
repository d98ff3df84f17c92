import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import scoring
from benchmarks.scoring import (
    Cost,
    batched,
    difference,
    own_command,
    scoring_rows,
    write_tracks,
)
from samuel.config import Settings
from samuel.evaluate.audiobox import AXES
from samuel.hub import quietly
from tests.evaluate.small_audiobox import small_audiobox


def test_both_ways_score_alike_and_every_figure_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # A process of its own would build the package's network in its full size.
    monkeypatch.setattr(scoring, "in_its_own_process", lambda way, *given: way(*given))
    monkeypatch.setattr(scoring, "ROUNDS", 1)
    with small_audiobox(tmp_path):
        rows = dict(scoring_rows(Settings(device="cpu"), 2, 11.0))
    assert rows["tracks"] == "2 of 11.00 s"
    window = r"\d+\.\d\d s a window, \d+\.\d\d GiB of the (process|GPU)"
    assert re.fullmatch(window + ".*", rows["AudioBox by its own command"])
    assert re.fullmatch(window + r".*, \d+\.\d\d × the time", rows["AudioBox, batched here"])
    assert float(rows["  largest difference of a score"]) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]  # the small one's


def test_time_is_of_a_window_and_the_ratio_of_the_fastest_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {own_command: iter([30.0, 24.0]), batched: iter([12.0, 18.0])}
    scores: scoring.Scores = [dict.fromkeys(AXES, 5.0)]

    def cost(way: Any, *_: Any) -> Cost:
        return Cost(next(times[way]), 2**30 * 3 // 2, "of the process", scores)

    monkeypatch.setattr(scoring, "in_its_own_process", cost)
    monkeypatch.setattr(scoring, "write_audiobox", lambda _: None)
    monkeypatch.setattr(scoring, "write_tracks", lambda *_: [])
    rows = dict(scoring.audiobox_rows(3, 11.0))  # two windows each
    assert rows["AudioBox by its own command"] == "4.00 s a window, 1.50 GiB of the process"
    assert rows["AudioBox, batched here"] == "2.00 s a window, 1.50 GiB of the process, 0.50 × the time"


def test_the_largest_difference_of_any_axis() -> None:
    one = [{"PQ": 1.0, "PC": 2.0, "CE": 3.0, "CU": 4.0}] * 2
    other = [one[0], {"PQ": 1.5, "PC": 2.0, "CE": 3.0, "CU": 3.0}]
    assert difference(one, other) == 1.0


def test_the_command_is_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with quietly():
        from audiobox_aesthetics import infer

    sizes: list[int] = []
    forward = infer.AesPredictor.forward

    def counting(self: Any, batch: list[Any]) -> Any:
        sizes.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(infer.AesPredictor, "forward", counting)
    files = write_tracks(tmp_path, 12, 0.5)
    with small_audiobox(tmp_path) as (weights, _):
        own = own_command(weights, files)
    assert sizes == [10, 2]
    assert own.scores[0] != own.scores[11]  # of another level


@pytest.mark.slow
def test_random_weights_are_of_the_full_size_in_the_packages_layout(tmp_path: Path) -> None:
    scoring.write_audiobox(tmp_path / "checkpoint.pt")
    found = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert sum(value.numel() for value in found["state_dict"].values()) == pytest.approx(103.9e6, rel=0.001)
    files = write_tracks(tmp_path, 1, 1.0)
    cost = scoring.in_its_own_process(batched, tmp_path / "checkpoint.pt", files)
    assert set(cost.scores[0]) == set(AXES)
    assert cost.peak_bytes is None or cost.peak_bytes > 4 * 103.9e6
