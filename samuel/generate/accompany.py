"""The latents of a vocal → those of an accompaniment, and the shortest way from audio to audio.

Shapes: B batch, C latent channels, T frames, S samples at 44.1 kHz.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel.audio import SAMPLE_RATE, Audio, read_wav
from samuel.checkpoint import TrainedModel
from samuel.codecs.base import Codec, decode_windows, same_codec
from samuel.config import SamplingConfig
from samuel.device import inference, uses_bf16
from samuel.errors import CheckpointError
from samuel.generate.output import write_limited
from samuel.generate.vocal import vocal_of
from samuel.model.diffusion import CosineSchedule
from samuel.model.sample import Kept, sample
from samuel.model.windows import AT_A_TIME, AT_A_TIME_ON_GPU, Windowed

OnStep = Callable[[int, int], object]
"""(steps done, steps in all)"""


def accompany(
    vocal: Path | NDArray[Any],
    model: TrainedModel,
    codec: Codec,
    config: SamplingConfig,
    on_step: OnStep | None = None,
    *,
    sample_rate: int = SAMPLE_RATE,
) -> Audio:
    """Write an accompaniment for a vocal of any length, (2, S) float32 in [-1, 1] at 44.1 kHz, as long as it.

    The vocal is an audio file, or samples as `vocal_of` takes them, at `sample_rate`.

    Raises:
        InputError: No vocal can be read from it: `vocal_of` says why.
        CheckpointError: The model learned another codec's latents.
    """
    require_codec(model, codec)
    with tempfile.TemporaryDirectory(prefix="samuel-") as workspace:
        source = vocal_of(vocal, Path(workspace), sample_rate=sample_rate)
        latents = accompany_latents(source.encode(codec, model.frames), model, config, on_step)
        limited = Path(workspace) / "accompaniment.wav"
        write_limited(limited, decode_windows(codec, latents, source.samples))
        return read_wav(limited)


def accompany_latents(
    vocal: Tensor,
    model: TrainedModel,
    config: SamplingConfig,
    on_step: OnStep | None = None,
    kept: Kept | None = None,
) -> Tensor:
    """Sample the codec latents of accompaniments from those of vocals, (B, C, T); on the model's device.

    More frames than the model was trained on go through it in overlapping windows; fewer must be a multiple
    of 8. Parts of the accompaniment that are `kept` are given in *codec* latents.
    """
    device = next(model.network.parameters()).device
    schedule = CosineSchedule(model.diffusion.timesteps, model.diffusion.cosine_offset).to(device)
    generator = torch.Generator().manual_seed(config.seed)  # of the CPU: the same noise whatever the device
    if kept is not None:
        kept = Kept(model.normaliser.accompaniment(kept.x0.to(device)), kept.mask.to(device))
    with inference(device, "bf16" if uses_bf16(device, config.precision) else "fp32"):
        condition = model.normaliser.vocal(vocal.to(device))
        x0 = sample(windowed(model), condition, schedule, config, generator, on_step, kept)
    return model.normaliser.accompaniment_latents(x0)


def windowed(model: TrainedModel) -> Windowed:
    """Make the model one for songs of any length."""
    device = next(model.network.parameters()).device
    return Windowed(model.network, model.frames, at_a_time=AT_A_TIME.get(device.type, AT_A_TIME_ON_GPU))


def mix(vocal: Audio, accompaniment: Audio) -> Audio:
    """Add both, turned down where the sum would clip."""
    total = vocal + accompaniment
    return total / max(1.0, float(np.abs(total).max(initial=0.0)))


def require_codec(model: TrainedModel, codec: Codec) -> None:
    """Refuse a codec whose latents the model does not know, by a CheckpointError."""
    if not same_codec(model.codec, codec.info):
        raise CheckpointError(f"the model learned latents of {model.codec}, the codec here is {codec.info}")
