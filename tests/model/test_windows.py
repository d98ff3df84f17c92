from itertools import pairwise

import pytest
import torch
from torch import Tensor

from samuel.config import SamplingConfig
from samuel.model.diffusion import CosineSchedule
from samuel.model.guidance import Denoiser
from samuel.model.sample import sample
from samuel.model.windows import Windowed, window_starts
from tests.model.conftest import awake

SCHEDULE = CosineSchedule()


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


@pytest.mark.parametrize("length", [64, 65, 100, 1000])
@pytest.mark.parametrize("at_a_time", [1, 2, 5])
def test_windows_change_nothing_where_frames_stand_alone(length: int, at_a_time: int) -> None:
    network, x, vocal = Pointwise(), torch.randn(2, 8, length), torch.randn(2, 8, length)
    t = torch.tensor([3, 700])
    v = Windowed(network, 64, 16, at_a_time)(x, t, vocal)
    assert {shape[2] for shape in network.shapes} == {64}
    torch.testing.assert_close(v, network(x, t, vocal), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(Windowed(network, 64, 16)(x, t, None), x.sin())


class WindowNumber(Pointwise):
    """Predicts for all frames of a window how many windows were predicted before it."""

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        self.shapes.append(tuple(x_t.shape))
        return torch.full_like(x_t, len(self.shapes) - 1)


def test_one_window_passes_into_the_next_in_small_steps() -> None:
    # The hardest case: windows that do not agree at all. A plain average would jump by a half.
    network = WindowNumber()
    v = Windowed(network, 64, 16, at_a_time=1)(torch.zeros(1, 1, 160), torch.tensor([0]), None)[0, 0]
    assert (v[0], v[-1]) == (0.0, 2.0)
    change = v.diff()
    assert (change >= 0).all()
    assert change.max() <= 1.5 / 16


def test_a_song_in_windows_takes_memory_for_a_few() -> None:
    network = Pointwise()
    Windowed(network, 64, 16, at_a_time=2)(torch.zeros(2, 8, 6000), torch.zeros(2, dtype=torch.int64), None)
    assert len(network.shapes) > 100
    assert {shape[0] for shape in network.shapes} == {2}


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


class Mismatched(Pointwise):
    """Wants the vocal itself as accompaniment, less its mean: windows disagree by an offset."""

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        assert vocal is not None
        x0 = vocal - vocal.mean(dim=-1, keepdim=True)
        signal, noise = SCHEDULE.levels(t, x_t)
        return (signal * x_t - x0) / noise


def seam_score(denoiser: Denoiser, starts: list[int], frames: int) -> float:
    """Deviations by which the change from frame to frame where windows begin and end exceeds that elsewhere.

    The vocal is 256 slow sines of random phase.
    """
    length, phase = 2080, 6.28 * torch.rand(256, 1, generator=torch.Generator().manual_seed(1))
    vocal = (torch.arange(length) * (6.28 / 100) + phase).sin()[None]
    config = SamplingConfig(steps=8, guidance_scale=1)
    x0 = sample(denoiser, vocal, SCHEDULE, config, torch.Generator().manual_seed(0))
    change = x0.diff(dim=-1).abs().mean(dim=(0, 1))
    seams = torch.zeros(length - 1, dtype=torch.bool)
    for start in starts:
        for edge in {start - 1, start + frames - 1} - {-1, length - 1}:
            seams[edge] = True
    at, elsewhere = change[seams], change[~seams]
    return float((at.mean() - elsewhere.mean()) / elsewhere.std())


def test_a_seam_cannot_be_told_from_other_frames() -> None:
    denoiser = Windowed(Mismatched(), 160, 40)
    assert abs(seam_score(denoiser, window_starts(2080, 160, 40), 160)) < 0.5


def test_what_has_seams_is_told() -> None:
    """So the measure can fail: windows laid side by side, and a plain average of overlapping ones."""

    def side_by_side(x: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        assert vocal is not None
        parts = zip(x.split(160, dim=-1), vocal.split(160, dim=-1), strict=True)
        return torch.cat([Mismatched()(a, t, b) for a, b in parts], dim=-1)

    def plain(x: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        assert vocal is not None
        total, count = torch.zeros_like(x), torch.zeros(x.shape[-1])
        for start in window_starts(2080, 160, 40):
            part = slice(start, start + 160)
            total[..., part] += Mismatched()(x[..., part], t, vocal[..., part])
            count[part] += 1
        return total / count

    assert seam_score(side_by_side, list(range(0, 2080, 160)), 160) > 5
    assert seam_score(plain, window_starts(2080, 160, 40), 160) > 5
