import numpy as np
import pytest
import torch

from samuel.errors import InputError
from samuel.evaluate.following import crossed_distances
from samuel.evaluate.frechet import Gaussian, frechet_distance


def songs(seed: int, names: str = "abcdef", shift: float = 0.0) -> dict[str, torch.Tensor]:
    """Songs that are unlike each other: each lies somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(len(names), 3, 1, generator=torch.Generator().manual_seed(9))
    return {
        name: place + shift + torch.randn(2, 3, 40, generator=generator)
        for name, place in zip(names, places, strict=True)
    }


def gaussians(items: dict[str, torch.Tensor]) -> dict[str, Gaussian]:
    return {name: Gaussian.of(part) for name, part in items.items()}


def test_a_system_of_the_true_items_comes_to_its_floor() -> None:
    true = gaussians(songs(0))
    distances, floors = crossed_distances(true, {"true": true, "again": gaussians(songs(1))}, 10, 0)
    assert distances["true"] == floors["true"].mean
    assert distances["again"] == pytest.approx(floors["again"].mean, rel=0.1)
    assert floors["true"].low <= floors["true"].mean <= floors["true"].high
    assert floors["true"].items == 6


def test_one_halving_is_the_distance_of_its_sides() -> None:
    true, made = songs(0), songs(1, shift=2.0)
    distances, floors = crossed_distances(gaussians(true), {"made": gaussians(made)}, 1, 3)
    order = ["abcdef"[place] for place in np.random.default_rng(3).permutation(6)]
    one, other = order[:3], order[3:]
    expected = frechet_distance(
        *(torch.cat([side[n] for n in names]) for side, names in ((made, one), (true, other)))
    )
    assert distances["made"] == pytest.approx(expected)
    floor = frechet_distance(*(torch.cat([true[n] for n in names]) for names in (one, other)))
    assert floors["made"].mean == pytest.approx(floor)


def test_songs_that_a_system_lacks_are_left_out_on_both_sides() -> None:
    true = gaussians(songs(0))
    few = {name: part for name, part in true.items() if name in "ab"}
    distances, floors = crossed_distances(true, {"few": few, "one": {"a": true["a"]}}, 4, 0)
    assert distances.keys() == {"few"}
    assert distances["few"] == floors["few"].mean
    assert floors["few"].items == 2
    with pytest.raises(InputError, match="one song alone"):
        crossed_distances({"a": true["a"]}, {"few": few}, 4, 0)
