"""Audio ↔ latents: 64 channels, one frame per 2048 samples.

Two codecs stand behind `load_codec`: `mel`, which needs no weights, and `stable-audio-open`, the paper's.
Legend: B batch, S samples at 44.1 kHz, T latent frames.
"""

import torch

from samuel.codecs.base import (
    HOP,
    LATENT_CHANNELS,
    REACH,
    Codec,
    frame_count,
)
from samuel.codecs.mel import MelCodec
from samuel.codecs.stable_audio_open import load_stable_audio
from samuel.config import CodecConfig, Precision

__all__ = ["HOP", "LATENT_CHANNELS", "REACH", "Codec", "frame_count", "load_codec"]


def load_codec(config: CodecConfig, device: torch.device, *, decoding: Precision | None = None) -> Codec:
    """The codec that the settings name, on `device`.

    Args:
        config: Which, and how it encodes.
        device: Where it computes.
        decoding: Precision of `decode`, which no identity speaks of: bf16 does where a GPU decodes for ears
            alone. None: that of the settings. `mel` takes no notice of either.

    Raises:
        MissingPartError: Its weights are absent, out of reach, or not what they should be.
    """
    if config.name == "mel":
        return MelCodec(device)
    return load_stable_audio(config, device, decoding)
