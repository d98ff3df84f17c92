"""What several commands are told in the same way: settings, where a dataset lies, a codec, a device."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from samuel.config import CodecConfig, Settings, parse
from samuel.errors import InputError, MissingPartError, SettingsError

if TYPE_CHECKING:
    from samuel.codec import Codec

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


def read_settings(path: Path | None) -> Settings:
    """Settings from a JSON file, the defaults without one.

    Raises:
        InputError: There is no such file.
        SettingsError: It is no JSON, or holds a wrong setting.
    """
    if path is None:
        return Settings()
    try:
        return parse(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path}: not JSON ({error})") from error


def codec_of(identity: str, options: argparse.Namespace) -> "Codec":
    """The codec that has this identity, as the options of `add_codec` say.

    Raises:
        MissingPartError: This version has none of that name, or its weights are not at hand.
    """
    from samuel.codec import load_codec
    from samuel.codec.stable_audio import REMEDY
    from samuel.device import resolve_device

    device = resolve_device(options.device)
    try:
        return load_codec(codec_config(identity, options.codec_path), device)
    except SettingsError as error:
        raise MissingPartError(f"the latents are of {identity!r:.120}, a codec this version lacks") from error
    except MissingPartError as error:  # it speaks of settings
        own = "or give their folder with --codec-path"
        told = str(error).replace(REMEDY, own).replace("codec.path", "--codec-path")
        raise MissingPartError(told) from error


def codec_config(identity: str, path: str | None) -> CodecConfig:
    """The settings of the codec that has this identity.

    Args:
        identity: Begins with the part's name: "mel/1 bands=64 …".
        path: Where its weights are; none: the default.

    Raises:
        SettingsError: No part has that name.
    """
    values: dict[str, str] = {"name": identity.partition("/")[0]}
    words = identity.split()
    values |= {"posterior": "sample"} if "sample" in words else {}
    values |= {"precision": "bf16"} if "bf16" in words else {}
    if path:
        values["path"] = path
    return parse({"codec": values}).codec
