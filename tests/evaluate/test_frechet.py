import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from samuel.errors import InputError
from samuel.evaluate import frechet
from samuel.evaluate.frechet import (
    Floor,
    Gaussian,
    floor,
    frechet_distance,
    gaussian_distance,
    halves_distance,
)


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


def by_scipy(first: Tensor, second: Tensor) -> float:
    a, b = of_windows(first), of_windows(second)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    return float(
        np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b)))
    )


def songs_of(items: int, each: int) -> list[str]:
    return [f"song {place // each}" for place in range(items)]


def coloured(songs: Sequence[str], seed: int = 0, frames: int = 40) -> Tensor:
    """Items of which those of one song share a mean and a deviation."""
    means = {
        song: 2 * torch.randn(3, 1, generator=torch.Generator().manual_seed(i))
        for i, song in enumerate(sorted(set(songs)))
    }
    return torch.stack(
        [
            (1 + means[song].abs()) * item + means[song]
            for song, item in zip(songs, noise(seed, len(songs), frames=frames), strict=True)
        ]
    )


def test_sets_can_be_added_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "AT_A_TIME", 70)  # frames: parts of one item, and of several
    first, second = coloured(songs_of(9, 3)), noise(5, 4, frames=200)
    pieces = Gaussian(3).add(first[:2]).add(first[2:3].half().float()).add(first[3:])
    assert (pieces.items, pieces.points, pieces.channels) == (9, 9 * 39, 3)
    whole = of_windows(first)
    assert np.allclose(pieces.mean.numpy(), whole.mean(axis=0), atol=1e-4)
    assert np.allclose(pieces.covariance.numpy(), np.cov(whole.T), atol=1e-3)
    summed = Gaussian.sum([Gaussian.of(first[:4]), Gaussian.of(first[4:])])
    assert gaussian_distance(summed, Gaussian.of(second)) == pytest.approx(by_scipy(first, second), rel=1e-9)
    assert summed.items == 9


def test_a_sum_leaves_its_parts_alone() -> None:
    parts = [Gaussian.of(noise(seed, 2, frames=9)) for seed in range(2)]
    before = parts[0].covariance
    Gaussian.sum(parts)
    assert torch.equal(parts[0].covariance, before)


def test_few_frames_and_a_constant_channel_do_not_end_it() -> None:
    few, other = noise(0, 1, 20, frames=12), noise(1, 1, 20, frames=12)  # 11 points in 40 dimensions
    assert frechet_distance(few, few.clone()) == pytest.approx(0, abs=1e-4)
    # What no point spans adds nothing, so that both may be turned into the 22 dimensions that they span.
    a, b = of_windows(few), of_windows(other)
    basis = np.linalg.qr(np.concatenate([a - a.mean(0), b - b.mean(0)]).T)[0]
    roots = []
    for points in (a, b):
        values, vectors = np.linalg.eigh(np.cov((points @ basis).T))
        roots.append(vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T)
    fidelity = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * fidelity
    assert frechet_distance(few, other) == pytest.approx(expected, rel=1e-4)
    dead = noise(0, 8, 3)
    dead[:, 1] = 5.0
    assert frechet_distance(dead, dead.clone()) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(dead, noise(1, 8, 3)) == pytest.approx(2 * (5**2 + 1), rel=0.05)
    silence = torch.zeros(2, 3, 50)
    assert frechet_distance(silence, silence) == 0
    assert frechet_distance(silence, noise(1)) == pytest.approx(6, rel=0.05)


def test_a_single_point_is_refused() -> None:
    with pytest.raises(InputError, match="no covariance"):
        frechet_distance(noise(0, 1, frames=2), noise(1))


def test_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match="of 3 and of 4 channels"):
        frechet_distance(noise(0, channels=3), noise(0, channels=4))
    with pytest.raises(InputError, match="4 channels were expected"):
        Gaussian(4).add(noise(0, channels=3))
    with pytest.raises(InputError, match=r"must be \(N, C, T\)"):
        Gaussian.of(torch.zeros(3, 4))


def test_halves_are_those_of_songs() -> None:
    songs = [name for name in "cabd" for _ in range(3)]
    true = coloured(songs)
    members = {name: [place for place, song in enumerate(songs) if song == name] for name in "abcd"}
    possible = [
        by_scipy(
            true[[*members[one], *members[other]]],
            true[[p for n in "abcd" if n not in (one, other) for p in members[n]]],
        )
        for one, other in combinations("abcd", 2)
    ]
    found = halves_distance(true, songs, splits=40, seed=0)
    assert (found.splits, found.items) == (40, 6)
    assert found.low == pytest.approx(min(possible), rel=1e-9)
    assert found.high == pytest.approx(max(possible), rel=1e-9)
    assert found.low < found.mean < found.high
    once = [halves_distance(true, songs, splits=1, seed=seed) for seed in range(10)]
    for one in once:
        assert one.low == one.mean == one.high
        assert min(abs(one.mean - distance) for distance in possible) < 1e-9 * one.mean
    assert len({one.mean for one in once}) > 1


def test_the_songs_keep_items_apart_that_are_alike() -> None:
    songs = songs_of(24, 4)
    true = coloured(songs)
    shuffled = [f"item {place}" for place in range(24)]
    assert halves_distance(true, songs, 10, 0).mean > 2 * halves_distance(true, shuffled, 10, 0).mean


def test_a_floor_is_of_as_many_items_of_as_many_songs() -> None:
    songs = songs_of(24, 4)
    true = coloured(songs)
    found = floor(true, songs, items=1, splits=200, seed=0)
    assert (found.splits, found.items) == (200, 1)
    possible = [
        by_scipy(true[[place]], true[[other for other in range(24) if songs[other] != songs[place]]])
        for place in range(24)
    ]
    assert found.low == pytest.approx(min(possible), rel=1e-9)
    assert found.high == pytest.approx(max(possible), rel=1e-9)
    assert found.mean == pytest.approx(np.mean(possible), rel=0.1)


def test_a_floor_takes_songs_in_turn_and_from_half_of_them_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    songs = songs_of(24, 4)
    true = torch.arange(24.0)[:, None, None] + 1e-3 * noise(0, 24, frames=5)
    rest: list[Gaussian] = []

    def keep(first: Gaussian, second: Gaussian) -> float:
        rest.append(second)
        return 1.0

    def remember(latents: Tensor) -> Gaussian:
        drawn.append({round(float(item[0, 0])) for item in latents})
        return Gaussian(3).add(latents)

    drawn: list[set[int]] = []
    monkeypatch.setattr(frechet, "gaussian_distance", keep)
    monkeypatch.setattr(Gaussian, "of", remember)
    for items, from_each in ((2, [1] * 2), (3, [1] * 3), (7, [2, 2, 3]), (99, [4] * 3)):
        assert floor(true, songs, items, splits=1, seed=1).items == min(items, 12)
        places = drawn[-1]
        chosen = {songs[place] for place in places}
        assert sorted(sum(songs[place] == song for place in places) for song in chosen) == from_each
        others = [place for place in range(24) if songs[place] not in chosen]
        assert rest[-1].items == len(others)
        assert float(rest[-1].mean[0]) == pytest.approx(np.mean(others), abs=1e-2)


def test_a_floor_falls_with_the_items_and_does_not_depend_on_their_order() -> None:
    songs = songs_of(60, 2)
    true = noise(3, 60, frames=40)
    floors = [floor(true, songs, items, splits=8, seed=0).mean for items in (1, 4, 15, 30)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] > 4 * floors[-1]
    halves = halves_distance(true, songs, 8, 0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    again = halves_distance(true[order], [songs[place] for place in order], 8, 0)
    assert (again.mean, again.low, again.high) == pytest.approx((halves.mean, halves.low, halves.high))


def test_unequal_songs_give_halves_as_equal_as_they_allow() -> None:
    songs = ["long"] * 5 + ["b", "c", "d", "e", "f"]
    assert halves_distance(noise(0, 10, frames=40), songs, 5, 0).items >= 4
    assert halves_distance(noise(0, 7, frames=40), [*"aaaaaa", "b"], 5, 0).items == 1


def halved(true: Tensor, songs: Sequence[str]) -> Floor:
    return halves_distance(true, songs, splits=2, seed=0)


def of_two(true: Tensor, songs: Sequence[str]) -> Floor:
    return floor(true, songs, items=2, splits=2, seed=0)


@pytest.mark.parametrize("measure", [halved, of_two])
def test_a_floor_needs_two_songs_and_a_name_for_each_item(
    measure: Callable[[Tensor, Sequence[str]], Floor],
) -> None:
    with pytest.raises(InputError, match="1 songs: a floor needs two"):
        measure(noise(0, 3, frames=9), ["a"] * 3)
    with pytest.raises(InputError, match="3 items, but the songs of 2"):
        measure(noise(0, 3, frames=9), ["a", "b"])
    broken = noise(0, 3, frames=9)
    broken[1, 2, 3] = math.nan
    with pytest.raises(InputError, match="NaN"):
        measure(broken, ["a", "b", "c"])


def test_no_splits_and_no_items_are_refused() -> None:
    true, songs = noise(0, 4, frames=9), [*"abcd"]
    with pytest.raises(InputError, match="splits = 0"):
        halves_distance(true, songs, 0, 0)
    with pytest.raises(InputError, match="items = 0"):
        floor(true, songs, 0, 2, 0)
