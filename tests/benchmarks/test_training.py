from pathlib import Path

import torch

from benchmarks import training as bench
from benchmarks.loader import noise, write_noise
from samuel.train import Training
from tests.popdb.latents import small_settings


def test_the_bare_step_is_a_step(tmp_path: Path) -> None:
    popdb = write_noise(tmp_path / "popdb", noise(4, 64))
    training = Training(popdb, small_settings(tmp_path), tmp_path / "run")
    before = [parameter.clone() for parameter in training.network.parameters()]
    bench.bare_step(training)()
    after = list(training.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
