import pytest
import torch
from scipy import stats
from torch import Tensor

from samuel.config import AugmentationConfig
from samuel.train.objective import augmented

ITEMS, CHANNELS, FRAMES = 400, 64, 32
EVERYTHING = AugmentationConfig(noise=0.3, equaliser=0.4, gain=0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vocal() -> Tensor:
    return torch.randn(ITEMS, CHANNELS, FRAMES, generator=seeded(99))


def test_without_augmentation_nothing_is_drawn_and_the_vocal_itself_comes_back(vocal: Tensor) -> None:
    generator = seeded()
    before = generator.get_state()
    assert augmented(vocal, AugmentationConfig(), generator) is vocal
    assert torch.equal(generator.get_state(), before)


def test_the_gain_of_an_item_is_one_factor_drawn_evenly(vocal: Tensor) -> None:
    out = augmented(vocal, AugmentationConfig(gain=0.5), seeded())
    factors = (out * vocal).sum(dim=(1, 2)) / vocal.square().sum(dim=(1, 2))
    torch.testing.assert_close(out, factors[:, None, None] * vocal)
    assert stats.kstest(factors.numpy(), stats.uniform(0.5, 1.0).cdf).pvalue > 0.01


def test_the_equaliser_shifts_each_channel_of_an_item_for_its_whole_length(vocal: Tensor) -> None:
    added = augmented(vocal, AugmentationConfig(equaliser=0.4), seeded()) - vocal
    torch.testing.assert_close(added, added[:, :, :1].expand_as(added), atol=1e-5, rtol=0)
    offsets = added[:, :, 0]
    assert stats.kstest(offsets.flatten().numpy(), stats.norm(0, 0.4).cdf).pvalue > 0.01
    # Neither channels nor items share what they are shifted by.
    for table in (offsets, offsets.T[:, :CHANNELS]):
        apart = torch.corrcoef(table.T) - torch.eye(table.shape[1])
        assert apart.abs().max() < 6 / table.shape[0] ** 0.5


def test_the_noise_is_white_and_its_deviation_drawn_evenly_for_each_item(vocal: Tensor) -> None:
    added = augmented(vocal, AugmentationConfig(noise=0.3), seeded()) - vocal
    deviations = added.square().mean(dim=(1, 2)).sqrt()
    assert stats.kstest(deviations.numpy(), stats.uniform(0, 0.3).cdf).pvalue > 0.01
    white = added / deviations[:, None, None]
    assert stats.kstest(white[:20].flatten().numpy(), stats.norm.cdf).pvalue > 0.01
    spectrum = torch.fft.fft2(white).abs().square().mean(dim=0) / (CHANNELS * FRAMES)
    # A mean of 400 exponential draws: 1 ± 1/20 at every frequency, over channels and over frames.
    assert (spectrum - 1).abs().max() < 6 / ITEMS**0.5


def test_together_they_add_up_to_the_closed_form() -> None:
    level = 2.0
    out = augmented(torch.full((20_000, 4, 2), level), EVERYTHING, seeded())
    # U(±g) has variance g²/3, N(0, e²) has e², and white noise of deviation U(0, n) has n²/3.
    variance = level**2 * 0.5**2 / 3 + 0.4**2 + 0.3**2 / 3
    assert out.mean().item() == pytest.approx(level, abs=0.02)
    assert out.var().item() == pytest.approx(variance, rel=0.03)
    # Within a channel the frames share gain and equaliser, within an item the channels share the gain.
    of_frames = torch.cov(out[:, 0].T)[0, 1].item()
    of_channels = torch.cov(out[:, :2, 0].T)[0, 1].item()
    assert of_frames == pytest.approx(level**2 * 0.5**2 / 3 + 0.4**2, rel=0.05)
    assert of_channels == pytest.approx(level**2 * 0.5**2 / 3, rel=0.05)
    of_items = torch.corrcoef(torch.stack([out[::2].flatten(), out[1::2].flatten()]))[0, 1].item()
    assert abs(of_items) < 0.03


def test_the_generator_alone_decides(vocal: Tensor) -> None:
    kept = vocal.clone()
    first = augmented(vocal, EVERYTHING, seeded())
    assert torch.equal(vocal, kept)
    assert torch.equal(first, augmented(vocal, EVERYTHING, seeded()))
    assert not torch.equal(first, augmented(vocal, EVERYTHING, seeded(1)))
    assert (first.shape, first.dtype) == (vocal.shape, vocal.dtype)


def test_an_item_does_not_depend_on_what_else_is_in_the_batch(vocal: Tensor) -> None:
    others = vocal.clone()
    others[1:] = 7.0
    assert torch.equal(augmented(vocal, EVERYTHING, seeded())[0], augmented(others, EVERYTHING, seeded())[0])
