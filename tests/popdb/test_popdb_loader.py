"""Batches: what a step sees, by one process, by workers and by several ranks."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from samuel.popdb.dataset import Popdb, open_popdb
from samuel.popdb.loader import SHUFFLE_BLOCK, Batches, Latents, Normaliser, epoch_order
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


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 4), (2, 3), (5, 40)])
def test_ranks_and_steps_share_out_the_order(popdb: Popdb, world_size: int, batch_size: int) -> None:
    count, epochs = len(popdb.pairs("train")), 3
    endless = [place for epoch in range(epochs) for place in order_by_the_book(count, 9, epoch)]
    ranks = [Batches(popdb, batch_size, 9, rank, world_size) for rank in range(world_size)]
    taken = []
    for step in range(len(endless) // (world_size * batch_size)):
        for batches in ranks:
            taken += batches.places(step).tolist()
    assert taken == endless[: len(taken)]
    assert sorted(taken[:count]) == list(range(min(count, len(taken))))


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


@pytest.mark.parametrize("count", [1, 7, SHUFFLE_BLOCK, 3 * SHUFFLE_BLOCK - 5])
def test_the_order_is_that_of_a_plain_loop(count: int) -> None:
    for seed, epoch in ((0, 0), (0, 1), (2**32 - 1, 3)):
        assert epoch_order(count, seed, epoch).tolist() == order_by_the_book(count, seed, epoch)
    for seed in (2**64, -(2**70)):  # any whole number is a seed
        assert sorted(epoch_order(count, seed, 1).tolist()) == list(range(count))
