"""POPDB → normalised batches: what a step sees follows from (seed, step) and the pairs alone.

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
from samuel.popdb.dataset import STREAMS, PairDataset, Popdb

# Pairs that are shuffled among themselves, those of eight full shards: few are read from at a time.
SHUFFLE_BLOCK = 2048

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
        # In place, it is more than twice as fast on a CPU.
        return latents.to(torch.float32, copy=True).sub_(self.vocal_mean).div_(self.vocal_std)

    def accompaniment(self, latents: Tensor) -> Tensor:
        """Codec latents (B, C, T) → normalised float32."""
        scaled = latents.to(torch.float32, copy=True).sub_(self.accompaniment_mean)
        return scaled.div_(self.accompaniment_std)

    def accompaniment_latents(self, normalised: Tensor) -> Tensor:
        """Normalised (B, C, T) → codec latents; the inverse of `accompaniment`."""
        return normalised * self.accompaniment_std + self.accompaniment_mean

    def batch(self, latents: Latents) -> Latents:
        """Codec latents of both streams, each (B, C, T) → normalised float32 on the device of these maps."""
        device = self.vocal_mean.device
        vocal, accompaniment = (half.to(device, non_blocking=half.is_pinned()) for half in latents)
        return self.vocal(vocal), self.accompaniment(accompaniment)


class Batches(Dataset[Latents]):
    """The training pairs as an endless shuffled sequence, cut into batches: `batches[step]`, float16.

    Every epoch visits each pair once. Several processes that train together, each with its `rank` of
    `world_size` and its own `batch_size`, together do so.
    """

    def __init__(self, popdb: Popdb, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            given = f"batch_size = {batch_size}, rank = {rank}, world_size = {world_size}"
            raise SettingsError(f"{given}: a batch needs a pair, and the rank is below the world's size")
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.pairs = popdb.dataset("train")
        if not len(self.pairs):
            remedy = "lower popdb.validation_share or add songs"
            raise DatasetError(f"{popdb.location}: no training pairs; {remedy}")
        self._normalisers = {torch.device("cpu"): Normaliser.of(popdb.stats)}  # by device
        self._orders: dict[int, Places] = {}  # of the epochs at hand

    def places(self, step: int) -> Places:
        """Places among `pairs` of step `step` (from 0): (B,)."""
        if step < 0:
            raise SettingsError(f"step = {step}: the first step is 0")
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

    def __getitem__(self, step: int) -> Latents:
        return self.pairs.batch(self.places(step))

    def __getstate__(self) -> dict[str, Any]:
        own = {device: maps for device, maps in self._normalisers.items() if device.type == "cpu"}
        return vars(self) | {"_normalisers": own}  # a worker has no part in what lies on a GPU

    def at(self, step: int, device: torch.device) -> Latents:
        """Vocal and accompaniment of a step, normalised float32 (B, C, T); a GPU is not waited for."""
        vocal, accompaniment = self[step]
        if device.type == "cuda":
            vocal, accompaniment = vocal.pin_memory(), accompaniment.pin_memory()
        return self._normaliser(device).batch((vocal, accompaniment))

    def loader(self, first_step: int = 0, steps: int | None = None, **options: Any) -> DataLoader[Latents]:
        """The latents of `steps` steps from `first_step` on, float16 (B, C, T) on the CPU; endless if None.

        `options` are those of `DataLoader`. Workers, which pay where shards are slow to reach, are started
        from a process without threads: forked from one that has some they may hang.
        """
        self.places(first_step)
        chosen: dict[str, Any] = {"pin_memory": torch.cuda.is_available()}
        if options.get("num_workers") and "forkserver" in multiprocessing.get_all_start_methods():
            chosen["multiprocessing_context"] = "forkserver"
        return DataLoader(
            self,
            sampler=range(first_step, sys.maxsize if steps is None else first_step + steps),
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


def epoch_order(count: int, seed: int, epoch: int) -> Places:
    """The order of `count` pairs in an epoch: blocks of neighbours are shuffled, and the pairs in each."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**64)
    starts = torch.randperm(-(-count // SHUFFLE_BLOCK), generator=generator) * SHUFFLE_BLOCK
    blocks = [
        start + torch.randperm(min(SHUFFLE_BLOCK, count - start), generator=generator)
        for start in starts.tolist()
    ]
    return torch.cat(blocks).numpy()


def evaluation_pairs(popdb: Popdb) -> list[dict[str, Any]]:
    """The held-out pairs, or the training pairs of a dataset that is too small to hold any out."""
    return popdb.pairs("validation") or popdb.pairs("train")


def evaluation_dataset(popdb: Popdb) -> PairDataset:
    """The same pairs as latents."""
    held_out = popdb.dataset("validation")
    return held_out if len(held_out) else popdb.dataset("train")
