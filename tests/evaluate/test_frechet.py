import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from samuel.errors import InputError
from samuel.evaluate.frechet import frechet_distance


def noise(seed: int, items: int = 64, channels: int = 3, frames: int = 512) -> Tensor:
    return torch.randn(items, channels, frames, generator=torch.Generator().manual_seed(seed))


def of_windows(latents: Tensor) -> np.ndarray:
    """Every frame beside its successor, item by item: (N (T - 1), 2C), by a plain loop."""
    rows = [
        np.concatenate([item[:, t], item[:, t + 1]])
        for item in latents.double().numpy()
        for t in range(item.shape[1] - 1)
    ]
    return np.stack(rows)


def test_it_is_the_formula_by_scipys_square_root() -> None:
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.2, 0.0, 0.7]])
    first, second = noise(0, 4, frames=50), (mixing @ noise(1, 3, frames=70)).cumsum(dim=-1) / 5
    a, b = of_windows(first), of_windows(second)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(cov_a @ cov_b))
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert expected > 1
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_a_set_has_no_distance_to_itself() -> None:
    latents = noise(0)
    assert 0 <= frechet_distance(latents, latents.clone()) < 1e-9
    assert 0 <= frechet_distance(latents, latents.flip(0)) < 1e-9  # in whatever order


def test_gaussians_that_are_known() -> None:
    # White noise shifted by m and scaled by s: each of the 2C numbers is m² + (1 - s)² away.
    assert frechet_distance(3 * noise(0) + 2, noise(1)) == pytest.approx(6 * (2**2 + (3 - 1) ** 2), rel=0.01)
    assert frechet_distance(noise(0), noise(1)) < 0.01


def test_what_counts_is_also_how_frames_follow_each_other() -> None:
    # Each value stands for two frames: alone a frame is the same noise, with its successor it is not.
    # Their correlation is 1 in half of the places, so ½ over all: 2 C (2 - √½ - √1½).
    held = noise(0, frames=256).repeat_interleave(2, dim=-1)
    expected = 3 * (4 - 2 * np.sqrt(0.5) - 2 * np.sqrt(1.5))
    assert frechet_distance(held, noise(1)) == pytest.approx(expected, rel=0.05)


def test_it_grows_with_a_shift() -> None:
    latents = noise(0)
    distances = [frechet_distance(latents + shift, latents) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert distances == pytest.approx([0.0, 1.5, 6.0, 24.0], abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    # LAPACK would end the process.
    latents = noise(0, 2, frames=8)
    latents[1, 2, 3] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        frechet_distance(noise(0, 2, frames=8), latents)


@pytest.mark.parametrize("shape", [(2, 3, 1), (0, 3, 8)])
def test_frames_without_a_successor_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="no two frames"):
        frechet_distance(torch.zeros(shape), noise(0, 2, frames=8))
