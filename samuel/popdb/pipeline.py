"""One song through the stages that compute: separate, encode (paper §III-C).

The folder of each stage is named by what determines its content: the song, the digest of the stage's input,
the stage's own settings, the identity of its weights and the version of its code.
"""

import threading
from dataclasses import replace
from functools import lru_cache

import torch

from samuel.codec import Codec, load_codec
from samuel.config import CodecConfig, SeparatorConfig, Settings
from samuel.device import resolve_device
from samuel.files import digest
from samuel.popdb.encode import encode_pair
from samuel.popdb.outcome import Outcome, attempt
from samuel.popdb.separate import Separator, load_separator, separate

# Raise a stage's version when its code gives other bytes for the same input.
VERSIONS = {"separate": 1, "encode": 1}


def separate_song(downloaded: Outcome, settings: Settings) -> Outcome:
    """Audio → `data/stems/<key>/vocals.wav` and `accompaniment.wav`; a song that failed passes through."""
    if downloaded.entry is None:
        return replace(downloaded, worked=False)
    separator = separator_for(settings.separator, resolve_device(settings.device))
    audio = downloaded.entry.path("audio.wav")
    key = digest("separate", VERSIONS["separate"], downloaded.entry.sha256["audio.wav"], separator.identity)
    folder = settings.data / "stems" / key
    return attempt(
        downloaded.song,
        "separate",
        folder,
        lambda target: separate(separator, audio, target),
        downloaded.record | {"separator": separator.identity},
    )


def encode_song(separated: Outcome, settings: Settings) -> Outcome:
    """Stems → `data/latents/<key>/latents.safetensors`; a song that failed passes through."""
    if separated.entry is None:
        return replace(separated, worked=False)
    codec = codec_for(settings.codec, resolve_device(settings.device))
    stems, frames = separated.entry.folder, settings.popdb.chunk_frames
    key = digest("encode", VERSIONS["encode"], separated.entry.sha256, codec.identity, frames)
    folder = settings.data / "latents" / key
    return attempt(
        separated.song,
        "encode",
        folder,
        lambda target: encode_pair(codec, stems, frames, target),
        separated.record | {"codec": codec.identity},
    )


def separator_for(config: SeparatorConfig, device: torch.device) -> Separator:
    """The process's one copy of the separator."""
    with _loading:
        return _separator(config.model_dump_json(), device)


def codec_for(config: CodecConfig, device: torch.device) -> Codec:
    """The process's one copy of the codec."""
    with _loading:
        return _codec(config.model_dump_json(), device)


# Two threads that ask at once would each load a copy: functools' caches do not wait for one another.
_loading = threading.Lock()


@lru_cache(maxsize=1)
def _separator(config: str, device: torch.device) -> Separator:
    return load_separator(SeparatorConfig.model_validate_json(config), device)


@lru_cache(maxsize=1)
def _codec(config: str, device: torch.device) -> Codec:
    return load_codec(CodecConfig.model_validate_json(config), device)
