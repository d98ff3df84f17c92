"""From a vocal to an accompaniment: how long it takes, with how much memory, and whether it has seams.

All in one run on one machine. Random weights cost as much as trained ones; of the seams of what they draw,
they tell less.

Shapes: B batch, C = 64 latent channels, T frames, S samples at 44.1 kHz.
"""

import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from benchmarks.clock import seconds
from benchmarks.network import fastest
from benchmarks.pipeline import device_name
from benchmarks.weights import write_autoencoder
from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.checkpoint import TrainedModel, load_model, save_model
from samuel.codecs import Codec, CodecInfo, load_codec
from samuel.config import SamplingConfig, Settings, parse
from samuel.device import inference, resolve_device
from samuel.generate import Request, accompany, accompany_latents, generate
from samuel.generate.accompany import require_codec, windowed
from samuel.model.diffusion import CosineSchedule
from samuel.model.sample import sample
from samuel.model.windows import Windowed, window_starts
from samuel.popdb.shards import STREAMS
from samuel.synthetic.song import compose
from samuel.train.trainer import fresh_network

SONG_S, LONG_S = 300.0, 900.0
MEL_MEAN, MEL_STD = -4.0, 2.0  # about those of mel latents, so that what is drawn can be decoded
OUTPUT_STD = 0.1
ROUNDS = 3

Figure = tuple[str, str]


def generation_rows(
    settings: Settings, model: Path | None = None, song_s: float = SONG_S, long_s: float = LONG_S
) -> Iterator[Figure]:
    """Yield (what, figure), as they are measured.

    Args:
        settings: device, codec and sampling; the network's where no model is given.
        model: Folder of a trained model; none: random weights.
        song_s: Duration of the synthetic vocal that goes through the network, and then from file to file.
        long_s: Duration of a second one, from file to file.

    Raises:
        CheckpointError: The model learned the latents of another codec than that of the settings.
    """
    device = resolve_device(settings.device)
    codec = load_codec(settings.codec, device)
    with tempfile.TemporaryDirectory() as folder:
        place = model or write_random_model(Path(folder) / "model", settings, codec.info)
        trained = load_model(place, device)
        require_codec(trained, codec)
        yield "device", device_name(device)
        yield "model", f"trained, {trained.sha256[:12]}" if model else "random weights"
        yield from latents_rows(trained, codec, settings.sampling, song_s)
        for duration_s in (song_s, long_s):
            yield from file_rows(place, settings, Path(folder), duration_s)
        if device.type == "cuda":
            yield from gpu_rows(trained, settings, Path(folder), song_s)


def write_random_model(folder: Path, settings: Settings, codec: CodecInfo) -> Path:
    """A model as training saves it, for latents of this codec; its output is not zero."""
    network = fresh_network(settings, settings.popdb.chunk_frames)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # as the output layer is before training, which would make v = 0
                parameter.normal_(std=OUTPUT_STD, generator=generator)
    stats = {"mean": [MEL_MEAN] * codec.channels, "std": [MEL_STD] * codec.channels}
    sections = settings.model_dump(mode="json", include={"model", "diffusion"})
    record = {
        "stats": dict.fromkeys(STREAMS, stats),
        "codec": codec.model_dump(),
        "frames": settings.popdb.chunk_frames,
    }
    return save_model(folder, network.state_dict(), {**sections, **record}).folder


def latents_rows(
    model: TrainedModel, codec: Codec, config: SamplingConfig, song_s: float
) -> Iterator[Figure]:
    """The network alone: the paper's way against the setting at hand, a song, and its seams."""
    device = next(model.network.parameters()).device
    vocal = codec.encode(torch.from_numpy(singing(max(song_s, model.codec.duration_s(model.frames))))[None])
    chunk = vocal[..., : model.frames]

    def chosen() -> None:
        accompany_latents(chunk, model, config)

    chosen()  # loads libraries
    before_s = seconds(chosen, device)
    paper_s = seconds(lambda: sample_as_the_paper(chunk, model, config), device)
    chunk_s = mean([before_s, seconds(chosen, device)])
    yield (
        f"{_length(chunk, model.codec)}, ddpm, {model.diffusion.timesteps} steps, two calls each",
        f"{paper_s:.3g} s",
    )
    yield (
        f"{_length(chunk, model.codec)}, {config.sampler}, {config.steps} steps",
        f"{chunk_s:.3g} s, {paper_s / chunk_s:.1f} × less time",
    )
    drawn: list[Tensor] = []
    whole_s = seconds(lambda: drawn.append(accompany_latents(vocal, model, config)), device)
    overlap = whole_s / vocal.shape[-1] / (chunk_s / model.frames)
    yield (
        f"{_length(vocal, model.codec)} in windows",
        f"{whole_s:.3g} s, {overlap:.2f} × the time of a frame above",
    )
    yield "  change at their ends", seam_figure(model.normaliser.accompaniment(drawn[0]), windowed(model))


def sample_as_the_paper(vocal: Tensor, model: TrainedModel, config: SamplingConfig) -> Tensor:
    """DDPM with a step for every timestep, asked with and without the vocal in two calls, in fp32.

    Args:
        vocal: Codec latents, (B, C, T).
        model: From `load_model`.
        config: Guidance and seed.

    Returns:
        Normalised latents, (B, C, T).
    """
    device = next(model.network.parameters()).device
    schedule = CosineSchedule(model.diffusion.timesteps, model.diffusion.cosine_offset).to(device)
    paper = SamplingConfig(
        sampler="ddpm", steps=schedule.timesteps, guidance_scale=config.guidance_scale, seed=config.seed
    )
    generator = torch.Generator().manual_seed(config.seed)

    def in_two_calls(x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        """A function cannot show its null condition as the network itself does, and is called again."""
        return model.network(x_t, t, vocal)

    with inference(device, "fp32"):
        condition = model.normaliser.vocal(vocal.to(device))
        return sample(in_two_calls, condition, schedule, paper, generator)


def seam_figure(latents: Tensor, windows: Windowed) -> str:
    """Mean change from frame to frame where windows begin and end, against all other frames.

    Its spread is that of a mean over as many frames that lie anywhere.

    Args:
        latents: Normalised, (B, C, T).
        windows: What they were drawn by.
    """
    change = latents.float().diff(dim=-1).abs().mean(dim=(0, 1)).cpu()  # [t]: from frame t to t + 1
    starts = window_starts(latents.shape[-1], windows.frames, windows.overlap)
    if len(starts) < 2:
        return "not measured: one window"
    here = torch.zeros(len(change), dtype=torch.bool)
    here[[start - 1 for start in starts[1:]]] = True
    here[[start + windows.frames - 1 for start in starts[:-1]]] = True
    count, elsewhere = int(here.sum()), change[~here]
    ratio = float(change[here].mean() / elsewhere.mean())
    by_chance = float(elsewhere.std() / elsewhere.mean()) / count**0.5
    return f"{ratio:.3f} ± {by_chance:.3f} of that elsewhere, {count} places"


def singing(duration_s: float) -> Audio:
    """(2, S): the voice of a synthetic song, again and again."""
    vocals, samples = _voice(), round(duration_s * SAMPLE_RATE)
    return np.tile(vocals, -(-samples // vocals.shape[1]))[:, :samples]


@cache
def _voice() -> Audio:
    return compose(seed=0, index=0).vocals


@dataclass(frozen=True)
class Command:
    """What a process of its own does from beginning to end.

    Attributes:
        model: Folder of a trained model.
        settings: device, codec and sampling.
        vocal: An audio file.
        output: The accompaniment.
    """

    model: Path
    settings: Settings
    vocal: Path
    output: Path


@dataclass(frozen=True)
class Cost:
    """What it took.

    Attributes:
        stages_s: Time of every stage that `generate` tells of.
        peak_bytes: Most memory that was resident; None where this is not Linux.
    """

    stages_s: dict[str, float]
    peak_bytes: int | None


def file_rows(model: Path, settings: Settings, folder: Path, duration_s: float) -> Iterator[Figure]:
    """From vocal to accompaniment and mix on disk, in a process of its own, its start included."""
    command = Command(model, settings, folder / "vocal.wav", folder / "accompaniment.wav")
    write_wav(command.vocal, singing(duration_s), "PCM_16")
    costs: list[Cost] = []
    whole_s = seconds(lambda: costs.append(in_its_own_process(command)))
    stages = ", ".join(f"{stage} {time_s:.1f}" for stage, time_s in costs[0].stages_s.items())
    yield f"vocal file of {duration_s:.0f} s", f"{whole_s:.1f} s ({stages})"
    peak = costs[0].peak_bytes
    yield "  peak memory", "not measured here" if peak is None else f"{peak / 2**30:.2f} GiB"


def in_its_own_process(command: Command) -> Cost:
    """Run a command in a new process, which has nothing in memory."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, command).result()


def run(command: Command) -> Cost:
    """Run a command in this process."""
    device = resolve_device(command.settings.device)
    model = load_model(command.model, device)
    codec = load_codec(command.settings.codec, device)
    stages_s: dict[str, float] = {}
    began = time.perf_counter()

    def on_progress(what: str, done: int, of: int) -> None:
        nonlocal began
        now = time.perf_counter()
        stages_s[what] = stages_s.get(what, 0.0) + now - began
        began = now

    generate(Request(command.vocal, command.output, command.settings.sampling), model, codec, on_progress)
    return Cost(stages_s, peak_resident_bytes())


def peak_resident_bytes() -> int | None:
    """Most memory that was resident in this process, where Linux tells it.

    Not `ru_maxrss`, which begins with what the process that started this one held.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else None


def gpu_rows(model: TrainedModel, settings: Settings, folder: Path, song_s: float) -> Iterator[Figure]:
    """From audio to audio with the full-size VAE, whose weights are random, on a CUDA device alone."""
    device = resolve_device("cuda")
    write_autoencoder(folder / "vae")
    choices = settings.codec.model_dump(include={"precision", "batch"})
    weights = {"name": "stable-audio-open", "path": str(folder / "vae")}
    codec = load_codec(parse({"codec": weights | choices}).codec, device)
    own = replace(model, codec=codec.info)
    for duration_s in (model.codec.duration_s(model.frames), song_s):
        vocal = singing(duration_s)
        torch.cuda.reset_peak_memory_stats(device)
        whole_s = fastest({"": _accompanying(vocal, own, codec, settings.sampling)}, device, ROUNDS)[""]
        peak_gb = torch.cuda.max_memory_allocated(device) / 1e9
        yield (
            f"{duration_s:.2f} s by the full-size VAE",
            f"{whole_s:.2f} s, {peak_gb:.2f} GB of the GPU at most",
        )


def _accompanying(
    vocal: Audio, model: TrainedModel, codec: Codec, config: SamplingConfig
) -> Callable[[], object]:
    return lambda: accompany(vocal, model, codec, config)


def _length(latents: Tensor, codec: CodecInfo) -> str:
    return f"{codec.duration_s(latents.shape[-1]):.2f} s of latents"
