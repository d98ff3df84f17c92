"""Audio ↔ latents, by one of several codecs.

Behind `load_codec` stand `mel`, which needs no weights, and `stable-audio-open`, the paper's. Another codec
is a module of this folder with a `load` like theirs, and its name in `samuel.config.CodecName`.
"""

from importlib import import_module
from typing import Protocol, get_args

import torch

from samuel.codecs.base import Codec, CodecInfo
from samuel.config import CodecConfig, CodecName, Precision

__all__ = ["CODECS", "Codec", "CodecInfo", "load_codec"]


class Loader(Protocol):
    """Makes a codec of its settings."""

    def __call__(self, config: CodecConfig, device: torch.device, decoding: Precision | None) -> Codec:
        """See `load_codec`."""
        ...


def _loader(name: str) -> Loader:
    def load(config: CodecConfig, device: torch.device, decoding: Precision | None) -> Codec:
        module = import_module(f"samuel.codecs.{name.replace('-', '_')}")  # some take seconds to import
        return module.load(config, device, decoding)

    return load


CODECS: dict[str, Loader] = {name: _loader(name) for name in get_args(CodecName)}


def load_codec(config: CodecConfig, device: torch.device, *, decoding: Precision | None = None) -> Codec:
    """The codec that the settings name, on `device`.

    Args:
        config: Which, and how it encodes.
        device: Where it computes.
        decoding: Precision of `decode`, on which no latents depend: bf16 does where a GPU decodes for ears
            alone. None: that of the settings. `mel` takes no notice of either.

    Raises:
        MissingPartError: Its weights are absent, out of reach, or not what they should be.
    """
    return CODECS[config.name](config, device, decoding)
