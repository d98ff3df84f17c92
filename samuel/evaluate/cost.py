"""What a track costs, time, memory and parameters, from sound to sound, beside the paper's tables (§VI)."""

import contextlib
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import psutil
import torch

from samuel.artifacts import Artifact, digest, find_artifact, make_artifact
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec
from samuel.config import SamplingConfig, Settings
from samuel.device import resolve_device
from samuel.errors import InputError
from samuel.evaluate.scores import Evaluation, Findings
from samuel.evaluate.systems import System
from samuel.generate import accompany_latents
from samuel.model.unet import parameter_count

TRACK_S = 47.55
"""Duration of the tracks that the paper scores and times."""
TABLE_I = {
    "real tracks (pop benchmark)": {"PQ": 7.92, "PC": 6.26, "CE": 7.36, "CU": 7.61},
    "MusicGen Large": {"PQ": 7.99, "PC": 5.62, "CE": 7.99, "CU": 8.14},
    "Stable Audio Open": {"PQ": 7.54, "PC": 4.06, "CE": 6.84, "CU": 7.71},
    "Jukebox": {"PQ": 5.30, "PC": 5.97, "CE": 4.83, "CU": 4.66},
    "SAMUeL": {"PQ": 5.73, "PC": 5.14, "CE": 2.93, "CU": 4.97},
}
"""The paper's Table I, copied and never measured here: means over ten tracks by AudioBox-Aesthetics."""


class PaperEfficiency(NamedTuple):
    """A row of the paper's Table II."""

    system: str
    parameters: int
    seconds_per_track: float  # of 47.55 s, on the authors' machine
    conditioning: str  # what it is given
    at_least: bool = False  # the time is a lower bound ("> 6 h")

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of audio: follows from the paper's figures, and is not one of them."""
        return self.seconds_per_track / TRACK_S


TABLE_II = (
    PaperEfficiency("Jukebox", 5_000_000_000, 6 * 3600.0, "lyrics, genre", at_least=True),
    PaperEfficiency("Stable Audio Open", 1_200_000_000, 25.0, "text"),
    PaperEfficiency("MusicGen Large", 3_300_000_000, 1083.0, "vocal, text"),
    PaperEfficiency("MusicGen Small", 300_000_000, 236.0, "vocal, text"),
    PaperEfficiency("SAMUeL", 15_000_000, 21.0, "vocal"),
)
"""The paper's Table II, copied and never measured here."""

VERSION = 2
REPEATS = 3
STATED = {"parameters", "conditioning", "device", "machine", "memory", "peak_memory_bytes"}

Memory = Literal["of the process", "of the process since it began", "of the GPU"]
STATUS, CLEAR_REFS, CPUINFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/cpuinfo")


def measure_efficiency(evaluation: Evaluation) -> Findings:
    """Rows of the table of efficiency: measured, and those that systems state of themselves."""
    stated = {s.name: row for s in evaluation.lineup.systems if (row := stated_efficiency(s))}
    rows = {**stated, **evaluation.costs}
    if not rows:
        raise InputError("no system states what it cost (system.json)")
    return Findings(by_system={"efficiency": rows})


def stated_efficiency(system: System) -> dict[str, Any] | None:
    """A system's row of the table of efficiency, by its own record; None without one.

    The time is the median, over the tracks that are scored, of seconds of work for a second of audio, scaled
    to a track of 47.55 s.
    """
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
    device = resolve_device(settings.device)
    made_of = (model.sha256["model.safetensors"], settings.sampling.model_dump(), settings.codec.model_dump())
    folder = root / digest("cost", VERSION, *made_of, machine_name(device))
    return find_artifact(folder) or make_artifact(folder, lambda _: _cost(*load(), settings.sampling, device))


def _cost(model: TrainedModel, codec: Codec, config: SamplingConfig, device: torch.device) -> dict[str, Any]:
    # What is sung does not change what it costs.
    info = codec.info
    frames = 8 * round(TRACK_S * info.sample_rate / info.hop / 8)  # a multiple of what the network halves
    vocal = 0.1 * torch.randn(1, 2, frames * info.hop, generator=torch.Generator().manual_seed(0))

    def render() -> object:
        return codec.decode(accompany_latents(codec.encode(vocal), model, config).float())

    track_s = info.duration_s(frames)
    return measure(render, track_s, REPEATS, device) | {
        "parameters": parameter_count(model.network),
        "track_s": track_s,
        "conditioning": "vocal",
        "repeats": REPEATS,
        "source": "measured",
    }


def measure(
    render: Callable[[], object], track_s: float, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Time a call that makes a track of `track_s` from audio to audio on `device`, and watch its memory.

    The median of so many repeats counts, and one before them does not, for it loads libraries. Memory counts
    in all, weights included; `real_time_factor` is for a second of audio.
    """
    peak, seconds = Peak(device), list[float]()
    for _ in range(1 + repeats):
        started = time.perf_counter()
        render()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    typical_s = median(seconds[1:])
    return {
        "seconds_per_track": typical_s,
        "real_time_factor": typical_s / track_s,
        "peak_memory_bytes": peak.bytes(),
        "memory": peak.memory,
        "device": device.type,
        "machine": machine_name(device),
    }


class Peak:
    """Most memory that was held since this was made.

    On a GPU, what tensors hold of it, without the library's own reserve. Elsewhere what is resident of the
    whole process: Linux starts its mark anew where the kernel lets it, or else tells it since the process
    began, as other systems do. `ru_maxrss` comes last: on Linux it begins with what the parent held.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.memory: Memory = "of the process since it began"
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
        if found := re.search(r"^VmHWM:\s*(\d+) kB", _text(STATUS), re.MULTILINE):
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
    found = re.search(r"^model name\s*:\s*(.+)$", _text(CPUINFO), re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine() or "unknown processor"
    if device.type != "cpu":
        return f"{name}, {device.type}"
    cores = torch.get_num_threads()
    return f"{name}, {cores} {'core' if cores == 1 else 'cores'}"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
