import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from samuel.config import Settings
from samuel.errors import DatasetError
from samuel.model.unet import SamuelUNet
from samuel.popdb.dataset import Popdb
from samuel.popdb.writer import write_popdb
from samuel.train.validation import LEVELS, ConditioningGain, Validation, conditioning_gain
from tests.model.conftest import awake
from tests.popdb.latents import encoded_song, small_settings


def test_it_is_measured_on_every_held_out_pair_and_grouped_by_song(popdb: Popdb, settings: Settings) -> None:
    network = awake(settings.model)
    gain = conditioning_gain(network, popdb)
    one_by_one = Validation(popdb, 100, network.schedule)
    own, other = (errors.numpy() for errors in one_by_one.errors(network))
    assert own.shape == (6, LEVELS)
    assert gain.pairs == 6
    assert gain.own.numpy() == pytest.approx(own.mean(axis=0), rel=1e-6)
    assert gain.other.numpy() == pytest.approx(other.mean(axis=0), rel=1e-6)
    by_song = (other - own).reshape(3, 2, LEVELS).mean(axis=1)  # two pairs of each, one after the other
    assert gain.by_song.numpy() == pytest.approx(by_song, rel=1e-4, abs=1e-7)
    loss = one_by_one.losses(network)["validation_loss"]
    assert gain.own.mean().item() == pytest.approx(loss, rel=1e-6)


def gain_of(by_song: Tensor) -> ConditioningGain:
    own = torch.full((by_song.shape[1],), 0.5)
    return ConditioningGain([100, 300], 4, own, own + by_song.mean(dim=0), by_song)


def test_the_table_tells_mean_and_standard_error_over_the_songs() -> None:
    by_song = torch.tensor([[0.01, 0.03], [0.02, 0.05], [-0.04, 0.01]], dtype=torch.float64)
    gain = gain_of(by_song)
    expected = by_song.numpy()
    for row, column in zip(gain.table(), [*expected.T, expected.mean(axis=1)], strict=True):
        error = column.std(ddof=1) / math.sqrt(3)
        assert row["difference"] == f"{np.mean(column):+.4f} ± {error:.4f}"
    assert [row["t"] for row in gain.table()] == ["100", "300", "all"]
    assert gain.sentence() == "worse with another song's vocal: 2 of 3 songs (4 pairs)"


def test_one_song_cannot_be_exchanged(tmp_path: Path, settings: Settings) -> None:
    popdb = write_popdb([encoded_song(tmp_path, "a")], small_settings(tmp_path))
    with pytest.raises(DatasetError, match="one song to validate on"):
        conditioning_gain(SamuelUNet(settings.model), popdb)
