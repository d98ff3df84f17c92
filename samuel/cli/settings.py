"""What several commands are told in the same way: settings, where a dataset lies, a codec, a device."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from samuel.config import CodecConfig, parse, read_settings
from samuel.errors import MissingPartError, SettingsError

if TYPE_CHECKING:
    from samuel.codecs.base import Codec

__all__ = [
    "add_cache",
    "add_codec",
    "add_dataset",
    "add_settings",
    "codec_config",
    "codec_of",
    "read_settings",
]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_settings(command: argparse.ArgumentParser) -> None:
    """`--settings FILE`."""
    command.add_argument("--settings", type=Path, help="JSON file of settings; none: the embedded default")


def add_dataset(command: argparse.ArgumentParser) -> None:
    """`[PATH]` and `--cache FOLDER`."""
    command.add_argument("path", nargs="?", default="data/popdb", help="the dataset: a folder or a URL")
    add_cache(command)


def add_cache(command: argparse.ArgumentParser) -> None:
    """`--cache FOLDER`."""
    command.add_argument("--cache", type=Path, help="where shards from a URL are kept on this machine")


def add_codec(command: argparse.ArgumentParser) -> None:
    """`--device NAME` and `--codec-path PLACE`."""
    command.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    command.add_argument("--codec-path", help="stable-audio-open: local weights or a hub repository")


def codec_of(identity: str, options: argparse.Namespace, *, one_song: bool = False) -> "Codec":
    """The codec that has this identity, as the options of `add_codec` say.

    Args:
        identity: What the latents say of their codec.
        options: `--device` and `--codec-path`.
        one_song: Not a dataset: in little memory, and decoded in bf16 by a GPU that has it.

    Raises:
        MissingPartError: This version has none of that name, or its weights are not at hand.
    """
    from samuel.codecs import load_codec
    from samuel.codecs.stable_audio_open import REMEDY
    from samuel.device import resolve_device, uses_bf16

    device = resolve_device(options.device)
    decoding = "bf16" if one_song and uses_bf16(device, "auto") else None
    try:
        config = codec_config(identity, options.codec_path, batch=1 if one_song else None)
        return load_codec(config, device, decoding=decoding)
    except SettingsError as error:
        raise MissingPartError(f"the latents are of {identity!r:.120}, a codec this version lacks") from error
    except MissingPartError as error:  # it speaks of settings
        own = "or give their folder with --codec-path"
        told = str(error).replace(REMEDY, own).replace("codec.path", "--codec-path")
        raise MissingPartError(told) from error


def codec_config(identity: str, path: str | None, batch: int | None = None) -> CodecConfig:
    """The settings of the codec that has this identity.

    Args:
        identity: Begins with the part's name: "mel/1 bands=64 …".
        path: Where its weights are; none: the default.
        batch: Windows at a time; none: as there is memory.

    Raises:
        SettingsError: No part has that name.
    """
    values: dict[str, Any] = {"name": identity.partition("/")[0], "batch": batch}
    words = identity.split()
    values |= {"posterior": "sample"} if "sample" in words else {}
    values |= {"precision": "bf16"} if "bf16" in words else {}
    if path:
        values["path"] = path
    return parse({"codec": values}).codec
