"""`samuel generate`, `app` and `render`: accompaniments by a trained model, and by other systems."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from tqdm import tqdm

from samuel.cli.options import GOES_ON, SettingsCommand, codec_for_latents
from samuel.cli.terminal import ending_cleanly, plain
from samuel.config import Sampler, SamplingConfig, Settings
from samuel.errors import InputError

if TYPE_CHECKING:
    from samuel.baselines.base import Renderer
    from samuel.baselines.render import Outcome
    from samuel.checkpoint import TrainedModel
    from samuel.generate import Keep

A_PATH = click.Path(path_type=Path)
BAR = "{desc:<8} {percentage:3.0f}%|{bar:30}| {elapsed}"
TAKES_STAY = "takes that were finished stay, the rest is not there"
CLOSED = "the page is closed, and its temporary files are gone"
SYSTEMS = ("samuel", "musicgen", "stable-audio-open")


@click.command(
    cls=SettingsCommand, uses=("device", "sampling", "separator", "codec.path"), interrupted=TAKES_STAY
)
@click.argument("vocal", type=A_PATH)
@click.option("--model", type=A_PATH, required=True, help="Folder of a trained model.")
@click.option(
    "-o", "--output", type=A_PATH, default=Path("accompaniment.wav"), show_default=True,
    help="A .wav or .flac; the mix and a JSON record are written beside it.",
)  # fmt: skip
@click.option("--n", "takes", type=int, default=1, help="How many takes, with the seeds that follow.")
@click.option("--length", type=float, metavar="S", help="Only so many seconds from the beginning.")
@click.option(
    "--balance",
    type=float,
    default=1.0,
    show_default=True,
    metavar="DB",
    help="Vocal over accompaniment in the mix.",
)
@click.option("--sampler", type=click.Choice(get_args(Sampler)), help="sampling.sampler")
@click.option("--steps", type=int, help="sampling.steps")
@click.option("--guidance", type=float, help="sampling.guidance_scale")
@click.option("--seed", type=int, help="sampling.seed")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: for many takes on a GPU.")
@click.option(
    "--from-mix",
    is_flag=True,
    help="A whole song: take its vocals out first, by the separator of the settings.",
)
@click.option("--existing", type=A_PATH, help="An accompaniment of which --keep names the parts.")
@click.option("--keep", metavar="SECONDS", help="What stays of --existing: 0-12.5,30-")
def generate(settings: Settings, model: Path, compiled: bool, from_mix: bool, **options: Any) -> int:
    """Write an accompaniment for a vocal: any audio file."""
    from samuel.checkpoint import load_model
    from samuel.device import compiled as compile_network
    from samuel.device import resolve_device
    from samuel.generate import Request
    from samuel.generate import generate as make
    from samuel.separators import load_separator

    keep, device = _keep(options["existing"], options["keep"]), resolve_device(settings.device)
    trained = load_model(model, device)
    if compiled:
        trained = dataclasses.replace(trained, network=compile_network(trained.network, device))
    codec = codec_for_latents(trained.codec, settings, one_song=True)
    request = Request(
        vocal=options["vocal"],
        output=options["output"],
        sampling=_sampling(settings, trained, options),
        takes=options["takes"],
        length_s=options["length"],
        separator=load_separator(settings.separator, device) if from_mix else None,
        keep=keep,
        balance_db=options["balance"],
    )
    with ending_cleanly(), _Bars() as bars:
        takes = make(request, trained, codec, bars.show)
    for take in takes:
        print(take.accompaniment, take.mix, take.record, sep="\n")
    return 0


@click.command(cls=SettingsCommand, uses=("device", "codec.path", "separator"), interrupted=CLOSED)
@click.option("--model", type=A_PATH, required=True, help="Folder of a trained model.")
@click.option(
    "--port", type=int, default=7860, show_default=True, help="Of 127.0.0.1: no other machine reaches it."
)
def app(settings: Settings, model: Path, port: int) -> int:
    """Serve a page to the browser: a vocal up, an accompaniment down; until Ctrl-C."""
    from samuel.app import require_gradio, serving
    from samuel.checkpoint import load_model
    from samuel.device import resolve_device
    from samuel.separators import load_separator

    require_gradio()
    device = resolve_device(settings.device)
    trained = load_model(model, device)
    codec = codec_for_latents(trained.codec, settings, one_song=True)
    separator = load_separator(settings.separator, device)
    with ending_cleanly(), serving(trained, codec, separator, port) as address:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(3600)


@click.command(
    cls=SettingsCommand, interrupted=GOES_ON,
    uses=("device", "sampling", "codec.path", "musicgen", "stable_audio_open"),
)  # fmt: skip
@click.argument("system", type=click.Choice(SYSTEMS))
@click.option("--vocals", type=A_PATH, required=True, help="A folder of audio files.")
@click.option(
    "-o", "--output", type=A_PATH, required=True,
    help="A folder: a .flac under the name of each vocal, and system.json; begun before, it goes on.",
)  # fmt: skip
@click.option(
    "--model", help="samuel: folder of a trained model; the others: a folder or a repository of the hub."
)
@click.option("--prompt", help="The text that musicgen and stable-audio-open are given.")
@click.option("--seed", type=int, help="Each track's own follows from it and the track's name.")
def render(
    settings: Settings, system: str, vocals: Path, output: Path, model: str | None, **options: Any
) -> int:
    """Write a system's accompaniments for a folder of vocals; exit code 1 where one failed.

    musicgen and stable-audio-open need the extra `baselines`.
    """
    from samuel.baselines.render import render_folder, vocals_in

    found = vocals_in(vocals, output)
    for name, reason in found.skipped:
        print(plain(f"{name}: {reason}: skipped"), file=sys.stderr)
    with ending_cleanly():
        outcomes = render_folder(_renderer(system, settings, model, options), found, output, _print_outcome)
    made = sum(outcome.seconds is not None for outcome in outcomes)
    failed = sum(outcome.file is None for outcome in outcomes)
    print(f"{made} made, {len(outcomes) - made - failed} there already, {failed} failed")
    return 1 if failed else 0


def _keep(existing: Path | None, seconds: str | None) -> "Keep | None":
    from samuel.generate import Keep, ranges_of

    if (seconds is None) != (existing is None):
        raise InputError("--keep and --existing belong together: which seconds, and of what")
    return Keep(existing, ranges_of(seconds)) if existing and seconds else None


def _sampling(settings: Settings, model: "TrainedModel", options: dict[str, Any]) -> SamplingConfig:
    """The sampling of the settings, with what the options say instead, checked against the model's steps."""
    from samuel.config import parse

    names = {"sampler": "sampler", "steps": "steps", "guidance": "guidance_scale", "seed": "seed"}
    said = {names[name]: value for name, value in options.items() if name in names and value is not None}
    sampling = settings.sampling.model_dump() | said
    return parse({"sampling": sampling, "diffusion": model.diffusion.model_dump()}).sampling


def _renderer(system: str, settings: Settings, model: str | None, options: dict[str, Any]) -> "Renderer":
    from samuel.baselines import musicgen, stable_audio_open
    from samuel.baselines.base import Samuel
    from samuel.checkpoint import load_model
    from samuel.config import parse
    from samuel.device import resolve_device

    device, said = resolve_device(settings.device), {k: v for k, v in options.items() if v is not None}
    if system == "samuel":
        if "prompt" in said:
            raise InputError("--prompt: SAMUeL reads no text; leave it out")
        if model is None:
            raise InputError("--model is missing: give the folder of a trained model")
        trained = load_model(Path(model), device)
        codec = codec_for_latents(trained.codec, settings, one_song=True)
        return Samuel(
            Path(model).resolve().name, trained, codec, _sampling(settings, trained, options), device
        )
    section = system.replace("-", "_")
    values = getattr(settings, section).model_dump() | said
    config = getattr(parse({section: values}), section)
    if system == "musicgen":
        return musicgen.MusicGen(model or musicgen.MODEL, config, device)
    return stable_audio_open.StableAudioOpen(model or stable_audio_open.MODEL, config, device)


def _print_outcome(outcome: "Outcome") -> None:
    if outcome.message:
        print(plain(f"{outcome.vocal.name}: {outcome.message}"), file=sys.stderr, flush=True)
    else:
        took = "there already" if outcome.seconds is None else f"{outcome.seconds:.1f} s"
        print(plain(f"{outcome.file}: {took}"), flush=True)


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
