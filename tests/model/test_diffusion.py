from itertools import pairwise

import pytest
import torch

from samuel.config import LossWeight
from samuel.model.diffusion import (
    CosineSchedule,
    drop_condition,
    eps_from_v,
    loss_weight,
    q_sample,
    v_target,
    x0_from_v,
)

SCHEDULE = CosineSchedule()


@pytest.fixture
def clean() -> torch.Tensor:
    return torch.randn(5, 64, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(5, 64, 16, generator=torch.Generator().manual_seed(2))


T = torch.tensor([0, 1, 400, 798, 799])


def test_schedule_is_diffusers_cosine() -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs = DDPMScheduler(800, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(SCHEDULE.betas, theirs.betas, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(SCHEDULE.alpha_bar, theirs.alphas_cumprod, rtol=1e-3, atol=1e-6)


def test_schedule_reaches_the_figures_of_the_paper() -> None:
    alpha_bar = SCHEDULE.alpha_bar.double()
    assert (alpha_bar[0] / (1 - alpha_bar[0])).item() == pytest.approx(19_000, rel=0.02)
    assert alpha_bar[-1].item() == pytest.approx(3.8e-9, rel=0.02)
    assert all(a > b for a, b in pairwise(alpha_bar.tolist()))
    squares = SCHEDULE.sqrt_alpha_bar**2 + SCHEDULE.sqrt_one_minus_alpha_bar**2
    torch.testing.assert_close(squares, torch.ones(800))


def test_v_and_q_sample_are_diffusers(clean: torch.Tensor, noise: torch.Tensor) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs = DDPMScheduler(800, trained_betas=SCHEDULE.betas.numpy())
    noisy = theirs.add_noise(clean, noise, T)  # pyright: ignore[reportArgumentType]
    velocity = theirs.get_velocity(clean, noise, T)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(q_sample(SCHEDULE, clean, noise, T), noisy, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(v_target(SCHEDULE, clean, noise, T), velocity, rtol=1e-4, atol=2e-5)


def test_v_round_trips(clean: torch.Tensor, noise: torch.Tensor) -> None:
    x_t, v = q_sample(SCHEDULE, clean, noise, T), v_target(SCHEDULE, clean, noise, T)
    torch.testing.assert_close(x0_from_v(SCHEDULE, x_t, v, T), clean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(eps_from_v(SCHEDULE, x_t, v, T), noise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("snr", [5.0, 1.0, 1 / 3]),
        ("min_snr", [5 / 10, 1 / 2, (1 / 3) / (4 / 3)]),
        ("uniform", [1.0, 1.0, 1.0]),
    ],
)
def test_loss_weights(name: LossWeight, expected: list[float]) -> None:
    weights = loss_weight(name, torch.tensor([0.9, 0.5, 0.25]), snr_clip=5.0)  # SNR 9, 1, 1/3
    assert weights.tolist() == pytest.approx(expected)


def test_drop_condition_draws_each_item_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    dropped = drop_condition(20_000, 0.1, generator)
    assert dropped.dtype == torch.bool
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.008)  # near four deviations
    both = (dropped[1:] & dropped[:-1]).float().mean().item()
    assert both == pytest.approx(0.01, abs=0.004)  # neighbours do not drop together
    assert torch.equal(dropped, drop_condition(20_000, 0.1, torch.Generator().manual_seed(0)))
    assert not torch.equal(dropped, drop_condition(20_000, 0.1, generator))
