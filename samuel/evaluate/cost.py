"""What a track costs, time, memory and parameters, from sound to sound, beside the paper's tables (§VI)."""

import contextlib
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from samuel.artifacts import Artifact, digest, find_artifact, make_artifact
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import Settings
from samuel.device import resolve_device
from samuel.errors import InputError
from samuel.evaluate.scores import Evaluation, Findings
from samuel.evaluate.systems import System
from samuel.generate import accompany_latents
from samuel.model.unet import parameter_count
from samuel.text import counted

TRACK_S = 47.55  # of the tracks that the paper scores and times
TABLE_I = {
    "real tracks (pop benchmark)": {"PQ": 7.92, "PC": 6.26, "CE": 7.36, "CU": 7.61},
    "MusicGen Large": {"PQ": 7.99, "PC": 5.62, "CE": 7.99, "CU": 8.14},
    "Stable Audio Open": {"PQ": 7.54, "PC": 4.06, "CE": 6.84, "CU": 7.71},
    "Jukebox": {"PQ": 5.30, "PC": 5.97, "CE": 4.83, "CU": 4.66},
    "SAMUeL": {"PQ": 5.73, "PC": 5.14, "CE": 2.93, "CU": 4.97},
}
"""The paper's Table I, copied and never measured here: means over ten tracks by AudioBox-Aesthetics."""
TABLE_II: dict[str, dict[str, Any]] = {
    name: {"parameters": parameters, "seconds_per_track": seconds, "real_time_factor": seconds / TRACK_S,
           "conditioning": given, "track_s": TRACK_S, "source": "paper", "at_least": name == "Jukebox"}
    for name, parameters, seconds, given in (
        ("Jukebox", 5_000_000_000, 6 * 3600.0, "lyrics, genre"),  # "> 6 h"
        ("Stable Audio Open", 1_200_000_000, 25.0, "text"),
        ("MusicGen Large", 3_300_000_000, 1083.0, "vocal, text"),
        ("MusicGen Small", 300_000_000, 236.0, "vocal, text"),
        ("SAMUeL", 15_000_000, 21.0, "vocal"),
    )
}  # fmt: skip
"""The paper's Table II, copied and never measured here, as rows of the table of efficiency."""

VERSION = 2
REPEATS = 3
STATED = {"parameters", "conditioning", "device", "machine", "memory", "peak_memory_bytes"}

STATUS, CLEAR_REFS, CPUINFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/cpuinfo")


def measure_efficiency(evaluation: Evaluation) -> Findings:
    """Rows of the table of efficiency: measured, and those that systems state of themselves."""
    stated = {s.name: row for s in evaluation.lineup.systems if (row := stated_efficiency(s))}
    if not (rows := {**stated, **evaluation.costs}):
        raise InputError("no system states what it cost (system.json)")
    return Findings(by_system={"efficiency": rows})


def stated_efficiency(system: System) -> dict[str, Any] | None:
    """A system's row by its own record, the median over its tracks scaled to 47.55 s; None without one."""
    if system.record is None:
        return None
    made = [track for name, track in system.record.tracks.items() if name in system.files]
    row = system.record.model_dump(include=STATED) | {"source": "stated", "tracks": len(made)}
    if made:
        factor = median(track.seconds / track.duration_s for track in made)
        row |= {"real_time_factor": factor, "seconds_per_track": factor * TRACK_S, "track_s": TRACK_S}
    return row


def make_cost(
    load: Callable[[], tuple[TrainedModel, Codec]], model: Artifact, settings: Settings, root: Path
) -> Artifact:
    """Measure a model, or find what was measured of it with these settings on this machine."""
    device, config = resolve_device(settings.device), settings.sampling

    def make(_: Path) -> dict[str, Any]:
        trained, codec = load()
        frames = 8 * round(TRACK_S * codec.info.sample_rate / codec.info.hop / 8)  # which the network halves
        # What is sung does not change what it costs.
        vocal = 0.1 * torch.randn(1, 2, frames * codec.info.hop, generator=torch.Generator().manual_seed(0))

        def render() -> object:
            return codec.decode(accompany_latents(codec.encode(vocal), trained, config).float())

        track_s = codec.info.duration_s(frames)
        known = {
            "parameters": parameter_count(trained.network),
            "conditioning": "vocal",
            "source": "measured",
        }
        return measure(render, track_s, REPEATS, device) | known | {"track_s": track_s, "repeats": REPEATS}

    made_of = (model.sha256["model.safetensors"], config.model_dump(), settings.codec.model_dump())
    folder = root / digest("cost", VERSION, *made_of, machine_name(device))
    return find_artifact(folder) or make_artifact(folder, make)


def measure(
    render: Callable[[], object], track_s: float, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Time a call that makes a track of `track_s`, by the median of repeats after a first, and its memory."""
    peak, seconds = Peak(device), list[float]()
    for _ in range(1 + repeats):
        started = time.perf_counter()
        render()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    typical_s = median(seconds[1:])
    return {
        "seconds_per_track": typical_s, "real_time_factor": typical_s / track_s, "device": device.type,
        "peak_memory_bytes": peak.bytes(), "memory": peak.memory, "machine": machine_name(device),
    }  # fmt: skip


class Peak:
    """Most memory held since this was made: by tensors on a GPU, elsewhere what is resident of the process.

    Where a kernel does not start its mark anew, it is since the process began. `ru_maxrss` comes last: on
    Linux it begins with what the parent held.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.memory = "of the process since it began"
        if device.type == "cuda":
            self.memory = "of the GPU"
            torch.cuda.synchronize(device)  # which also makes the context that the next line wants
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):  # another system, or a sandbox
            CLEAR_REFS.write_text("5")  # forget the peak: proc(5)
            self.memory = "of the process"

    def bytes(self) -> int:
        """The peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if STATUS.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)):
            return int(found[1]) * 1024
        if sys.platform == "win32":
            return psutil.Process().memory_info().peak_wset
        import resource  # which Windows lacks

        unit = 1 if sys.platform == "darwin" else 1024  # bytes or KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_name(device: torch.device) -> str:
    """The GPU's name, or the processor's and how many cores torch works with: `AMD EPYC, 2 cores`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    text = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine() or "unknown processor"
    cores = counted(torch.get_num_threads(), "core")
    return f"{name}, {cores if device.type == 'cpu' else device.type}"
