"""Batches: what a step sees, by one process, by workers and by several ranks."""

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from samuel.errors import DatasetError, SettingsError
from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.loader import (
    SHUFFLE_BLOCK,
    Batches,
    Latents,
    Normaliser,
    epoch_order,
    evaluation_pairs,
    training_pairs,
)
from samuel.popdb.status import Outcome
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, small_settings

CPU = torch.device("cpu")


def songs(root: Path) -> list[Outcome]:
    return [encoded_song(root, name, pairs=3) for name in "abcdefg"]


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("data")
    return write_popdb(songs(root), small_settings(root, popdb={"pairs_per_shard": 2}))


def same(found: Latents, expected: Latents) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))


def order_by_the_book(count: int, seed: int, epoch: int) -> list[int]:
    """What `epoch_order` means, place by place."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    blocks = [list(range(count))[i : i + SHUFFLE_BLOCK] for i in range(0, count, SHUFFLE_BLOCK)]
    order = []
    for block in torch.randperm(len(blocks), generator=generator):
        members = blocks[block]
        order += [members[i] for i in torch.randperm(len(members), generator=generator)]
    return order


def test_batches_are_those_of_their_pairs_normalised(popdb: Popdb) -> None:
    for latents in Batches(popdb, batch_size=len(popdb.pairs("train")), seed=0).at(0, CPU):
        assert latents.dtype == torch.float32
        frames = latents.transpose(0, 1).reshape(64, -1)
        assert torch.allclose(frames.mean(dim=1), torch.zeros(64), atol=1e-4)
        assert torch.allclose(frames.std(dim=1, unbiased=False), torch.ones(64), atol=1e-3)
    batches, normaliser = Batches(popdb, batch_size=4, seed=5), Normaliser.of(popdb.stats)
    rows = {row["pair_id"]: row for row in popdb.index}
    for step in range(6):
        vocal, accompaniment = popdb.read([rows[name] for name in batches.pair_ids(step)])
        assert same(batches.at(step, CPU), (normaliser.vocal(vocal), normaliser.accompaniment(accompaniment)))


def test_normalisation_is_undone_and_leaves_its_input_alone(popdb: Popdb) -> None:
    normaliser = Normaliser.of(popdb.stats)
    _, accompaniment = popdb.read(popdb.index[:2])
    given = accompaniment.float()
    there = normaliser.accompaniment(given)
    assert torch.equal(given, accompaniment.float())
    mean, std = (torch.tensor(popdb.stats["accompaniment"][name])[:, None] for name in ("mean", "std"))
    assert torch.equal(there, (given - mean) / std)
    assert torch.allclose(normaliser.accompaniment_latents(there), given, atol=1e-4)


@pytest.mark.parametrize("count", [1, 7, SHUFFLE_BLOCK, 3 * SHUFFLE_BLOCK - 5])
def test_the_order_is_that_of_a_plain_loop(count: int) -> None:
    for seed, epoch in ((0, 0), (0, 1), (2**32 - 1, 3)):
        assert epoch_order(count, seed, epoch).tolist() == order_by_the_book(count, seed, epoch)
    for seed in (2**64, -(2**70)):  # any whole number is a seed
        assert sorted(epoch_order(count, seed, 1).tolist()) == list(range(count))


def test_few_shards_are_read_from_at_a_time_and_all_are_shuffled() -> None:
    count = 15_713
    order = epoch_order(count, 0, 0)
    shards = order // 256
    for start in range(0, count - SHUFFLE_BLOCK, 64):
        # Of two blocks, or of three where the short last one is in the middle.
        assert len(set(shards[start : start + SHUFFLE_BLOCK].tolist())) <= 3 * SHUFFLE_BLOCK // 256
    inside = order[order < SHUFFLE_BLOCK]
    assert abs(np.corrcoef(inside[:-1], inside[1:])[0, 1]) < 0.1


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 4), (2, 3), (5, 40)])
def test_ranks_and_steps_share_out_the_order_without_overlap_or_loss(
    popdb: Popdb, world_size: int, batch_size: int
) -> None:
    count, epochs = len(popdb.pairs("train")), 3
    endless = [place for epoch in range(epochs) for place in order_by_the_book(count, 9, epoch)]
    ranks = [Batches(popdb, batch_size, 9, rank, world_size) for rank in range(world_size)]
    taken = []
    for step in range(len(endless) // (world_size * batch_size)):
        for batches in ranks:
            taken += batches.places(step).tolist()
    assert taken == endless[: len(taken)]
    assert sorted(taken[:count]) == list(range(min(count, len(taken))))


def test_the_order_does_not_depend_on_the_shards(tmp_path: Path, popdb: Popdb) -> None:
    other = write_popdb(songs(tmp_path), small_settings(tmp_path, popdb={"pairs_per_shard": 5}))
    assert [row["shard"] for row in other.index] != [row["shard"] for row in popdb.index]
    assert all(
        same(Batches(other, 4, 0).at(step, CPU), Batches(popdb, 4, 0).at(step, CPU)) for step in range(8)
    )


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_the_batches_of_each_step(popdb: Popdb, workers: int) -> None:
    def shards_open() -> int:
        files = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
        return sum(str(file.resolve()).startswith(str(popdb.root / "shards")) for file in files)

    before, others = torch.get_rng_state(), shards_open()
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": True} if workers else {}
    batches = Batches(open_popdb(popdb.root), batch_size=4, seed=1, rank=1, world_size=2)
    loader = batches.loader(first_step=3, steps=6, **options)
    assert len(loader) == 6
    for _ in range(2):  # a second pass begins where the first one did
        found = [(vocal.clone(), accompaniment.clone()) for vocal, accompaniment in loader]
        assert (shards_open() > others) == (workers == 0)  # it was a worker who opened them
        expected = [Batches(popdb, 4, 1, 1, 2).pairs.batch(batches.places(step)) for step in range(3, 9)]
        assert len(found) == 6
        assert all(map(same, found, expected))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_sequence_goes_on_from_any_step(popdb: Popdb) -> None:
    batches = Batches(popdb, batch_size=5, seed=1)
    for first_step in (0, 1_000_000):
        found = list(itertools.islice(batches.on(CPU, first_step), 5))
        assert all(same(latents, batches.at(first_step + i, CPU)) for i, latents in enumerate(found))


def test_memory_is_pinned_where_there_is_cuda_unless_told_otherwise(
    popdb: Popdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cuda in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert Batches(popdb, 2, 0).loader().pin_memory is cuda
        assert not Batches(popdb, 2, 0).loader(pin_memory=False).pin_memory


def test_a_step_before_the_first_and_a_rank_outside_the_world_are_refused(popdb: Popdb) -> None:
    batches = Batches(popdb, 2, 0)
    # A loader already before anything is read.
    for call in (lambda: batches.at(-1, CPU), lambda: batches.loader(-1), lambda: batches.on(CPU, -1)):
        with pytest.raises(SettingsError, match="step = -1"):
            call()
    for batch_size, rank, world_size in ((0, 0, 1), (1, 1, 1), (1, -1, 2)):
        with pytest.raises(SettingsError, match=f"batch_size = {batch_size}, rank = {rank}"):
            Batches(popdb, batch_size, 0, rank, world_size)


def test_small_datasets(tmp_path: Path, popdb: Popdb) -> None:
    one_song = write_popdb([encoded_song(tmp_path, "a")], small_settings(tmp_path))
    assert [row["pair_id"] for row in evaluation_pairs(one_song)] == ["a-000", "a-001"]
    assert training_pairs(one_song).pair_ids == ["a-000", "a-001"]
    held_out = dataclasses.replace(popdb, table=popdb.table.filter(pc.field("split") == "validation"))
    with pytest.raises(DatasetError, match="no training pairs"):
        Batches(held_out, 2, 0)
