from typing import get_args

import pytest
import torch
from torch import Tensor

from samuel.config import Sampler, SamplingConfig
from samuel.errors import SettingsError
from samuel.model.diffusion import CosineSchedule, q_sample, x0_from_v
from samuel.model.sample import Kept, make_solver, sample
from tests.model.conftest import awake

SCHEDULE = CosineSchedule()
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
WEIGHTS, MEANS, DEVIATIONS = torch.tensor([[0.3, 0.7], [-1.0, 0.8], [0.15, 0.25]], dtype=torch.float64)
VOCAL = torch.zeros(2, 8, 2500)  # here it says only how much to draw


def exact_model(x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
    """E[v | x_t] in closed form when every entry of x0 is drawn from the Gaussian mixture."""
    del vocal
    signal, noise = (level[..., None] for level in SCHEDULE.levels(t, x_t.double()))
    apart = x_t.double()[..., None] - signal * MEANS
    variance = (signal * DEVIATIONS) ** 2 + noise**2
    share = (WEIGHTS.log() - apart**2 / variance / 2 - variance.log() / 2).softmax(-1)
    x0 = (share * (MEANS + signal * DEVIATIONS**2 / variance * apart)).sum(-1)
    signal, noise = signal[..., 0], noise[..., 0]
    eps = (x_t.double() - signal * x0) / noise
    return (signal * eps - noise * x0).to(x_t.dtype)


def draw(count: int) -> Tensor:
    part = torch.multinomial(WEIGHTS, count, replacement=True)
    return MEANS[part] + DEVIATIONS[part] * torch.randn(count, dtype=torch.float64)


def run(sampler: Sampler, steps: int, seed: int = 0) -> Tensor:
    config = SamplingConfig(sampler=sampler, steps=steps, guidance_scale=1)
    return sample(exact_model, VOCAL, SCHEDULE, config, torch.Generator().manual_seed(seed))


def test_the_exact_model_is_the_best_guess() -> None:
    x0, eps = draw(40_000).reshape(1, 1, -1), torch.randn(1, 1, 40_000, dtype=torch.float64)
    t = torch.tensor([400])
    x_t = q_sample(SCHEDULE, x0, eps, t)
    error = x0_from_v(SCHEDULE, x_t, exact_model(x_t, t, None), t) - x0
    for probe in (torch.ones_like(x_t), x_t, x_t.tanh()):  # what is left is orthogonal to whatever x_t tells
        assert (error * probe).mean().abs() < 0.01


# Distances of FIELD_NOTES at 20 and 50 evaluations, with slack for another mixture and 40,000 draws. With 29,
# diffusers' own timesteps end at -1, and DDPM and DDIM miss by 0.76.
@pytest.mark.parametrize(
    ("sampler", "steps", "limit"),
    [
        ("ddpm", 20, 0.08),
        ("ddpm", 29, 0.06),
        ("ddim", 20, 0.055),
        ("ddim", 29, 0.04),
        ("dpmsolver++", 29, 0.02),
        ("dpmsolver++", 50, 0.013),
        ("unipc", 29, 0.02),
        ("unipc", 50, 0.013),
    ],
)
def test_exact_model_lands_on_its_mixture(sampler: Sampler, steps: int, limit: float) -> None:
    drawn = run(sampler, steps).flatten().double().sort().values
    distance = (drawn - draw(drawn.numel()).sort().values).abs().mean().item()  # W1 of equal counts
    assert distance < limit


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_single_step_is_our_inverse(sampler: Sampler) -> None:
    # One step from pure noise to x0 is, for every solver, x0 behind the prediction at the last timestep.
    start = torch.randn(VOCAL.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), 799)
    expected = x0_from_v(SCHEDULE, start, exact_model(start, t, None), t)
    torch.testing.assert_close(run(sampler, 1), expected, atol=2e-3, rtol=0)


def test_same_seed_same_result() -> None:
    for sampler in SAMPLERS:
        first = run(sampler, 3)
        assert torch.equal(first, run(sampler, 3))
        assert not torch.equal(first, run(sampler, 3, seed=1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_number_of_steps_starts_at_the_last_timestep(sampler: Sampler) -> None:
    for steps in (*range(1, 60), 333, 799, 800):
        solver = make_solver(SCHEDULE, SamplingConfig(sampler=sampler, steps=steps))
        visited = solver.timesteps.tolist()
        assert len(visited) == steps
        assert visited[0] == 799
        assert visited == sorted(set(visited), reverse=True)
        assert visited[-1] >= 0


def test_ddim_is_the_one_of_diffusers_where_that_is_right() -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    theirs = DDIMScheduler(
        800,
        trained_betas=SCHEDULE.betas.numpy(),
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    theirs.set_timesteps(20)  # 20 divides 800
    x = torch.randn(VOCAL.shape, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        x = theirs.step(exact_model(x, t.expand(2), None), int(t), x, return_dict=False)[0]
    torch.testing.assert_close(run("ddim", 20), x, atol=1e-3, rtol=1e-3)


def test_more_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"sampling\.steps = 801.*800 timesteps"):
        run("ddim", 801)


def test_the_network_itself_is_sampled_the_same_in_one_batch_or_two_calls() -> None:
    model, vocal = awake().eval(), torch.randn(2, 64, 64)
    config = SamplingConfig(steps=4, guidance_scale=3.0)
    one, two = (
        sample(denoiser, vocal, SCHEDULE, config, torch.Generator().manual_seed(7))
        for denoiser in (model, model.forward)
    )
    assert one.shape == vocal.shape
    assert not one.requires_grad
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)
    unguided = sample(
        model, vocal, SCHEDULE, SamplingConfig(steps=4, guidance_scale=1.0), torch.Generator().manual_seed(7)
    )
    assert not torch.allclose(one, unguided, atol=1e-2)


def known(frames: int) -> Kept:
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[10:30] = True
    return Kept(torch.randn(1, 64, frames), mask)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 7])
def test_what_is_kept_comes_out_as_it_was(sampler: Sampler, steps: int) -> None:
    network, kept, vocal = awake().eval(), known(64), torch.randn(1, 64, 64)
    config = SamplingConfig(sampler=sampler, steps=steps)
    free, x0 = (
        sample(network, vocal, SCHEDULE, config, torch.Generator().manual_seed(0), kept=k)
        for k in (None, kept)
    )
    torch.testing.assert_close(x0[..., 10:30], kept.x0[..., 10:30], atol=2e-3, rtol=1e-3)
    assert not torch.allclose(free[..., 10:30], kept.x0[..., 10:30], atol=0.1)


def test_the_network_sees_it_at_the_noise_level_of_all_frames() -> None:
    kept, start = known(64), torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = []

    def network(x: torch.Tensor, t: torch.Tensor, vocal: torch.Tensor | None) -> torch.Tensor:
        expected = q_sample(SCHEDULE, kept.x0, start, t)
        seen.append((x - expected)[..., kept.mask].abs().max().item())
        return torch.zeros_like(x)

    config = SamplingConfig(sampler="dpmsolver++", steps=10, guidance_scale=1)
    sample(network, torch.zeros(1, 64, 64), SCHEDULE, config, torch.Generator().manual_seed(0), kept=kept)
    assert len(seen) == 10
    assert max(seen) < 5e-3
