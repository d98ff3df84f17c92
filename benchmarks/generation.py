"""From a vocal to an accompaniment: how long it takes, with how much memory, and whether it has seams.

Shapes: B batch, C = 64 latent channels, T frames, S samples at 44.1 kHz.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Figure, device_name, in_gib, in_its_own_process, memory_bytes, seconds
from samuel.audio import SAMPLE_RATE, Audio, write_wav
from samuel.checkpoint import TrainedModel, load_model, save_model
from samuel.codecs import Codec, CodecInfo, load_codec
from samuel.config import SamplingConfig, Settings
from samuel.device import inference, resolve_device
from samuel.generate import Request, accompany_latents, generate
from samuel.generate.takes import require_codec
from samuel.model.diffusion import CosineSchedule
from samuel.model.sample import Windowed, sample, window_starts
from samuel.popdb.dataset import STREAMS
from samuel.synthetic.song import compose
from samuel.train.trainer import fresh_network

SONG_S, LONG_S = 300.0, 900.0
MEL_MEAN, MEL_STD = -4.0, 2.0  # about those of mel latents, so that what is drawn can be decoded
OUTPUT_STD = 0.1


def rows(
    settings: Settings, model: Path | None = None, song_s: float = SONG_S, long_s: float = LONG_S
) -> Iterator[Figure]:
    """Yield (what, figure), as they are measured; random weights where no folder of a model is given.

    A synthetic vocal of `song_s` goes through the network, then it and one of `long_s` from file to file.
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
        vocal, output = Path(folder) / "vocal.wav", Path(folder) / "accompaniment.wav"
        for duration_s in (song_s, long_s):  # in a process of its own, its start included
            write_wav(vocal, singing(duration_s), "PCM_16")
            began = time.perf_counter()
            stages_s, peak = in_its_own_process(generate_file, place, settings, vocal, output)
            whole_s = time.perf_counter() - began
            stages = ", ".join(f"{stage} {time_s:.1f}" for stage, time_s in stages_s.items())
            yield f"vocal file of {duration_s:.0f} s", f"{whole_s:.1f} s ({stages})"
            yield "  peak memory", in_gib(peak)


def write_random_model(folder: Path, settings: Settings, codec: CodecInfo) -> Path:
    """A model as training saves it, for latents of this codec; its output is not zero."""
    network = fresh_network(settings, settings.popdb.chunk_frames)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # as the output layer is before training, which would make v = 0
                parameter.normal_(std=OUTPUT_STD, generator=generator)
    stats = {"mean": [MEL_MEAN] * codec.channels, "std": [MEL_STD] * codec.channels}
    record = settings.model_dump(mode="json", include={"model", "diffusion"}) | {
        "stats": dict.fromkeys(STREAMS, stats),
        "codec": codec.model_dump(),
        "frames": settings.popdb.chunk_frames,
    }
    return save_model(folder, network.state_dict(), record).folder


def latents_rows(
    model: TrainedModel, codec: Codec, config: SamplingConfig, song_s: float
) -> Iterator[Figure]:
    """The network alone: the paper's way against the setting at hand, a song, and its seams."""
    device = next(model.network.parameters()).device
    chunk_s = model.codec.duration_s(model.frames)
    vocal = codec.encode(torch.from_numpy(singing(max(song_s, chunk_s)))[None])
    chunk = vocal[..., : model.frames]
    accompany_latents(chunk, model, config)  # loads libraries
    before_s = seconds(lambda: accompany_latents(chunk, model, config), device)
    paper_s = seconds(lambda: sample_as_the_paper(chunk, model, config), device)
    ours_s = mean([before_s, seconds(lambda: accompany_latents(chunk, model, config), device)])
    length = f"{chunk_s:.2f} s of latents"
    yield f"{length}, ddpm, {model.diffusion.timesteps} steps, two calls each", f"{paper_s:.3g} s"
    less = f"{ours_s:.3g} s, {paper_s / ours_s:.1f} × less time"
    yield f"{length}, {config.sampler}, {config.steps} steps", less
    drawn: list[Tensor] = []
    whole_s = seconds(lambda: drawn.append(accompany_latents(vocal, model, config)), device)
    overlap = whole_s / vocal.shape[-1] / (ours_s / model.frames)
    length = f"{model.codec.duration_s(vocal.shape[-1]):.2f} s of latents in windows"
    yield length, f"{whole_s:.3g} s, {overlap:.2f} × the time of a frame above"
    windows = Windowed(model.network, model.frames)
    yield "  change at their ends", seam_figure(model.normaliser.accompaniment(drawn[0]), windows)


def sample_as_the_paper(vocal: Tensor, model: TrainedModel, config: SamplingConfig) -> Tensor:
    """DDPM with a step for every timestep, in two calls, fp32: (B, C, T) → normalised latents (B, C, T)."""
    device = next(model.network.parameters()).device
    schedule = CosineSchedule(model.diffusion.timesteps, model.diffusion.cosine_offset).to(device)
    paper = config.model_copy(update={"sampler": "ddpm", "steps": schedule.timesteps, "precision": "fp32"})

    class InTwoCalls:
        """The network, which is called for each of the two questions that guidance asks at a time."""

        condition = staticmethod(model.network.condition)

        def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
            assert vocal is not None  # noqa: S101
            halves = zip(x_t.chunk(2), t.chunk(2), vocal.chunk(2), strict=True)
            return torch.cat([model.network(*half) for half in halves])

    with inference(device, "fp32"):
        condition = model.normaliser.vocal(vocal.to(device))
        return sample(InTwoCalls(), condition, schedule, paper, torch.Generator().manual_seed(config.seed))


def seam_figure(latents: Tensor, windows: Windowed) -> str:
    """Mean change from frame to frame of (B, C, T) where windows begin and end, against others, ± chance."""
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
    vocals, samples = compose(seed=0, index=0).vocals, round(duration_s * SAMPLE_RATE)
    return np.tile(vocals, -(-samples // vocals.shape[1]))[:, :samples]


def generate_file(
    model: Path, settings: Settings, vocal: Path, output: Path
) -> tuple[dict[str, float], int | None]:
    """Go from a vocal to accompaniment and mix on disk: seconds of every stage, most memory that was held."""
    device = resolve_device(settings.device)
    trained, codec = load_model(model, device), load_codec(settings.codec, device)
    stages_s: dict[str, float] = {}
    began = time.perf_counter()

    def on_progress(what: str, done: int, of: int) -> None:
        nonlocal began
        now = time.perf_counter()
        stages_s[what] = stages_s.get(what, 0.0) + now - began
        began = now

    generate(Request(vocal, output, settings.sampling), trained, codec, on_progress)
    return stages_s, memory_bytes("VmHWM")
