"""POPDB → normalised batches.

Which pairs a step sees follows from (seed, step) and the pairs alone, not from where they lie: a run that was
killed goes on with the same batches, and the number of the step is all that has to be saved.

Shapes: B batch, C latent channels, T frames.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from samuel.errors import DatasetError, SettingsError
from samuel.popdb.dataset import PairDataset, Popdb
from samuel.popdb.shards import STREAMS

SHUFFLE_BLOCK = 2048
"""Pairs that are shuffled among themselves, those of eight full shards: few are read from at a time."""

Latents = tuple[Tensor, Tensor]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Normaliser:
    """Per-channel affine maps of both streams, from the training songs; every tensor is (C, 1) float32."""

    vocal_mean: Tensor
    vocal_std: Tensor
    accompaniment_mean: Tensor
    accompaniment_std: Tensor

    @classmethod
    def of(cls, stats: dict[str, dict[str, list[float]]]) -> "Normaliser":
        """From the statistics of a dataset or a model."""
        columns = {f"{s}_{k}": torch.tensor(stats[s][k])[:, None] for s in STREAMS for k in ("mean", "std")}
        return cls(**columns)

    def to(self, device: torch.device) -> "Normaliser":
        """The same maps on another device."""
        return Normaliser(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def vocal(self, latents: Tensor) -> Tensor:
        """Codec latents (B, C, T) → normalised float32."""
        return _normalise(latents, self.vocal_mean, self.vocal_std)

    def accompaniment(self, latents: Tensor) -> Tensor:
        """Codec latents (B, C, T) → normalised float32."""
        return _normalise(latents, self.accompaniment_mean, self.accompaniment_std)

    def accompaniment_latents(self, normalised: Tensor) -> Tensor:
        """Normalised (B, C, T) → codec latents; the inverse of `accompaniment`."""
        return normalised * self.accompaniment_std + self.accompaniment_mean

    def batch(self, latents: Latents) -> Latents:
        """Codec latents of both streams, each (B, C, T) → normalised float32 on the device of these maps."""
        device = self.vocal_mean.device
        vocal, accompaniment = (half.to(device, non_blocking=half.is_pinned()) for half in latents)
        return self.vocal(vocal), self.accompaniment(accompaniment)


def _normalise(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    # In place, it is more than twice as fast on a CPU.
    return latents.to(torch.float32, copy=True).sub_(mean).div_(std)


class Batches:
    """The training pairs as an endless shuffled sequence, cut into batches.

    Every epoch visits each pair once; a batch may straddle two epochs. Several processes that train together,
    each with its `rank` of `world_size` and its own `batch_size`, together visit each pair of an epoch once.
    """

    def __init__(self, popdb: Popdb, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            given = f"batch_size = {batch_size}, rank = {rank}, world_size = {world_size}"
            raise SettingsError(f"{given}: a batch needs a pair, and the rank is below the world's size")
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.pairs = training_pairs(popdb)
        self._normalisers = {torch.device("cpu"): Normaliser.of(popdb.stats)}  # by device
        self._orders: dict[int, Places] = {}  # of the epochs at hand

    def places(self, step: int) -> Places:
        """Places among `pairs` of step `step` (from 0): (B,)."""
        _require_step(step)
        count = len(self.pairs)
        first = (step * self.world_size + self.rank) * self.batch_size
        epochs, places = np.divmod(np.arange(first, first + self.batch_size), count)
        orders: dict[int, Places] = {}
        for epoch in range(epochs[0], epochs[-1] + 1):
            known = self._orders.get(epoch)
            orders[epoch] = epoch_order(count, self.seed, epoch) if known is None else known
        self._orders = orders
        return np.concatenate([order[places[epochs == epoch]] for epoch, order in orders.items()])

    def pair_ids(self, step: int) -> list[str]:
        """The pairs of step `step`."""
        return [self.pairs.pair_ids[place] for place in self.places(step)]

    def at(self, step: int, device: torch.device) -> Latents:
        """Vocal and accompaniment of step `step`, normalised float32 (B, C, T) on `device`.

        A GPU is not waited for: what it still computes goes on while the batch is read.
        """
        halves = self.pairs.batch(self.places(step))
        if device.type == "cuda":
            halves = (halves[0].pin_memory(), halves[1].pin_memory())
        return self._normaliser(device).batch(halves)

    def loader(self, first_step: int = 0, steps: int | None = None, **options: Any) -> DataLoader[Latents]:
        """The latents of `steps` steps from `first_step` on, without end if None.

        Each batch is vocal and accompaniment, float16 (B, C, T) on the CPU. Workers pay where shards are slow
        to reach; from the page cache, what they hand over costs more than to read it here.

        Args:
            first_step: Where to begin, or to go on.
            steps: How many.
            options: Of `DataLoader`: how it reads. Unless they are given, `pin_memory` is true where there is
                CUDA, and workers are started from a process without threads ("forkserver"): forked from one
                that has some they may hang; forked within a Prefect flow they end in an error.
        """
        _require_step(first_step)
        chosen: dict[str, Any] = {"pin_memory": torch.cuda.is_available()}
        if options.get("num_workers") and "forkserver" in multiprocessing.get_all_start_methods():
            chosen["multiprocessing_context"] = "forkserver"
        return DataLoader(
            _WholeBatches(self.pairs),
            sampler=_Steps(self, range(first_step, sys.maxsize if steps is None else first_step + steps)),
            batch_size=None,
            generator=torch.Generator(),  # its own, or every pass would draw from the global one
            **{**chosen, **options},
        )

    def on(
        self, device: torch.device, first_step: int = 0, steps: int | None = None, **options: Any
    ) -> Iterator[Latents]:
        """What `at` gives for each step of the `loader` of these arguments, which reads it."""
        normaliser = self._normaliser(device)
        return (normaliser.batch(latents) for latents in self.loader(first_step, steps, **options))

    def _normaliser(self, device: torch.device) -> Normaliser:
        if device not in self._normalisers:
            self._normalisers[device] = self._normalisers[torch.device("cpu")].to(device)
        return self._normalisers[device]


@dataclass(frozen=True)
class _Steps:
    """The places of each step, for a `DataLoader`."""

    batches: Batches
    steps: range

    def __iter__(self) -> Iterator[Places]:
        return map(self.batches.places, self.steps)

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class _WholeBatches(Dataset[Latents]):
    """Batches by their places: one is read by one call, into memory that is not copied again."""

    pairs: PairDataset

    def __getitem__(self, places: Places) -> Latents:
        return self.pairs.batch(places)


def _require_step(step: int) -> None:
    if step < 0:
        raise SettingsError(f"step = {step}: the first step is 0")


def epoch_order(count: int, seed: int, epoch: int) -> Places:
    """The order of `count` pairs in an epoch: blocks of neighbours are shuffled, and the pairs in each."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**64)
    starts = torch.randperm(-(-count // SHUFFLE_BLOCK), generator=generator) * SHUFFLE_BLOCK
    blocks = [
        start + torch.randperm(min(SHUFFLE_BLOCK, count - start), generator=generator)
        for start in starts.tolist()
    ]
    return torch.cat(blocks).numpy()


def training_pairs(popdb: Popdb) -> PairDataset:
    """The pairs to train on; a DatasetError where there are none."""
    pairs = popdb.dataset("train")
    if not len(pairs):
        raise DatasetError(f"{popdb.location}: no training pairs; lower popdb.validation_share or add songs")
    return pairs


def evaluation_pairs(popdb: Popdb) -> list[dict[str, Any]]:
    """The held-out pairs, or the training pairs of a dataset that is too small to hold any out."""
    return popdb.pairs("validation") or popdb.pairs("train")


def evaluation_dataset(popdb: Popdb) -> PairDataset:
    """The same pairs as latents."""
    held_out = popdb.dataset("validation")
    return held_out if len(held_out) else popdb.dataset("train")
