"""What a model's track costs on this machine, from sound to sound (paper Table II).

Shapes: (1, 2, S) audio at 44.1 kHz; (1, C, T) latents.
"""

import platform
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import nn

from benchmarks.clock import seconds
from samuel.artifacts import (
    Artifact,
    digest,
    find_artifact,
    make_artifact,
)
from samuel.audio import SAMPLE_RATE
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import HOP, Codec
from samuel.config import SamplingConfig, Settings
from samuel.device import resolve_device
from samuel.errors import InputError
from samuel.evaluate.systems import ABOUT, Problem, System
from samuel.generate import accompany_latents

# What the paper reports in its Tables I and II (§VI): copied from it, never measured here.


TRACK_S = 47.55
"""Duration of the tracks that it scores and times."""


@dataclass(frozen=True)
class PaperScores:
    """A row of Table I: means over ten generated tracks by AudioBox-Aesthetics, each axis from 1 to 10.

    Attributes:
        system: What made the tracks.
        pq: Production quality.
        pc: Production complexity.
        ce: Content enjoyment.
        cu: Content usefulness, which is what the package calls it; the paper writes Content Unity.
    """

    system: str
    pq: float
    pc: float
    ce: float
    cu: float

    def by_axis(self) -> dict[str, float]:
        """The four figures by the package's names."""
        return {"PQ": self.pq, "PC": self.pc, "CE": self.ce, "CU": self.cu}


@dataclass(frozen=True)
class PaperEfficiency:
    """A row of Table II.

    Attributes:
        system: What makes the tracks.
        parameters: How many it has.
        seconds_per_track: For one track of 47.55 s, on the authors' machine.
        conditioning: What it hears or reads.
        at_least: Whether the time is a lower bound ("> 6 h").
    """

    system: str
    parameters: int
    seconds_per_track: float
    conditioning: str
    at_least: bool = False

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of audio: follows from the paper's figures, and is not one of them."""
        return self.seconds_per_track / TRACK_S


TABLE_I = (
    PaperScores("real tracks (pop benchmark)", 7.92, 6.26, 7.36, 7.61),
    PaperScores("MusicGen Large", 7.99, 5.62, 7.99, 8.14),
    PaperScores("Stable Audio Open", 7.54, 4.06, 6.84, 7.71),
    PaperScores("Jukebox", 5.30, 5.97, 4.83, 4.66),
    PaperScores("SAMUeL", 5.73, 5.14, 2.93, 4.97),
)
TABLE_II = (
    PaperEfficiency("Jukebox", 5_000_000_000, 6 * 3600.0, "lyrics, genre", at_least=True),
    PaperEfficiency("Stable Audio Open", 1_200_000_000, 25.0, "text"),
    PaperEfficiency("MusicGen Large", 3_300_000_000, 1083.0, "vocal, text"),
    PaperEfficiency("MusicGen Small", 300_000_000, 236.0, "vocal, text"),
    PaperEfficiency("SAMUeL", 15_000_000, 21.0, "vocal"),
)


# What a system costs: parameters, time for a track, memory (paper §VI, Table II).
#
# The paper's own figures are in `paper_tables`.


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


# What a system's own `system.json` states of its cost (paper Table II); anybody may have written it.


Words = Annotated[str, Field(max_length=200)]
Seconds = Annotated[float, Field(ge=1e-6, le=1e7)]
Count = Annotated[int, Field(gt=0, lt=2**63, strict=True)]


class _Made(BaseModel):
    seconds: Seconds
    duration_s: Annotated[float, Field(ge=1e-3, le=1e6)]


class _Stated(BaseModel):
    parameters: Count | None = None
    conditioning: Words | None = None
    device: Words | None = None
    machine: Words | None = None
    memory: Words | None = None
    peak_memory_bytes: Count | None = None
    tracks: dict[str, _Made] = {}


def stated_efficiency(system: System) -> tuple[dict[str, Any] | None, Problem | None]:
    """A system's row of the table of efficiency, None where nothing is stated, and what is wrong with it.

    The time is the median, over the tracks that are scored, of seconds of work for a second of audio, scaled
    to a track of 47.55 s.
    """
    if not system.about:
        return None, None
    try:
        stated = _Stated.model_validate(system.about)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return None, Problem(system.name, "", f"{ABOUT}: {where}: {first['msg']}: its figures are left out")
    row = stated.model_dump(exclude={"tracks"}) | {"source": "stated"}
    made = [made for name, made in stated.tracks.items() if name in system.files]
    if made:
        factor = median(track.seconds / track.duration_s for track in made)
        row |= {"real_time_factor": factor, "seconds_per_track": factor * TRACK_S, "track_s": TRACK_S}
    return row | {"tracks": len(made)}, None


VERSION = 2
FRAMES = 1024
"""47.55 s, the paper's track."""
REPEATS = 3


def make_cost(
    load: Callable[[], tuple[TrainedModel, Codec]], model: Artifact, settings: Settings, root: Path
) -> Artifact:
    """Measure it, or find what was measured of this model with these settings on this machine."""
    device = resolve_device(settings.device)
    made_of = (model.sha256["model.safetensors"], settings.sampling.model_dump(), settings.codec.model_dump())
    folder = root / digest("cost", VERSION, *made_of, machine_name(device))
    return find_artifact(folder) or make_artifact(folder, lambda _: _cost(*load(), settings.sampling, device))


def _cost(model: TrainedModel, codec: Codec, config: SamplingConfig, device: torch.device) -> dict[str, Any]:
    track_s = FRAMES * HOP / SAMPLE_RATE
    # What is sung does not change what it costs.
    vocal = 0.1 * torch.randn(1, 2, FRAMES * HOP, generator=torch.Generator().manual_seed(0))

    def render() -> object:
        latents = codec.encode(vocal)
        return codec.decode(accompany_latents(latents, model, config).float())

    return asdict(measure(render, track_s, REPEATS, device)) | {
        "parameters": parameters_of(model.network),
        "track_s": track_s,
        "conditioning": "vocal",
        "repeats": REPEATS,
        "source": "measured",
    }
