import re
import tempfile
from pathlib import Path

import pytest
import torch

from benchmarks import scoring
from benchmarks.scoring import batched, difference, scoring_rows, write_tracks
from samuel.config import Settings
from samuel.evaluate.scores import AUDIOBOX
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


def test_the_largest_difference_of_any_axis() -> None:
    one = [{"PQ": 1.0, "PC": 2.0, "CE": 3.0, "CU": 4.0}] * 2
    other = [one[0], {"PQ": 1.5, "PC": 2.0, "CE": 3.0, "CU": 3.0}]
    assert difference(one, other) == 1.0


@pytest.mark.slow
def test_random_weights_are_of_the_full_size_in_the_packages_layout(tmp_path: Path) -> None:
    scoring.write_audiobox(tmp_path / "checkpoint.pt")
    found = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert sum(value.numel() for value in found["state_dict"].values()) == pytest.approx(103.9e6, rel=0.001)
    files = write_tracks(tmp_path, 1, 1.0)
    cost = scoring.in_its_own_process(batched, tmp_path / "checkpoint.pt", files)
    assert set(cost.scores[0]) == set(AUDIOBOX)
    assert cost.peak_bytes is None or cost.peak_bytes > 4 * 103.9e6
