"""Which device computes, how exactly, and whose turn it is."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from samuel.config import Precision, TrainingPrecision
from samuel.errors import MissingPartError


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


@cache
def turn(device: torch.device) -> threading.Lock:
    """Held by the thread that launches work on `device`: two networks at once would want twice the memory."""
    return threading.Lock()
