"""How long a call takes."""

import time
from collections.abc import Callable

import torch

CPU = torch.device("cpu")


def seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """Time of a call, until the device has done what the call left to it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
