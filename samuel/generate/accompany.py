"""Vocal → accompaniment.

Shapes: B batch, C = 64 latent channels, T frames, S samples at 44.1 kHz.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from samuel.audio import SAMPLE_RATE, Audio
from samuel.checkpoint import TrainedModel
from samuel.codec import HOP, Codec
from samuel.codec.identity import made_by
from samuel.config import SamplingConfig
from samuel.errors import CheckpointError, InputError, NotBuiltError
from samuel.model.diffusion import CosineSchedule
from samuel.model.sample import sample

CHUNK_FRAMES = 1024  # the length the network was trained on (paper §III-C)

OnStep = Callable[[int, int], object]


def accompany(
    vocal: Audio, model: TrainedModel, codec: Codec, config: SamplingConfig, on_step: OnStep | None = None
) -> Audio:
    """Write an accompaniment for a vocal.

    Args:
        vocal: (2, S) float32, up to 1024 frames (47.55 s); a shorter one is padded with silence.
        model: From `load_model`.
        codec: The codec whose latents the model learned.
        config: Sampler, steps, guidance and seed.
        on_step: Called with (steps done, steps in all).

    Returns:
        (2, S) float32 in [-1, 1].

    Raises:
        InputError: The vocal is empty or holds values that are not numbers.
        NotBuiltError: It is longer than a chunk.
        CheckpointError: The model learned another codec's latents.
    """
    _check(vocal, model, codec)
    padded = np.zeros((2, CHUNK_FRAMES * HOP), dtype=np.float32)
    padded[:, : vocal.shape[1]] = vocal
    latents = codec.encode(torch.from_numpy(padded)[None])
    accompaniment = codec.decode(accompany_latents(latents, model, config, on_step))
    return np.clip(accompaniment[0, :, : vocal.shape[1]].float().cpu().numpy(), -1.0, 1.0)


def accompany_latents(
    vocal: Tensor, model: TrainedModel, config: SamplingConfig, on_step: OnStep | None = None
) -> Tensor:
    """Codec latents of vocals (B, C, T) → codec latents of accompaniments, float32 on the model's device."""
    device = next(model.network.parameters()).device
    schedule = CosineSchedule(model.diffusion.timesteps, model.diffusion.cosine_offset)
    condition = model.normaliser.vocal(vocal.to(device))
    generator = torch.Generator().manual_seed(config.seed)
    with torch.inference_mode():
        x0 = sample(model.network, condition, schedule, config, generator, on_step)
    return model.normaliser.accompaniment_latents(x0)


def mix(vocal: Audio, accompaniment: Audio) -> Audio:
    """Both together, turned down where the sum would clip."""
    total = vocal + accompaniment
    return total / max(1.0, float(np.abs(total).max(initial=0.0)))


def _check(vocal: Audio, model: TrainedModel, codec: Codec) -> None:
    length_s = vocal.shape[1] / SAMPLE_RATE
    if vocal.shape[1] == 0:
        raise InputError("the vocal holds no samples; give one of at least a second")
    if not np.isfinite(vocal).all():
        raise InputError("the vocal holds NaN or infinite samples; export it again")
    if vocal.shape[1] > CHUNK_FRAMES * HOP:
        limit_s = CHUNK_FRAMES * HOP / SAMPLE_RATE
        raise NotBuiltError(
            f"the vocal lasts {length_s:.2f} s; this version accompanies up to {limit_s:.2f} s, cut it first"
        )
    if not made_by(model.codec, codec):
        raise CheckpointError(
            f"the model learned latents of {model.codec!r}, the codec here is {codec.identity!r}"
        )
