from itertools import pairwise
from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor

from samuel.config import Sampler, SamplingConfig
from samuel.errors import SettingsError
from samuel.model.diffusion import CosineSchedule, q_sample, x0_from_v
from samuel.model.sample import Kept, Windowed, make_solver, sample, window_starts
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
    config, model = SamplingConfig(sampler=sampler, steps=steps, guidance_scale=1), cast("Any", exact_model)
    return sample(model, VOCAL, SCHEDULE, config, torch.Generator().manual_seed(seed))


# Distances of FIELD_NOTES at 20 and 50 evaluations, with slack for another mixture and 40,000 draws. With 29,
# diffusers' own timesteps end at -1, and DDPM and DDIM miss by 0.76.
@pytest.mark.parametrize(
    ("sampler", "steps", "limit"),
    [
        ("ddpm", 29, 0.06),
        ("ddim", 29, 0.04),
        ("dpmsolver++", 29, 0.02),
        ("unipc", 29, 0.02),
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
    for steps in (1, 2, 29, 58, 333, 799, 800):
        solver = make_solver(SCHEDULE, SamplingConfig(sampler=sampler, steps=steps))
        visited = solver.timesteps.tolist()
        assert len(visited) == steps
        assert visited[0] == 799
        assert visited == sorted(set(visited), reverse=True)
        assert visited[-1] >= 0


def test_ddim_is_the_one_of_diffusers_where_that_is_right() -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    theirs = DDIMScheduler(
        800, trained_betas=SCHEDULE.betas.numpy(), prediction_type="v_prediction",
        timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip
    theirs.set_timesteps(20)  # 20 divides 800
    x = torch.randn(VOCAL.shape, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        x = theirs.step(exact_model(x, t.expand(2), None), int(t), x, return_dict=False)[0]
    torch.testing.assert_close(run("ddim", 20), x, atol=1e-3, rtol=1e-3)


def test_more_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"sampling\.steps = 801.*800 timesteps"):
        run("ddim", 801)


def test_the_network_itself_is_sampled_with_guidance_and_without() -> None:
    model, vocal = awake().eval(), torch.randn(2, 64, 64)
    guided, unguided = (
        sample(model, vocal, SCHEDULE, SamplingConfig(steps=4, guidance_scale=scale), torch.Generator())
        for scale in (3.0, 1.0)
    )
    assert guided.shape == vocal.shape
    assert not guided.requires_grad
    assert not torch.allclose(guided, unguided, atol=1e-2)


def known(frames: int) -> Kept:
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[10:30] = True
    return Kept(torch.randn(1, 64, frames), mask)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_kept_comes_out_as_it_was(sampler: Sampler) -> None:
    network, kept, vocal = awake().eval(), known(64), torch.randn(1, 64, 64)
    config = SamplingConfig(sampler=sampler, steps=7)
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

    config, model = SamplingConfig(sampler="dpmsolver++", steps=10, guidance_scale=1), cast("Any", network)
    sample(model, torch.zeros(1, 64, 64), SCHEDULE, config, torch.Generator().manual_seed(0), kept=kept)
    assert len(seen) == 10
    assert max(seen) < 5e-3


@pytest.mark.parametrize("length", [1024, 1025, 1032, 1791, 1792, 1793, 6460, 19_380])
def test_windows_cover_a_song_with_no_more_than_are_needed(length: int) -> None:
    starts = window_starts(length, 1024, 256)
    assert starts[0] == 0
    assert starts[-1] == length - 1024
    assert all(b - a <= 1024 - 256 for a, b in pairwise(starts))
    least = 1 + -(-(length - 1024) // 768)
    assert len(starts) == least


class Pointwise:
    """A denoiser that looks at nothing but the frame itself, and counts."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        return torch.where(drop_mask[:, None, None], torch.zeros_like(vocal), vocal)

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        self.shapes.append(tuple(x_t.shape))
        return x_t.sin() + t[:, None, None] * (0 if vocal is None else vocal)


@pytest.mark.parametrize(("length", "at_a_time"), [(64, 2), (65, 1), (1000, 5)])
def test_windows_change_nothing_where_frames_stand_alone(length: int, at_a_time: int) -> None:
    network, x, vocal = Pointwise(), torch.randn(2, 8, length), torch.randn(2, 8, length)
    t = torch.tensor([3, 700])
    v = Windowed(network, 64, 16, at_a_time)(x, t, vocal)
    assert {shape[2] for shape in network.shapes} == {64}
    assert max(shape[0] for shape in network.shapes) <= max(2, at_a_time)
    torch.testing.assert_close(v, network(x, t, vocal), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(Windowed(network, 64, 16)(x, t, None), x.sin())


def test_a_step_is_the_average_by_a_plain_loop() -> None:
    network, x, vocal = awake().eval(), torch.randn(1, 64, 168), torch.randn(1, 64, 168)
    t = torch.tensor([500])
    total, weight = torch.zeros_like(x), torch.zeros(168)
    with torch.no_grad():
        for start in window_starts(168, 64, 16):
            part = network(x[..., start : start + 64], t, vocal[..., start : start + 64])
            for i in range(64):
                share = min(1.0, (min(i, 63 - i) + 0.5) / 16)
                total[..., start + i] += share * part[..., i]
                weight[start + i] += share
        torch.testing.assert_close(Windowed(network, 64, 16)(x, t, vocal), total / weight)
