"""Time and memory of a call, and of a process."""

import multiprocessing
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

CPU = torch.device("cpu")
Figure = tuple[str, str]
Work = Callable[[], object]


def seconds(work: Work, device: torch.device = CPU) -> float:
    """Time of a call, until the device has done what the call left to it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def fastest(works: Mapping[str, Work], device: torch.device, rounds: int = 5) -> dict[str, float]:
    """Shortest time of every call in seconds, after one that is not counted.

    They take turns, so that what else the machine does in a while troubles all of them alike.
    """
    times = dict.fromkeys(works, float("inf"))
    for count in range(rounds + 1):
        for name, work in works.items():
            elapsed_s = seconds(work, device)
            times[name] = min(times[name], elapsed_s) if count else times[name]
    return times


def in_its_own_process(work: Callable[..., Any], *given: Any) -> Any:
    """Call a function in a new process, which has nothing in memory."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def memory_bytes(kind: str) -> int | None:
    """Resident memory of this process, now (`VmRSS`) or at most (`VmHWM`); None where this is not Linux."""
    status = Path("/proc/self/status")
    found = re.search(rf"^{kind}:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else None


def in_gib(n_bytes: int | None) -> str:
    """Memory as a figure."""
    return "not measured here" if n_bytes is None else f"{n_bytes / 2**30:.2f} GiB"


def device_name(device: torch.device) -> str:
    """The machine's name for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU cores" if device.type == "cpu" else device.type
