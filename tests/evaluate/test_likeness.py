"""Against a plain loop over lags, and copies that were hidden."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel.errors import InputError
from samuel.evaluate import nearest as likeness
from samuel.evaluate.nearest import similarities


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def energy(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    """What counts: at least a tenth of what is usual in the whole, at least a variance of 0.01."""
    own = np.square(part - part.mean(axis=1, keepdims=True)).sum()
    usual = np.square(whole - whole.mean(axis=1, keepdims=True)).sum() / whole.shape[1]
    return max(own, 0.1 * usual * part.shape[1], 0.01 * part.size)


def by_the_book(track: Tensor, pair: Tensor) -> dict[int, float]:
    """Lag → similarity, lag by lag over plain slices."""
    x, y = track.double().numpy(), pair.double().numpy()
    least = min(x.shape[1], y.shape[1]) / 2
    found = {}
    for lag in range(-y.shape[1], x.shape[1]):
        begin, end = max(lag, 0), min(x.shape[1], y.shape[1] + lag)
        if end - begin < least:
            continue
        a, b = x[:, begin:end], y[:, begin - lag : end - lag]
        product = ((a - a.mean(axis=1, keepdims=True)) * (b - b.mean(axis=1, keepdims=True))).sum()
        found[lag] = product / math.sqrt(energy(a, x) * energy(b, y))
    return found


@pytest.mark.parametrize(("frames", "pair_frames"), [(40, 40), (17, 40), (41, 16), (2, 40), (40, 3), (2, 2)])
@pytest.mark.parametrize("quiet", [False, True])
def test_it_is_the_best_of_all_lags(frames: int, pair_frames: int, quiet: bool) -> None:
    tracks, pairs = noise(0, 3, 4, frames).cumsum(dim=-1), noise(1, 5, 4, pair_frames).cumsum(dim=-1) + 7
    if quiet:  # halves, so that the least energies count
        tracks[1, :, : frames // 2] = 3.0
        pairs[2, :, pair_frames // 2 :] *= 1e-3
        pairs[4] *= 1e-3
    values, lags = similarities(tracks, pairs)
    assert values.shape == lags.shape == (3, 5)
    for n, track in enumerate(tracks):
        for p, pair in enumerate(pairs):
            expected = by_the_book(track, pair)
            assert float(values[n, p]) == pytest.approx(max(expected.values()), abs=1e-4)
            assert expected[int(lags[n, p])] == pytest.approx(max(expected.values()), abs=1e-4)


@pytest.mark.parametrize("lag", [-500, -300, -1, 0, 1, 77, 300, 512])
def test_a_copy_is_found_wherever_it_lies(lag: int) -> None:
    long = noise(0, 8, 3000)
    pair, track = long[None, :, 1000:2024], long[None, :, 1000 - lag : 2024 - lag].clone()
    values, lags = similarities(track, pair)
    assert values.item() == pytest.approx(1.0, abs=1e-4)
    assert lags.item() == lag


def test_level_and_balance_of_a_copy_do_not_matter() -> None:
    pair = noise(0, 1, 8, 400)
    values, _ = similarities(torch.cat([pair * 3, pair * 0.2, pair + noise(1, 1, 8, 1) * 5]), pair)
    assert values[:, 0].tolist() == pytest.approx([1.0] * 3, abs=1e-4)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.0])
def test_noise_on_a_copy_counts_by_its_energy(deviation: float) -> None:
    pair = noise(0, 1, 16, 1000)
    values, lags = similarities(pair + deviation * noise(1, 1, 16, 1000), pair)
    assert values.item() == pytest.approx(1 / math.sqrt(1 + deviation**2), abs=0.02)
    assert lags.item() == 0


def test_what_is_unrelated_is_alike_by_chance_alone() -> None:
    values, _ = similarities(noise(0, 3, 16, 1000), noise(1, 4, 16, 1000))
    # Pearson's correlation of n values has a deviation of 1 / √n; of 1,001 lags the best is near 3.3 of them.
    deviation = 1 / math.sqrt(16 * 500)
    assert float(values.min()) > 0
    assert float(values.max()) < 5 * deviation


def test_silence_is_alike_to_nothing() -> None:
    click = torch.zeros(1, 4, 200)
    click[..., 100] = 0.1
    steady = torch.cat([torch.zeros(1, 4, 200), torch.full((1, 4, 200), 1e4), click])
    values, _ = similarities(
        torch.cat([steady, noise(0, 1, 4, 200)]), torch.cat([steady, noise(1, 1, 4, 200)])
    )
    assert values.isfinite().all()
    assert float(values[:3].abs().max()) < 0.1  # silence with silence too, and one click with another
    assert float(values[:, :3].abs().max()) < 0.1


def test_a_short_likeness_in_a_quiet_stretch_is_not_the_likeness_of_the_whole() -> None:
    # Both fade away into the same murmur: alone, in a half-empty overlap, it would be a perfect copy.
    murmur = 0.02 * noise(0, 1, 4, 100)
    track, pair = torch.cat([noise(1, 1, 4, 100), murmur], -1), torch.cat([murmur, noise(2, 1, 4, 100)], -1)
    values, lags = similarities(track, pair)
    assert by_the_book(track[0], pair[0])[int(lags)] == pytest.approx(values.item(), abs=1e-4)
    assert values.item() < 0.3


def test_more_tracks_than_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks, pairs = noise(0, 7, 4, 50), noise(1, 3, 4, 60)
    whole = similarities(tracks, pairs)
    monkeypatch.setattr(likeness, "TRACKS", 2)
    for found, expected in zip(similarities(tracks, pairs), whole, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_half_precision_is_read_too() -> None:
    pair = noise(0, 1, 4, 300)
    values, _ = similarities(pair.half(), pair.double())
    assert values.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("tracks", "pairs", "message"),
    [
        (torch.zeros(1, 4, 1), torch.zeros(1, 4, 9), r"tracks of shape \(1, 4, 1\)"),
        (torch.zeros(4, 9), torch.zeros(1, 4, 9), "tracks of shape"),
        (torch.zeros(1, 4, 9), torch.zeros(1, 4, 1), "pairs of shape"),
        (torch.zeros(1, 4, 9), torch.zeros(1, 5, 9), "4 channels"),
        (torch.full((1, 4, 9), math.nan), torch.zeros(1, 4, 9), "tracks hold NaN"),
        (torch.zeros(1, 4, 9), torch.full((1, 4, 9), math.inf), "pairs hold NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(tracks: Tensor, pairs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        similarities(tracks, pairs)
