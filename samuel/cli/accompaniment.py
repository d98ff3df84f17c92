"""`samuel generate`: an accompaniment for a vocal."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tqdm import tqdm

from samuel.cli.settings import (
    Commands,
    add_codec,
    add_settings,
    codec_of,
    read_settings,
)
from samuel.cli.terminal import ending_cleanly
from samuel.config import (
    CodecConfig,
    Sampler,
    SeparatorConfig,
    Settings,
    TrainingPrecision,
    parse,
)
from samuel.errors import InputError

if TYPE_CHECKING:
    import torch

    from samuel.checkpoint import TrainedModel
    from samuel.generate import Keep
    from samuel.separators.base import Separator

SAMPLING = {
    "sampler": "sampler", "steps": "steps", "seed": "seed", "precision": "precision",
    "guidance": "guidance_scale", "guidance_rescale": "guidance_rescale",
    "guidance_interval": "guidance_interval",
}  # fmt: skip
"""Setting behind each option."""
BAR = "{desc:<8} {percentage:3.0f}%|{bar:30}| {elapsed}"


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("generate", help="write an accompaniment for a vocal")
    command.add_argument("vocal", type=Path, help="any audio file")
    command.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    command.add_argument(
        "-o", "--output", type=Path, default=Path("accompaniment.wav"),
        help="a .wav or .flac; the mix and a JSON record are written beside it",
    )  # fmt: skip
    command.add_argument("--n", type=int, default=1, help="how many takes, with the seeds that follow")
    command.add_argument("--length", type=float, metavar="S", help="only so many seconds from the beginning")
    command.add_argument(
        "--balance", type=float, metavar="DB", help="vocal over accompaniment in the mix; 1 dB"
    )
    _add_sampling(command)
    _add_inputs(command)
    add_codec(command)
    add_settings(command)
    command.set_defaults(command=generate, interrupted="takes that were finished stay, the rest is not there")


def _add_sampling(command: argparse.ArgumentParser) -> None:
    """Options whose default is the setting's."""
    command.add_argument("--sampler", choices=get_args(Sampler))
    command.add_argument("--steps", type=int, help="evaluations of the network")
    command.add_argument("--guidance", type=float, help="1: none; more: closer to the vocal")
    command.add_argument("--guidance-rescale", type=float, metavar="SHARE", help="0 to 1")
    command.add_argument("--guidance-interval", type=float, nargs=2, metavar=("FROM", "TO"))
    command.add_argument("--seed", type=int)
    command.add_argument("--precision", choices=get_args(TrainingPrecision))
    command.add_argument("--compile", action="store_true", help="torch.compile: for many takes on a GPU")


def _add_inputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--from-mix", action="store_true", help="a whole song: take its vocals out first")
    command.add_argument("--separator", choices=["repet", "demucs"], help="for --from-mix; repet")
    command.add_argument("--separator-repo", type=Path, help="demucs: a local repository of trusted weights")
    command.add_argument("--existing", type=Path, help="an accompaniment of which --keep names the parts")
    command.add_argument("--keep", metavar="SECONDS", help="what stays of --existing: 0-12.5,30-")


def generate(options: argparse.Namespace) -> int:
    """Write an accompaniment for a vocal."""
    from samuel.checkpoint import load_model
    from samuel.device import resolve_device
    from samuel.generate import Request
    from samuel.generate import generate as make

    given = read_settings(options.settings)
    _take_over(options, given)
    keep, device = _keep(options), resolve_device(options.device)
    model = _compiled(load_model(options.model, device), options.compile, device)
    settings = _settings(options, given, model)
    codec = codec_of(model.codec, options, one_song=True)
    request = Request(
        vocal=options.vocal,
        output=options.output,
        sampling=settings.sampling,
        takes=options.n,
        length_s=options.length,
        separator=_separator(settings.separator, device) if options.from_mix else None,
        keep=keep,
        **({} if options.balance is None else {"balance_db": options.balance}),
    )
    with ending_cleanly(), _Bars() as bars:
        takes = make(request, model, codec, bars.show)
    for take in takes:
        print(take.accompaniment, take.mix, take.record, sep="\n")
    return 0


def _take_over(options: argparse.Namespace, settings: Settings) -> None:
    """Device and codec's weights as the settings say, where no option does."""
    if options.device == "auto":
        options.device = settings.device
    if options.codec_path is None and settings.codec.name != CodecConfig().name:
        options.codec_path = settings.codec.path


def _settings(options: argparse.Namespace, settings: Settings, model: "TrainedModel") -> Settings:
    """The settings of the file, with what the options say instead, and the model's own steps."""
    said = {
        setting: value
        for option, setting in SAMPLING.items()
        if (value := getattr(options, option)) is not None
    }
    values: dict[str, Any] = settings.model_dump() | {"diffusion": model.diffusion.model_dump()}
    values["sampling"] |= said
    if options.separator or options.separator_repo:
        name = options.separator or "demucs"
        values["separator"] |= {"name": name, "repo": options.separator_repo or settings.separator.repo}
    if not options.from_mix and (options.separator or options.separator_repo):
        raise InputError("--separator is for whole songs: add --from-mix")
    return parse(values)


def _keep(options: argparse.Namespace) -> "Keep | None":
    from samuel.generate import Keep, ranges_of

    if (options.keep is None) != (options.existing is None):
        raise InputError("--keep and --existing belong together: which seconds, and of what")
    return None if options.keep is None else Keep(options.existing, ranges_of(options.keep))


def _separator(config: SeparatorConfig, device: "torch.device") -> "Separator":
    from samuel.separators import load_separator

    return load_separator(config, device)


def _compiled(model: "TrainedModel", wanted: bool, device: "torch.device") -> "TrainedModel":
    from samuel.device import compiled

    return dataclasses.replace(model, network=compiled(model.network, device)) if wanted else model


class _Bars:
    """A bar for each part of the work, one after the other."""

    def __init__(self) -> None:
        self.what, self.bar = "", tqdm(disable=True)

    def show(self, what: str, done: int, of: int) -> None:
        """Move the bar of `what`, a new one where it begins."""
        if what != self.what or done < self.bar.n:
            self.bar.close()
            self.what, self.bar = what, tqdm(total=of, desc=what, disable=None, bar_format=BAR)
        self.bar.update(done - self.bar.n)

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
