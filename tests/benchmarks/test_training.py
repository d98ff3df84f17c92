import re
import tempfile
from pathlib import Path

import pytest
import torch

from benchmarks import training as bench
from benchmarks.loader import noise, write_noise
from samuel.train import Training
from tests.popdb.latents import small_settings


def test_the_rates_and_their_ratio_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = dict(bench.training_rows(small_settings(tmp_path), batch_size=4, pairs=8, frames=64))
    bare_s, pairs_per_s = map(float, re.findall(r"[\d.]+", rows["bare step, batch 4"]))
    loop_s, share = map(float, re.findall(r"[\d.]+", rows["  the training loop's"]))
    assert 4 / bare_s == pytest.approx(pairs_per_s, rel=0.05)
    assert share == pytest.approx(100 * bare_s / loop_s, rel=0.05)
    assert not list(tmp_path.iterdir())


def test_the_bare_step_is_a_step(tmp_path: Path) -> None:
    popdb = write_noise(tmp_path / "popdb", noise(4, 64))
    training = Training(popdb, small_settings(tmp_path), tmp_path / "run")
    before = [parameter.clone() for parameter in training.network.parameters()]
    bench.bare_step(training)()
    after = list(training.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
