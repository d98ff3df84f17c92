import pytest
import torch
from torch import Tensor

from samuel.config import SamplingConfig
from samuel.model.sample import guided

T = 800


class Loudness:
    """A fake denoiser: v = vocal + t, the null vocal being -1 everywhere; it counts its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        return torch.where(drop_mask[:, None, None], -torch.ones_like(vocal), vocal)

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        self.batches.append(len(x_t))
        assert vocal is not None
        return vocal + t[:, None, None]


def config(**values: object) -> SamplingConfig:
    return SamplingConfig.model_validate(values)


@pytest.mark.parametrize("scale", [0.0, 7.0])
def test_guidance_is_its_formula_in_one_batch_of_two(scale: float) -> None:
    model, vocal = Loudness(), torch.randn(3, 64, 8)
    v = guided(model, vocal, config(guidance_scale=scale), T)(torch.randn(3, 64, 8), 50)
    torch.testing.assert_close(v, -1 + scale * (vocal + 1) + 50)
    assert model.batches == [6]


def test_scale_one_asks_once_without_the_null_condition() -> None:
    model, vocal = Loudness(), torch.randn(3, 64, 8)
    v = guided(model, vocal, config(guidance_scale=1), T)(torch.randn(3, 64, 8), 50)
    assert torch.equal(v, vocal + 50)
    assert model.batches == [3]


def test_outside_its_interval_guidance_does_nothing_and_costs_nothing() -> None:
    model, vocal, x = Loudness(), torch.randn(1, 64, 8), torch.randn(1, 64, 8)
    velocity = guided(model, vocal, config(guidance_scale=3, guidance_interval=(0.25, 0.5)), T)
    acts = [not torch.allclose(velocity(x, t), vocal + t) for t in (0, 199, 200, 399, 400, 799)]
    assert acts == [False, False, True, True, False, False]
    assert model.batches == [1, 1, 2, 2, 1, 1]


def test_the_setting_reaches_the_predictions() -> None:
    model, vocal, x = Loudness(), torch.randn(1, 64, 50), torch.randn(1, 64, 50)
    plain = guided(model, vocal, config(guidance_scale=4), T)(x, 9)
    mild = guided(model, vocal, config(guidance_scale=4, guidance_rescale=1), T)(x, 9)
    assert plain.std() == pytest.approx(4 * vocal.std().item(), rel=1e-4)
    assert mild.std() == pytest.approx(vocal.std().item(), rel=1e-4)
