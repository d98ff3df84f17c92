"""Audio ↔ latents, by one of several codecs.

Behind `load_codec` stand `mel`, which needs no weights, and `stable-audio-open`, the paper's. Another codec
is a module of this folder, named like it, with a `load` like theirs, and its name in
`samuel.config.CodecName`.
"""

import threading
from importlib import import_module

import torch

from samuel.codecs.base import Codec, CodecInfo
from samuel.config import CodecConfig, Precision

__all__ = ["Codec", "CodecInfo", "load_codec"]


def load_codec(
    config: CodecConfig,
    device: torch.device,
    *,
    decoding: Precision | None = None,
    turn: "threading.Lock | None" = None,
) -> Codec:
    """The codec that the settings name, on `device`.

    `decoding` is the precision of `decode`, on which no latents depend, by default that of the settings: bf16
    does where a GPU decodes for ears alone. `turn` is held while it computes, by who shares its memory.

    Raises:
        MissingPartError: Its weights are absent, out of reach, or not what they should be.
    """
    module = import_module(f"samuel.codecs.{config.name.replace('-', '_')}")  # some take seconds to import
    return module.load(config, device, decoding, turn)
