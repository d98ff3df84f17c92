"""Which device computes, how exactly; and a network applied to many items, in batches."""

import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile

import torch
from torch import Tensor, nn

from samuel.config import Precision, TrainingPrecision
from samuel.errors import MissingPartError, StoppedError


def resolve_device(name: str) -> torch.device:
    """The device a setting names; `auto` is a GPU where there is one; MissingPartError where it lacks."""
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
    """The module by torch.compile; MissingPartError where there is no C++ compiler."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        remedy = "install g++, or do without (training.compile = false, no --compile)"
        raise MissingPartError(f"torch.compile on {device.type} needs a C++ compiler; {remedy}")
    return torch.compile(module)  # type: ignore[return-value]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory ran out; the libraries below torch say so in words of their own."""
    words = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


class Batcher:
    """Applies one network to items, (…) → (…), in batches that hold the items of one call alone.

    So no result depends on what other threads compute; and while one computes, others read and write.
    """

    def __init__(
        self, network: Callable[[Tensor], Tensor], device: torch.device, *, precision: Precision = "fp32",
        size: int | None = None, most: int = 1, turn: "threading.Lock | None" = None,
    ) -> None:  # fmt: skip
        """Nothing is computed yet; `network`, which is on `device`, is (B, …) → (B, …), each item by itself.

        A batch has up to `size` items, by itself `most` on a GPU and one elsewhere; half where too many.
        `turn` is held by who computes: networks that share it do not want their memory at the same time.
        """
        self._network, self._device = network, device
        self._precision: Precision = precision
        self._size = size or (most if device.type == "cuda" else 1)
        self._turn, self._cancelled = turn or threading.Lock(), threading.Event()

    def __call__(self, items: Sequence[Tensor]) -> list[Tensor]:
        """The results of `items` in their order, float32 on the CPU; a StoppedError after `cancel`."""
        results, cancelled = list[Tensor](), self._cancelled
        while len(results) < len(items):
            with self._turn:
                if cancelled.is_set():
                    raise StoppedError("not computed: the run ended")
                results += self._compute(items[len(results) :])
        return results

    def cancel(self) -> None:
        """End what others wait for, each with a StoppedError."""
        self._cancelled.set()
        self._cancelled = threading.Event()

    def _compute(self, items: Sequence[Tensor]) -> list[Tensor]:
        """Results of the first items, which have one shape; none, and half the size, where memory lacks."""
        alike = list(takewhile(lambda item: item.shape == items[0].shape, items))
        batches = math.ceil(len(alike) / self._size)
        batch = torch.stack(alike[: math.ceil(len(alike) / batches)])  # all of about the same size
        try:
            with inference(self._device, self._precision):
                return list(self._network(batch.to(self._device)).float().cpu())
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                fault = f"{self._device}: out of memory with one item at a time"
                raise MissingPartError(f"{fault}; free memory there, or set device = 'cpu'") from error
            self._size = len(batch) // 2
            return []
