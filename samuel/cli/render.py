"""`samuel render`: a folder of accompaniments by any system, for `samuel evaluate`."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samuel.cli.settings import (
    Commands,
    add_codec,
    add_settings,
    codec_of,
    read_settings,
)
from samuel.cli.terminal import GOES_ON, ending_cleanly, plain
from samuel.errors import InputError, SettingsError

if TYPE_CHECKING:
    from samuel.baselines.render import Outcome, Renderer

SYSTEMS = ("samuel", "musicgen", "stable-audio-open")


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("render", help="write a system's accompaniments for a folder of vocals")
    command.add_argument("system", choices=SYSTEMS, help="the last two need the extra 'baselines'")
    command.add_argument("--vocals", type=Path, required=True, help="a folder of audio files")
    command.add_argument(
        "-o", "--output", type=Path, required=True,
        help="a folder: a .flac under the name of each vocal, and system.json; begun before, it goes on",
    )  # fmt: skip
    command.add_argument(
        "--model", help="samuel: folder of a trained model; the others: a folder or a repository of the hub"
    )
    command.add_argument("--prompt", help="the text that musicgen and stable-audio-open are given")
    command.add_argument("--seed", type=int, help="each track's own follows from it and the track's name")
    add_codec(command)
    add_settings(command)
    command.set_defaults(command=render, interrupted=GOES_ON)


def render(options: argparse.Namespace) -> int:
    """Write an accompaniment for every vocal of a folder; 1 where one failed."""
    from samuel.baselines.render import render_folder, vocals_in

    vocals = vocals_in(options.vocals, options.output)
    for name, reason in vocals.skipped:
        print(plain(f"{name}: {reason}: skipped"), file=sys.stderr)
    renderer = _ours(options) if options.system == "samuel" else _baseline(options)
    with ending_cleanly():
        outcomes = render_folder(renderer, vocals, options.output, _tell)
    made = sum(outcome.seconds is not None for outcome in outcomes)
    failed = sum(outcome.file is None for outcome in outcomes)
    print(f"{made} made, {len(outcomes) - made - failed} there already, {failed} failed")
    return 1 if failed else 0


def _tell(outcome: "Outcome") -> None:
    if outcome.message:
        print(plain(f"{outcome.vocal.name}: {outcome.message}"), file=sys.stderr, flush=True)
    else:
        took = "there already" if outcome.seconds is None else f"{outcome.seconds:.1f} s"
        print(plain(f"{outcome.file}: {took}"), flush=True)


def _ours(options: argparse.Namespace) -> "Renderer":
    from samuel.baselines.render import Samuel
    from samuel.checkpoint import load_model
    from samuel.config import CodecConfig, parse
    from samuel.device import resolve_device

    if options.prompt is not None:
        raise InputError("--prompt: SAMUeL reads no text; leave it out")
    if options.model is None:
        raise InputError("--model is missing: give the folder of a trained model")
    settings = read_settings(options.settings)
    options.device = settings.device if options.device == "auto" else options.device
    if options.codec_path is None and settings.codec.name != CodecConfig().name:
        options.codec_path = settings.codec.path
    device, folder = resolve_device(options.device), Path(options.model)
    model = load_model(folder, device)
    values = settings.model_dump() | {"diffusion": model.diffusion.model_dump()}
    values["sampling"] |= {} if options.seed is None else {"seed": options.seed}
    codec = codec_of(model.codec, options, one_song=True)
    return Samuel(folder.resolve().name, model, codec, parse(values).sampling, device)


def _baseline(options: argparse.Namespace) -> "Renderer":
    from samuel.baselines import musicgen, stable_audio_open
    from samuel.baselines.render import parse_section
    from samuel.device import resolve_device

    device, values = resolve_device(options.device), _values(options)
    if options.system == "musicgen":
        config = parse_section(musicgen.MusicGenConfig, values)
        return musicgen.load_musicgen(options.model or musicgen.MODEL, config, device)
    config = parse_section(stable_audio_open.StableAudioOpenConfig, values)
    return stable_audio_open.load_stable_audio_open(options.model or stable_audio_open.MODEL, config, device)


def _values(options: argparse.Namespace) -> dict[str, Any]:
    """What a baseline's own file of settings says, with what the options say instead."""
    if options.codec_path is not None:
        raise InputError(f"--codec-path: {options.system} has a codec of its own; leave it out")
    values = {} if options.settings is None else _read(options.settings)
    said = {"prompt": options.prompt, "seed": options.seed}
    return values | {name: value for name, value in said.items() if value is not None}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: not a JSON object of settings")
    return values
