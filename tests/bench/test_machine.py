import time
from pathlib import Path

import pytest
import torch

from samuel.bench.machine import network_rows, seconds
from samuel.model.unet import SamuelUNet, parameter_count
from tests.popdb.latents import small_settings

CPU = torch.device("cpu")


def test_the_median_leaves_out_the_first_call() -> None:
    pauses = iter([0.2, 0.02, 0.02, 0.02])
    assert seconds(lambda: time.sleep(next(pauses)), CPU, rounds=3) == pytest.approx(0.02, abs=0.015)


def test_the_network_is_measured_against_a_product_in_the_same_run(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    rows = dict(network_rows(settings, CPU))
    network = SamuelUNet(settings.model, settings.diffusion)
    assert rows["parameters"] == f"{parameter_count(network):,}"
    assert rows["2048³ product"].endswith("GFLOP/s")
    assert rows["training step, batch 2 × 1024 frames"].endswith("of the product's rate")
