from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor

from samuel.config import Film, Mixing, ModelConfig
from samuel.errors import InputError
from samuel.model.diffusion import CosineSchedule, q_sample, v_target, x0_from_v
from samuel.model.unet import ResidualBlock, SamuelUNet, TemporalFiLM, parameter_count
from tests.model.conftest import SMALL, awake

MIXINGS: tuple[Mixing, ...] = get_args(Mixing)


@pytest.fixture(scope="module")
def full() -> SamuelUNet:
    return SamuelUNet(ModelConfig())


@pytest.fixture(scope="module")
def pairs() -> Tensor:
    """Four vocals whose accompaniment is the vocal itself, (4, 8, 64)."""
    return torch.randn(4, 8, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def trained(pairs: Tensor) -> tuple[SamuelUNet, list[float]]:
    """A small U-Net overfitted on one batch, fresh strong noise at every step, and its losses."""
    torch.manual_seed(0)
    model, schedule = SamuelUNet(SMALL.model_copy(update={"latent_channels": 8})), CosineSchedule()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    losses = []
    for _ in range(80):
        eps, t = torch.randn_like(pairs), torch.randint(600, 800, (4,))
        v_hat = model(q_sample(schedule, pairs, eps, t), t, pairs)
        loss = (v_hat - v_target(schedule, pairs, eps, t)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model.eval(), losses


def test_full_size_is_what_the_paper_says(full: SamuelUNet) -> None:
    assert 14_000_000 <= parameter_count(full) <= 16_000_000
    with_attention = SamuelUNet(ModelConfig(up_attention=True))
    assert parameter_count(with_attention) == pytest.approx(16.7e6, rel=0.005)  # as the docstring says


def test_full_size_follows_the_resolutions_of_the_paper(full: SamuelUNet) -> None:
    shapes: list[tuple[int, ...]] = []
    hooks = [
        part.register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape[1:])))
        for part in (full.enter, *full.down, full.bottleneck, *full.up)
    ]
    with torch.inference_mode():
        v = full(torch.randn(1, 64, 256), torch.tensor([5]), None)
    assert v.shape == (1, 64, 256) and not v.any()  # zero-initialised output
    for hook in hooks:
        hook.remove()
    down = [(64, 256), (128, 128), (256, 64), (512, 32)]
    assert shapes == [*down, (512, 32), *reversed(down[:-1])]


@pytest.mark.parametrize("mixing", MIXINGS)
def test_any_multiple_of_eight(mixing: Mixing) -> None:
    model = awake(SMALL.model_copy(update={"mixing": mixing}))
    for x in (torch.randn(2, 64, 8), torch.randn(2, 64, 1000)):
        with torch.inference_mode():
            v = model(x, torch.tensor([0, 799]), x)
        assert v.shape == x.shape
        assert v.isfinite().all() and v.std() > 0


@pytest.mark.parametrize("frames", [1020, 0])
def test_other_lengths_are_refused(frames: int) -> None:
    with pytest.raises(InputError, match=f"{frames} latent frames.*multiple of 8"):
        SamuelUNet(SMALL)(torch.zeros(1, 64, frames), torch.tensor([0]), None)


@pytest.mark.parametrize(
    ("mixing", "film", "up_attention"),
    [*product(MIXINGS, ["temporal"], [False]), ("eq3", "pooled", False), ("eq3", "temporal", True)],
)
def test_every_parameter_learns(mixing: Mixing, film: Film, up_attention: bool) -> None:
    # The zero-initialised layers block what lies behind them: the last convolution for one step, the
    # attention's projections for a second.
    choices = {"mixing": mixing, "film": film, "up_attention": up_attention}
    model, x = SamuelUNet(SMALL.model_copy(update=choices)), torch.randn(2, 64, 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        vocal = model.condition(x, torch.tensor([True, False]))
        (model(x, torch.tensor([200, 600]), vocal) - x).square().mean().backward()
        optimiser.step()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_pooled_film_is_constant_over_the_frames() -> None:
    film, h = TemporalFiLM(16, 8, 12, pooled=True), torch.randn(2, 16, 40)
    time, vocal = torch.randn(2, 12), torch.randn(2, 8, 40)
    along = film.vocal(vocal) + film.time(time)[:, :, None]
    scale, shift = along.mean(dim=-1, keepdim=True).chunk(2, dim=1)
    torch.testing.assert_close(film(h, time, vocal), (1 + scale) * h + shift)


@pytest.mark.parametrize(("film", "frames"), [("temporal", 2), ("pooled", 16)])
def test_a_block_hears_one_frame_of_the_vocal(film: Film, frames: int) -> None:
    # Through FiLM alone, one frame of the vocal reaches its own frame and the neighbours that conv2 mixes.
    block, x, time = ResidualBlock(16, 8, 12, film), torch.randn(1, 16, 16), torch.randn(1, 12)
    vocal = torch.randn(1, 8, 16)
    other = vocal.clone()
    other[:, :, 0] += 1
    moved = (block(x, time, other) - block(x, time, vocal)).abs().sum(dim=(0, 1)).nonzero()
    assert len(moved) == frames


def test_trained_model_follows_the_vocal_it_hears(
    trained: tuple[SamuelUNet, list[float]], pairs: Tensor
) -> None:
    losses = trained[1]
    assert losses[0] == pytest.approx(1.0, abs=0.1)  # v̂ = 0 and v has unit variance
    assert sum(losses[-10:]) / 10 < 0.1 * losses[0]
    t = torch.full((4,), 799)  # pure noise: all that is known about x0 comes from the vocal
    x_t = torch.randn(1, 8, 64).expand(4, -1, -1)
    with torch.inference_mode():
        guess = x0_from_v(trained[0].schedule, x_t, trained[0](x_t, t, pairs), t)
    distance = torch.cdist(guess.flatten(1), pairs.flatten(1))
    assert distance.argmin(dim=1).tolist() == [0, 1, 2, 3]
    assert (distance.diagonal() < 0.5 * distance.fliplr().diagonal()).all()


def test_null_condition_cannot_tell_two_vocals_apart(
    trained: tuple[SamuelUNet, list[float]], pairs: Tensor
) -> None:
    model, x_t, t = trained[0], torch.randn(1, 8, 64), torch.tensor([700])
    everything = torch.tensor([True])
    with torch.inference_mode():
        heard = [model(x_t, t, pairs[i : i + 1]) for i in (0, 1)]
        deaf = [model(x_t, t, model.condition(pairs[i : i + 1], everything)) for i in (0, 1)]
        assert not torch.allclose(heard[0], heard[1], atol=0.1)
        assert torch.equal(deaf[0], deaf[1])
        torch.testing.assert_close(deaf[0], model(x_t, t, None))


def test_autocast_to_bfloat16() -> None:
    model, x, t = awake(), torch.randn(2, 64, 64), torch.tensor([100, 700])
    plain = model(x, t, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(x, t, x)
    mixed.sum().backward()
    assert mixed.dtype == torch.float32
    assert (mixed - plain).norm() < 0.05 * plain.norm()
