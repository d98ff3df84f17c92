"""Time and memory of a call, of a process, and how busy a GPU is."""

import multiprocessing
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
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

    What disturbs a measurement makes it slower, never faster. They take turns, so that what else the machine
    does in a while troubles all of them alike.
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


@contextmanager
def utilisation(device: torch.device, interval_s: float = 0.2) -> Iterator[Callable[[], str]]:
    """While the block runs, sample the share of time in which a kernel ran on a CUDA device.

    What it gives tells the mean without the first and the last tenth, which are no steady state.
    """
    samples, over, program = list[float](), threading.Event(), shutil.which("nvidia-smi")

    def sample() -> None:
        uuid = torch.cuda.get_device_properties(device).uuid
        question = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--id=GPU-{uuid}"]
        while not over.wait(interval_s):
            command = [str(program), *question]
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if said.isdigit():
                samples.append(float(said))

    def steady() -> str:
        edge = len(samples) // 10
        middle = samples[edge : len(samples) - edge]
        return f"{fmean(middle) / 100:.0%}" if middle else "not measured"

    sampler = threading.Thread(target=sample, daemon=True)
    if device.type == "cuda" and program:
        sampler.start()
    try:
        yield steady
    finally:
        over.set()
        if sampler.is_alive():
            sampler.join()
