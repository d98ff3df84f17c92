import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from samuel.config import AugmentationConfig, Settings, parse
from samuel.popdb.dataset import Popdb
from samuel.train import Training
from samuel.train.objective import Objective, augment, learning_rate_at
from tests.train.trainings import stepped, weights

CPU = torch.device("cpu")


def test_timesteps_are_stratified_and_uniform(settings: Settings) -> None:
    drawn = Objective(settings, CPU)
    steps = torch.stack([drawn.draw(step, (8, 1, 8)).t for step in range(400)])
    assert torch.equal(steps * 8 // 800, torch.arange(8).expand(400, 8))  # one of each eighth, always
    within = (steps % 100).double()
    assert within.mean().item() == pytest.approx(49.5, abs=4 * 28.9 / math.sqrt(within.numel()))


def test_a_batch_in_parts_is_the_same_batch(popdb: Popdb, tmp_path: Path) -> None:
    def moved(**training: int) -> Tensor:
        return weights(stepped(popdb, tmp_path, training={"batch_size": 4, **training}))

    whole = moved()
    assert torch.allclose(moved(accumulate=2), whole, atol=2e-5)
    assert not torch.allclose(moved(batch_size=2), whole, atol=2e-5)


def test_the_loss_of_a_step_is_the_weighted_error_of_v(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    training = Training(popdb, settings, tmp_path / "run")
    vocal, x0 = training.batches.at(0, CPU)
    noise = training.objective.draw(0, tuple(x0.shape))
    v_mse, weight = training.objective.errors(training.module, x0, vocal, noise)
    metrics = training.step()
    assert metrics["loss"] == pytest.approx((weight * v_mse).mean().item())
    assert metrics["v_mse"] == pytest.approx(v_mse.mean().item())
    assert not torch.allclose(weight, torch.ones_like(weight))


def test_learning_rate_warms_up_and_anneals_to_zero() -> None:
    config = parse({"training": {"steps": 110, "warmup_steps": 10, "learning_rate": 0.1}}).training
    rates = {0: 0.01, 9: 0.1, 10: 0.1, 60: 0.05, 110: 0.0}
    assert [learning_rate_at(step, config) for step in rates] == pytest.approx(
        list(rates.values()), abs=1e-12
    )


ITEMS, CHANNELS, FRAMES = 400, 64, 32


def test_augmentations_are_drawn_for_each_item_as_they_are_described() -> None:
    vocal = torch.randn(400, 64, 32, generator=torch.Generator().manual_seed(99))

    def changed(**choice: float) -> Tensor:
        return augment(vocal, AugmentationConfig(**choice), torch.Generator().manual_seed(0))

    def drawn(values: Tensor, cdf: Any) -> bool:
        return stats.kstest(values.flatten().numpy(), cdf).pvalue > 0.01

    factors = (changed(gain=0.5) * vocal).sum(dim=(1, 2)) / vocal.square().sum(dim=(1, 2))
    torch.testing.assert_close(changed(gain=0.5), factors[:, None, None] * vocal)
    assert drawn(factors, stats.uniform(0.5, 1.0).cdf)
    offsets = changed(equaliser=0.4) - vocal  # of each channel, for the whole length
    torch.testing.assert_close(offsets, offsets[:, :, :1].expand_as(offsets), atol=1e-5, rtol=0)
    assert drawn(offsets[:, :, 0], stats.norm(0, 0.4).cdf)
    noise = changed(noise=0.3) - vocal
    deviations = noise.square().mean(dim=(1, 2)).sqrt()
    assert drawn(deviations, stats.uniform(0, 0.3).cdf)
    white = noise / deviations[:, None, None]
    assert drawn(white[:20], stats.norm.cdf)
    spectrum = torch.fft.fft2(white).abs().square().mean(dim=0) / (64 * 32)
    assert (spectrum - 1).abs().max() < 6 / 20  # a mean of 400 exponential draws at every frequency
