"""Which device computes, how exactly; and a network applied to the items of many songs, in batches.

Whoever has items queues them and waits; of those who wait, one computes the next batch for all. So segments
of different songs share a batch as large as the device holds, and while one song is computed others are read
and written. What becomes part of the dataset is filled up with zeros to whole batches: then no item's result
depends on its neighbours.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samuel.config import Precision, TrainingPrecision
from samuel.errors import MissingPartError, StoppedError

SHARE_OF_FREE_MEMORY = 0.8
"""The rest is for what two measured batches do not show: fragments, libraries that load later."""


def resolve_device(name: str) -> torch.device:
    """The device a setting names; `auto` is a GPU where there is one.

    Raises:
        MissingPartError: The device is named and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingPartError("device = 'cuda', and torch sees no CUDA GPU; set device = 'auto' or 'cpu'")
    if name == "mps" and not torch.backends.mps.is_available():
        raise MissingPartError("device = 'mps', and torch sees no Apple GPU; set device = 'auto' or 'cpu'")
    return torch.device(name)


@contextmanager
def inference(device: torch.device, precision: Precision) -> Iterator[None]:
    """No gradients, and the same result every time: fp32 is true float32 (no TF32), bf16 is by autocast."""
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield


def uses_bf16(device: torch.device, precision: TrainingPrecision) -> bool:
    """Whether autocast to bf16 is on: as the setting says, or by itself on a GPU that computes in it."""
    by_itself = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16" or (precision == "auto" and by_itself)


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """The module by torch.compile.

    Raises:
        MissingPartError: There is no C++ compiler.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        raise MissingPartError(
            f"torch.compile on {device.type} needs a C++ compiler; install g++, or do without"
            " (training.compile = false, no --compile)"
        )
    return torch.compile(module)  # type: ignore[return-value]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory ran out; the libraries below torch say so in words of their own."""
    words = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


@dataclass(frozen=True, eq=False)
class _Item:
    tensor: Tensor
    future: "Future[Tensor]"

    @property
    def taken(self) -> bool:
        """True once it needs nobody any more to compute it."""
        return self.future.running() or self.future.done()


class Batcher:
    """Applies one network to items, (…) → (…), whichever thread they come from."""

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        device: torch.device,
        *,
        precision: Precision = "fp32",
        size: int | None = None,
        most: int = 1,
        fill: bool = True,
        turn: "threading.Lock | None" = None,
    ) -> None:
        """Nothing is computed yet.

        Args:
            network: (B, …) → (B, …), item by item independent.
            device: Where the network is.
            precision: Of the arithmetic; results are float32.
            size: Items of a batch; none: as many as the GPU's memory holds, one elsewhere.
            most: Never more than so many by itself.
            fill: Whether a batch always has its full size.
            turn: Held by who launches work; networks that share it do not want their memory at the same time.
        """
        self._network, self._device = network, device
        self._precision: Precision = precision
        self._given, self._most, self._fill = size, most, fill
        self._turn, self._queueing = turn or threading.Lock(), threading.Lock()
        self._sizes: dict[torch.Size, int] = {}
        self._queue: list[_Item] = []

    def __call__(self, items: Sequence[Tensor]) -> list[Tensor]:
        """The results of `items` in their order, float32 on the CPU.

        Raises:
            MissingPartError: The device's memory does not hold one item.
            StoppedError: `cancel` was called meanwhile.
        """
        own = [_Item(tensor, Future()) for tensor in items]
        with self._queueing:
            self._queue += own
        try:
            while not all(item.taken for item in own):
                self._compute_next(own)
            return [item.future.result() for item in own]
        except CancelledError as error:
            raise StoppedError("not computed: the run ended") from error
        finally:
            self._drop(own)

    def cancel(self) -> None:
        """Drop what is queued; those who wait for it get a StoppedError."""
        self._drop(self._queue)

    def _drop(self, items: Sequence[_Item]) -> None:
        with self._queueing:
            for item in items:
                item.future.cancel()
            self._queue = [item for item in self._queue if not item.taken]

    def _compute_next(self, own: Sequence[_Item]) -> None:
        """Compute a batch, unless all of one's own items were taken while one waited for the turn."""
        with ExitStack() as held:
            held.enter_context(self._turn)
            if all(item.taken for item in own):
                return
            batch = self._take()

            def hand_on(_kind: object, error: BaseException | None, _traceback: object) -> bool:
                for item in batch:
                    if error and not item.future.done():
                        item.future.set_exception(error)
                return isinstance(error, Exception)  # its owners raise it, each in its thread

            with ExitStack() as failing:
                failing.push(hand_on)
                results = self._results([item.tensor for item in batch])
                finished = torch.cuda.Event() if self._device.type == "cuda" else None
                if finished:
                    finished.record()
                held.close()  # a GPU goes on computing while the next one queues its batch
                if finished:
                    finished.synchronize()
                for item, result in zip(batch, results, strict=True):
                    item.future.set_result(result)

    def _take(self) -> list[_Item]:
        """The first items of the queue that have the shape of its first."""
        with self._queueing:
            if not self._queue:
                return []
            first = self._queue[0].tensor
            alike = [item for item in self._queue if item.tensor.shape == first.shape]
            batch = alike[: self._size(first)]
            taken = [item for item in batch if item.future.set_running_or_notify_cancel()]
            self._queue = [item for item in self._queue if not item.taken]
        return taken

    def _results(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The results on the CPU, on their way there from a GPU; in halves where the memory runs out."""
        results: list[Tensor] = []
        while len(results) < len(tensors):
            size = self._size(tensors[0])
            part = tensors[len(results) : len(results) + size]
            try:
                results += self._launch(part, size if self._fill else len(part))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise MissingPartError(
                        f"{self._device}: out of memory with one item at a time; free memory there, or set"
                        " device = 'cpu'"
                    ) from error
                self._sizes[tensors[0].shape] = size // 2
        return results

    def _launch(self, tensors: Sequence[Tensor], size: int) -> list[Tensor]:
        empty = [torch.zeros_like(tensors[0])] * (size - len(tensors))
        stacked = torch.stack([*tensors, *empty])
        if self._device.type == "cuda":
            stacked = stacked.pin_memory()
        with inference(self._device, self._precision):
            results = self._network(stacked.to(self._device, non_blocking=True))
        # Queued here, in its place: fetched later, it would wait for whatever was queued meanwhile.
        return list(results[: len(tensors)].float().to("cpu", non_blocking=self._device.type == "cuda"))

    def _size(self, item: Tensor) -> int:
        """Items of a batch of this item's shape."""
        if item.shape not in self._sizes:
            self._sizes[item.shape] = self._given or self._size_that_fits(item)
        return self._sizes[item.shape]

    def _size_that_fits(self, item: Tensor) -> int:
        if self._device.type != "cuda":
            return 1
        peaks = []
        for size in (1, 1, 2):  # the first also loads libraries, which stay
            torch.cuda.reset_peak_memory_stats(self._device)
            before = torch.cuda.memory_allocated(self._device)
            try:
                self._launch([item], size)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                return 1
            peaks.append(torch.cuda.max_memory_allocated(self._device) - before)
        torch.cuda.empty_cache()
        return batch_size(peaks[1], peaks[2], torch.cuda.mem_get_info(self._device)[0], self._most)


def batch_size(peak_of_one: int, peak_of_two: int, free: int, most: int) -> int:
    """The largest power of two, up to `most`, that fits into `free` bytes, by the peaks of two batches.

    A power of two, so that the same card chooses the same size while its free memory varies a little.
    """
    more = (SHARE_OF_FREE_MEMORY * free - peak_of_one) // max(peak_of_two - peak_of_one, 1)
    size = 1
    while size * 2 <= min(1 + more, most):
        size *= 2
    return size
