import re
from pathlib import Path

import pytest
import torch

from benchmarks import network as bench
from benchmarks.network import gpu_rows, network_rows
from samuel.model.summary import summary
from samuel.model.unet import SamuelUNet, parameter_count
from tests.popdb.latents import small_settings

CPU = torch.device("cpu")


def test_the_network_is_measured_against_a_product_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "FRAMES", 64)
    settings = small_settings(tmp_path)
    network = SamuelUNet(settings.model, settings.diffusion)
    rows = dict(network_rows(settings, CPU))
    assert rows["parameters"] == f"{parameter_count(network):,}"
    assert rows["2048³ product"].endswith("GFLOP/s")
    assert "training step, batch 16 × 64 frames" in rows  # the paper's, whatever the settings say
    figure = re.fullmatch(
        r"([\d.]+) s, ([\d.]+) GFLOP, (\d+)% of the product's rate", rows["forward, batch 2 × 64 frames"]
    )
    assert figure is not None
    assert float(figure[2]) == pytest.approx(2 * summary(network, 64)[-1].flops / 1e9, abs=0.06)


@pytest.mark.gpu
def test_gpu_figures_are_plausible(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    rows = gpu_rows(settings, torch.device("cuda"))
    assert len(rows) == 4
    for name, figure in rows:
        number = re.match(r"[\d.,]+", figure)
        assert number is not None, name
        assert float(number[0].replace(",", "")) > 0
