import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samuel.config import Settings
from samuel.errors import DatasetError
from samuel.model.diffusion import CosineSchedule
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from samuel.train.validation import LEVELS, NOISES, Validation, conditioning_gain, other_songs
from tests.model.conftest import awake


class Listener(nn.Module):
    """Predicts a multiple of the vocal it is given."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x_t: Tensor, t: Tensor, vocal: Tensor) -> Tensor:
        return self.factor * vocal + 0 * x_t


def validation(popdb: Popdb, **options: int) -> Validation:
    return Validation(popdb, options.pop("most", 100), CosineSchedule(), **options)


def by_the_book(popdb: Popdb, checked: Validation, factor: float) -> list[list[float]]:
    """Both losses of every pair at every level, from the definitions of x0, v and ᾱ."""
    pairs, normaliser = popdb.dataset("validation"), Normaliser.of(popdb.stats)
    alpha_bar = CosineSchedule().alpha_bar.double()
    found: list[list[float]] = [[], []]
    for number in range(len(pairs)):
        x0 = normaliser.accompaniment(pairs[number][1][None])[0].double()
        assert checked.others is not None
        for kind, given in enumerate((number, checked.others[number])):
            vocal = normaliser.vocal(pairs[given][0][None])[0].double()
            for level in range(LEVELS):
                t = int((level + 0.5) / LEVELS * 800)
                v = alpha_bar[t].sqrt() * checked.noise[number % NOISES, level].double()
                v = v - (1 - alpha_bar[t]).sqrt() * x0
                found[kind].append((factor * vocal - v).square().mean().item())
    return found


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_the_losses_are_those_of_their_definition(popdb: Popdb, factor: float) -> None:
    checked, before = validation(popdb), torch.get_rng_state()
    losses = checked.losses(Listener(factor))
    assert torch.equal(torch.get_rng_state(), before)
    own, other = (np.reshape(kind, (-1, LEVELS)).mean(axis=1) for kind in by_the_book(popdb, checked, factor))
    assert losses["validation_loss"] == pytest.approx(own.mean(), rel=1e-5)
    assert losses["validation_shuffled"] == pytest.approx(other.mean(), rel=1e-5)
    error = (other - own).std(ddof=1) / math.sqrt(len(own))
    assert losses["conditioning_gain_error"] == pytest.approx(error, rel=1e-4, abs=1e-9)
    assert (losses["validation_loss"] == losses["validation_shuffled"]) is (factor == 0)


def test_a_loss_that_is_not_a_number_is_an_error(popdb: Popdb) -> None:
    with pytest.raises(DatasetError, match=r"the validation loss is nan; lower training\.learning_rate"):
        validation(popdb).losses(Listener(math.nan))


def test_the_conditioning_gain_is_grouped_by_song(popdb: Popdb, settings: Settings) -> None:
    network = awake(settings.model)
    gain = conditioning_gain(network, popdb)
    by_pair = Validation(popdb, 100, network.schedule)
    own, other = (errors.numpy() for errors in by_pair.errors(network))
    assert own.shape == (6, LEVELS)
    by_song = (other - own).reshape(3, 2, LEVELS).mean(axis=1)  # two pairs of each, one after the other
    expected = np.concatenate([by_song, by_song.mean(axis=1, keepdims=True)], axis=1)
    assert list(gain.index) == ["100", "300", "500", "700", "all"]
    assert gain["own"].to_numpy() == pytest.approx([*own.mean(axis=0), own.mean()], rel=1e-5)
    assert gain["another"].to_numpy() == pytest.approx([*other.mean(axis=0), other.mean()], rel=1e-5)
    assert gain["gain"].to_numpy() == pytest.approx(expected.mean(axis=0), rel=1e-3, abs=1e-7)
    errors = expected.std(axis=0, ddof=1) / math.sqrt(3)
    assert gain["standard error"].to_numpy() == pytest.approx(errors, rel=1e-3, abs=1e-7)
    assert list(gain["songs above 0"]) == [f"{count} of 3" for count in (expected > 0).sum(axis=0)]


@pytest.mark.parametrize(
    ("songs", "others"),
    [
        ("aabbcc", [3, 4, 5, 0, 1, 2]),
        ("aaab", [3, 3, 3, 1]),  # as soon after half-way as there is one
        ("aa", None),
    ],
)
def test_the_other_vocal_is_of_another_song(songs: str, others: list[int] | None) -> None:
    found = other_songs(songs)
    assert (found if found is None else found.tolist()) == others
