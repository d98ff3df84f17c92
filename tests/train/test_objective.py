import math
from pathlib import Path

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


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vocal() -> Tensor:
    return torch.randn(ITEMS, CHANNELS, FRAMES, generator=seeded(99))


def test_the_gain_of_an_item_is_one_factor_drawn_evenly(vocal: Tensor) -> None:
    out = augment(vocal, AugmentationConfig(gain=0.5), seeded())
    factors = (out * vocal).sum(dim=(1, 2)) / vocal.square().sum(dim=(1, 2))
    torch.testing.assert_close(out, factors[:, None, None] * vocal)
    assert stats.kstest(factors.numpy(), stats.uniform(0.5, 1.0).cdf).pvalue > 0.01


def test_the_equaliser_shifts_each_channel_of_an_item_for_its_whole_length(vocal: Tensor) -> None:
    added = augment(vocal, AugmentationConfig(equaliser=0.4), seeded()) - vocal
    torch.testing.assert_close(added, added[:, :, :1].expand_as(added), atol=1e-5, rtol=0)
    offsets = added[:, :, 0]
    assert stats.kstest(offsets.flatten().numpy(), stats.norm(0, 0.4).cdf).pvalue > 0.01
    # Neither channels nor items share what they are shifted by.
    for table in (offsets, offsets.T[:, :CHANNELS]):
        apart = torch.corrcoef(table.T) - torch.eye(table.shape[1])
        assert apart.abs().max() < 6 / table.shape[0] ** 0.5


def test_the_noise_is_white_and_its_deviation_drawn_evenly_for_each_item(vocal: Tensor) -> None:
    added = augment(vocal, AugmentationConfig(noise=0.3), seeded()) - vocal
    deviations = added.square().mean(dim=(1, 2)).sqrt()
    assert stats.kstest(deviations.numpy(), stats.uniform(0, 0.3).cdf).pvalue > 0.01
    white = added / deviations[:, None, None]
    assert stats.kstest(white[:20].flatten().numpy(), stats.norm.cdf).pvalue > 0.01
    spectrum = torch.fft.fft2(white).abs().square().mean(dim=0) / (CHANNELS * FRAMES)
    # A mean of 400 exponential draws: 1 ± 1/20 at every frequency, over channels and over frames.
    assert (spectrum - 1).abs().max() < 6 / ITEMS**0.5
