"""Audio ↔ latents, by one of several codecs: `mel`, which needs no weights, and `stable-audio-open`.

Another codec is a module of this folder, named like it, with a `load` like theirs, and its name in
`samuel.config.CodecName`.
"""

import threading
from importlib import import_module

import torch

from samuel.codecs.base import Codec, CodecInfo
from samuel.config import CodecConfig, Precision, Settings, parse
from samuel.device import resolve_device, uses_bf16
from samuel.errors import MissingPartError, SettingsError

__all__ = ["Codec", "CodecInfo", "codec_for_latents", "load_codec"]


def load_codec(
    config: CodecConfig, device: torch.device, *,
    decoding: Precision | None = None, turn: "threading.Lock | None" = None,
) -> Codec:  # fmt: skip
    """The codec that the settings name, on `device`; a MissingPartError where its weights are not.

    `decoding` is the precision of what is only listened to, by default that of the settings; `turn` is held
    while it computes, by who shares its memory.
    """
    module = import_module(f"samuel.codecs.{config.name.replace('-', '_')}")  # some take seconds to import
    return module.load(config, device, decoding, turn)


def codec_for_latents(info: CodecInfo, settings: Settings, *, one_song: bool = False) -> Codec:
    """The codec that made latents, its weights from where the settings say; MissingPartError where they lack.

    `one_song`: not a dataset, so in little memory, and decoded in bf16 by a GPU that has it.
    """
    from samuel.codecs.stable_audio_open import VARIANTS

    device = resolve_device(settings.device)
    values = {"name": info.name, "path": settings.codec.path, "batch": 1 if one_song else None}
    try:
        config = parse({"codec": values | VARIANTS.get(info.version, {})}).codec
    except SettingsError as error:
        raise MissingPartError(f"the latents are of {info}, a codec this version lacks") from error
    return load_codec(config, device, decoding="bf16" if one_song and uses_bf16(device, "auto") else None)
