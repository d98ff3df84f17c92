"""Audio ↔ latents, by one of several codecs: `mel`, which needs no weights, and `stable-audio-open`.

Another codec is a module of this folder, named like it, with a `load` like theirs, and its name in
`samuel.config.CodecName`.
"""

import threading
from importlib import import_module

import torch

from samuel.codecs.base import Codec, CodecInfo
from samuel.config import CodecConfig, parse
from samuel.errors import MissingPartError, SettingsError

__all__ = ["Codec", "CodecInfo", "codec_for_latents", "load_codec"]


def load_codec(config: CodecConfig, device: torch.device, turn: "threading.Lock | None" = None) -> Codec:
    """The codec that the settings name; `turn` is held while it computes, by who shares its memory."""
    module = import_module(f"samuel.codecs.{config.name.replace('-', '_')}")  # some take seconds to import
    return module.load(config, device, turn)


def codec_for_latents(
    info: CodecInfo, settings: CodecConfig, device: torch.device, *, one_song: bool = False
) -> Codec:
    """The codec that made latents, its weights as the settings say; for `one_song` in little memory."""
    from samuel.codecs.stable_audio_open import VARIANTS

    values = {"name": info.name, "path": settings.path, "batch": 1 if one_song else None}
    try:
        config = parse({"codec": values | VARIANTS.get(info.version, {})}).codec
    except SettingsError as error:
        raise MissingPartError(f"the latents are of {info}, a codec this version lacks") from error
    return load_codec(config, device)
