from collections import Counter
from pathlib import Path

import pytest
import torch

from samuel.dataset import Batches, Normaliser, evaluation_pairs, training_pairs
from samuel.errors import DatasetError
from samuel.popdb.shards import Popdb, write_popdb
from tests.popdb.latents import encoded_song, small_settings

CPU = torch.device("cpu")


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    songs = [encoded_song(tmp_path, name) for name in "abcde"]
    return write_popdb(songs, small_settings(tmp_path))


def test_batches_are_normalised(popdb: Popdb) -> None:
    batches = Batches(popdb, batch_size=len(popdb.pairs("train")), seed=0)
    for latents in batches.at(0, CPU):
        assert latents.dtype == torch.float32
        frames = latents.transpose(0, 1).reshape(64, -1)
        assert torch.allclose(frames.mean(dim=1), torch.zeros(64), atol=1e-4)
        assert torch.allclose(frames.std(dim=1, unbiased=False), torch.ones(64), atol=1e-3)


def test_normalisation_is_undone(popdb: Popdb) -> None:
    normaliser = Normaliser.of(popdb.stats)
    _, accompaniment = popdb.read(popdb.index[:2])
    there = normaliser.accompaniment(accompaniment)
    assert torch.allclose(normaliser.accompaniment_latents(there), accompaniment.float(), atol=1e-4)


def test_an_epoch_visits_each_training_pair_once_and_no_other(popdb: Popdb) -> None:
    count = len(popdb.pairs("train"))
    batches = Batches(popdb, batch_size=1, seed=0)
    for epoch in range(3):
        visited = [batches.rows(step)[0]["pair_id"] for step in range(epoch * count, (epoch + 1) * count)]
        assert sorted(visited) == sorted(row["pair_id"] for row in popdb.pairs("train"))


def test_batches_straddle_epochs_without_losing_a_pair(popdb: Popdb) -> None:
    count = len(popdb.pairs("train"))
    batches = Batches(popdb, batch_size=3, seed=0)
    visits = Counter(row["pair_id"] for step in range(count) for row in batches.rows(step))
    assert set(visits.values()) == {3}


def test_the_seed_chooses_the_order(popdb: Popdb) -> None:
    def order(seed: int) -> list[str]:
        return [Batches(popdb, 1, seed).rows(step)[0]["pair_id"] for step in range(8)]

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_a_dataset_of_one_song_is_evaluated_on_what_it_has(tmp_path: Path) -> None:
    popdb = write_popdb([encoded_song(tmp_path, "a")], small_settings(tmp_path))
    assert evaluation_pairs(popdb) == training_pairs(popdb)
    assert len(training_pairs(popdb)) == 2


def test_no_training_pairs_is_an_error(popdb: Popdb) -> None:
    empty = Popdb(popdb.root, popdb.info, popdb.stats, popdb.pairs("validation"))
    with pytest.raises(DatasetError, match="no training pairs"):
        training_pairs(empty)


def test_every_epoch_has_an_order_of_its_own(popdb: Popdb) -> None:
    count = len(popdb.pairs("train"))
    batches = Batches(popdb, batch_size=count, seed=0)
    orders = {tuple(row["pair_id"] for row in batches.rows(epoch)) for epoch in range(4)}
    assert len(orders) > 1
