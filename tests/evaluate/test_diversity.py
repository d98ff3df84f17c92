"""Takes of which the correlation is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from samuel.errors import InputError
from samuel.evaluate.diversity import Diversity, diversity

CHANNELS, FRAMES = 8, 4096


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, CHANNELS, FRAMES, generator=torch.Generator().manual_seed(seed))


def takes_of(share: float, songs: int = 3, takes: int = 3) -> Tensor:
    """Takes that correlate with each other by `share`: what the vocal sets, and what the seed sets."""
    song, seed = noise(0, songs, 1), noise(1, songs, takes)
    return math.sqrt(share) * song + math.sqrt(1 - share) * seed


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_takes_are_as_unlike_as_the_seed_makes_them(share: float) -> None:
    found = diversity(takes_of(share))
    assert found.takes == 3
    assert found.tracks == pytest.approx([1 - share] * 3, abs=0.02)
    assert found.between_takes == pytest.approx(1 - share, abs=0.02)
    assert found.between_songs == pytest.approx(1.0, abs=0.02)


def test_it_is_one_minus_numpys_correlation_of_centred_takes() -> None:
    found = diversity(takes := takes_of(0.5, songs=2) + torch.arange(8.0)[:, None])
    centred = (takes - takes.mean(dim=-1, keepdim=True)).double().numpy().reshape(2, 3, -1)
    own = [1 - np.corrcoef(track)[np.triu_indices(3, 1)].mean() for track in centred]
    assert found.tracks == pytest.approx(own, abs=1e-5)
    assert found.between_takes == pytest.approx(np.mean(own), abs=1e-5)
    assert found.between_songs == pytest.approx(1 - np.corrcoef(centred[:, 0])[0, 1], abs=1e-5)


def test_a_seed_that_does_not_matter_gives_nothing() -> None:
    song = noise(0, 2, 1)
    louder = torch.tensor([1.0, 0.5, 3.0])[None, :, None, None]  # and brighter, which does not count
    found = diversity(song * louder + louder * torch.arange(8.0)[:, None])
    assert found.between_takes == pytest.approx(0.0, abs=1e-5)
    assert found.between_songs == pytest.approx(1.0, abs=0.02)


def test_a_model_that_ignores_the_vocal_is_told_apart_from_one_that_ignores_the_seed() -> None:
    same_for_all = noise(0, 1, 2).expand(3, 2, CHANNELS, FRAMES)
    found = diversity(same_for_all)
    assert found.between_songs == pytest.approx(0.0, abs=1e-5)
    assert found.between_takes == pytest.approx(1.0, abs=0.02)


def test_opposite_takes_are_twice_as_unlike_as_unrelated_ones() -> None:
    take = noise(0)
    assert diversity(torch.stack([take, -take])[None]).between_takes == pytest.approx(2.0)


def test_what_cannot_be_measured_is_none() -> None:
    assert diversity(noise(0, 2, 1)).between_takes is None
    assert diversity(noise(0, 2, 1)).tracks == (None, None)
    assert diversity(noise(0, 1, 2)).between_songs is None
    assert diversity(noise(0, 1, 1)) == Diversity(1, None, None, (None,))


def test_constant_takes_are_left_out() -> None:
    takes = takes_of(0.3)
    takes[1] = 2.5  # a silent track
    takes[0, 0] = 0.0  # a silent take
    found = diversity(takes)
    assert found.tracks[1] is None
    assert found.tracks[0] == pytest.approx(0.7, abs=0.02)
    assert found.between_takes == pytest.approx(0.7, abs=0.02)
    assert found.between_songs is None  # two of three first takes are silent


def test_tracks_of_unequal_length_are_compared_over_the_shorter() -> None:
    first, second = noise(0, 2), noise(1, 2)[..., :1000]
    second[0] = first[0, :, :1000]
    found = diversity([first, second])
    assert found.between_songs == pytest.approx(0.0, abs=1e-5)
    assert found.between_takes == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        ([], "there must be one"),
        ([torch.zeros(2, 3)], r"shapes \[\(2, 3\)\]"),
        ([torch.zeros(0, 3, 4)], "there must be one"),
        ([torch.zeros(2, 3, 4), torch.zeros(1, 3, 4)], "same number of takes"),
        ([torch.full((2, 3, 4), math.nan)], "NaN or infinite"),
    ],
)
def test_no_takes_at_all_are_refused(tracks: list[Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        diversity(tracks)
