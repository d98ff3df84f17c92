from itertools import pairwise

import pytest
import torch
from torch import Tensor

from samuel.model.windows import Windowed, window_starts
from tests.model.conftest import awake


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


def test_a_short_song_goes_through_whole() -> None:
    network, x, t = awake().eval(), torch.randn(1, 64, 48), torch.tensor([500])
    with torch.no_grad():
        assert torch.equal(Windowed(network, 64, 16)(x, t, x), network(x, t, x))
