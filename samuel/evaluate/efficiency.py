"""What a system costs: parameters, time for a track, memory (paper §VI, Table II).

The paper's own figures are in `paper_tables`.
"""

import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import nn

from samuel.bench.clock import seconds
from samuel.errors import InputError

Memory = Literal["of the process", "of the process since it began", "of the GPU", "not measured"]
STATUS, CLEAR_REFS, CPUINFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/cpuinfo")
FORGET_THE_PEAK = "5"  # proc(5)


@dataclass(frozen=True)
class Efficiency:
    """What one call cost.

    Attributes:
        seconds_per_track: Median over the calls.
        real_time_factor: Seconds of work for a second of audio.
        peak_memory_bytes: Most that was held at once, weights included; None where nothing tells it.
        memory: Whose it is: of the process, resident; or of the GPU, as tensors.
        device: As torch names its kind.
        machine: The processor and how many cores work, or the GPU.
    """

    seconds_per_track: float
    real_time_factor: float
    peak_memory_bytes: int | None
    memory: Memory
    device: str
    machine: str


def measure(render: Callable[[], object], track_s: float, repeats: int, device: torch.device) -> Efficiency:
    """Time a call that makes a track, and watch its memory.

    Args:
        render: Makes the track, from audio to audio.
        track_s: Duration of what it makes.
        repeats: How many calls count; one before them does not, for it loads libraries. Memory counts in all.
        device: Where `render` computes.

    Raises:
        InputError: No call is to count, or the track has no duration.
    """
    if repeats < 1 or not track_s > 0:
        raise InputError(f"repeats = {repeats}, track_s = {track_s}: give at least 1 and more than 0 s")
    peak = Peak(device)
    seconds(render, device)
    seconds_per_track = median([seconds(render, device) for _ in range(repeats)])
    return Efficiency(
        seconds_per_track=seconds_per_track,
        real_time_factor=seconds_per_track / track_s,
        peak_memory_bytes=peak.bytes(),
        memory=peak.memory,
        device=device.type,
        machine=machine_name(device),
    )


class Peak:
    """Most memory that was held since this was made.

    On a GPU, what tensors hold of it, without the library's own reserve. Elsewhere what is resident of the
    whole process: Linux starts its mark anew where the kernel lets it, or else tells it since the process
    began, as other systems do. `ru_maxrss` is asked last: on Linux it begins with what the parent held.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.memory: Memory = "of the process since it began"
        if device.type == "cuda":
            self.memory = "of the GPU"
            torch.cuda.synchronize(device)  # which also makes the context that the next line wants
            torch.cuda.reset_peak_memory_stats(device)
        elif _forgotten():
            self.memory = "of the process"
        elif sys.platform == "win32":
            self.memory = "not measured"

    def bytes(self) -> int | None:
        """The peak so far; None where nothing tells it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resident_bytes("VmHWM") or _since_the_start()


def _forgotten() -> bool:
    """Whether the kernel has set the process's peak to what is resident now."""
    try:
        CLEAR_REFS.write_text(FORGET_THE_PEAK)
    except OSError:  # another system, or a sandbox
        return False
    return resident_bytes("VmHWM") is not None


def resident_bytes(line: str) -> int | None:
    """What Linux tells of this process's memory under `VmRSS` (now) or `VmHWM` (peak); None elsewhere."""
    found = re.search(rf"^{line}:\s*(\d+) kB", _text(STATUS), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _since_the_start() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes or KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_name(device: torch.device) -> str:
    """The GPU's name, or the processor's and how many cores torch works with: `AMD EPYC, 2 cores`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = re.search(r"^model name\s*:\s*(.+)$", _text(CPUINFO), re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine() or "unknown processor"
    if device.type != "cpu":
        return f"{name}, {device.type}"
    cores = torch.get_num_threads()
    return f"{name}, {cores} {'core' if cores == 1 else 'cores'}"


def parameters_of(module: nn.Module) -> int:
    """How many parameters a network has, trained or frozen; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
