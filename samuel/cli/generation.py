"""`samuel generate`, `app` and `render`: accompaniments by a trained model, and by other systems."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from tqdm import tqdm

from samuel.cli.options import (
    A_FOLDER,
    A_PATH,
    GOES_ON,
    SettingsCommand,
    codec_for_latents,
    ending_cleanly,
    plain,
)
from samuel.config import Sampler, SamplingConfig, Settings, parse
from samuel.errors import InputError

if TYPE_CHECKING:
    from samuel.baselines.base import Renderer
    from samuel.baselines.render import Outcome
    from samuel.checkpoint import TrainedModel

BAR = "{desc:<8} {percentage:3.0f}%|{bar:30}| {elapsed}"
TAKES_STAY = "takes that were finished stay, the rest is not there"
CLOSED = "the page is closed, and its temporary files are gone"
SYSTEMS = ("samuel", "musicgen", "stable-audio-open")
OF_GENERATE = ("device", "sampling", "separator", "codec.path")
OF_RENDER = ("device", "sampling", "codec.path", "musicgen", "stable_audio_open")
PARTS = "A .wav or .flac; the mix and a JSON record are written beside it."
RENDERS = "A folder: a .flac under the name of each vocal, and system.json; begun before, it goes on."
WEIGHTS = "samuel: folder of a trained model; the others: a folder or a repository of the hub."


@click.command(cls=SettingsCommand, uses=OF_GENERATE, interrupted=TAKES_STAY)
@click.argument("vocal", type=A_PATH)
@click.option("--model", type=A_PATH, required=True, help="Folder of a trained model.")
@click.option("-o", "--output", type=A_PATH, default=Path("accompaniment.wav"), help=PARTS)
@click.option("--n", "takes", type=int, default=1, help="How many takes, with the seeds that follow.")
@click.option(
    "--length", "length_s", type=float, metavar="S", help="Only so many seconds from the beginning."
)
@click.option(
    "--balance", "balance_db", type=float, default=1.0, metavar="DB", help="Vocal over accompaniment."
)
@click.option("--sampler", type=click.Choice(get_args(Sampler)), help="sampling.sampler")
@click.option("--steps", type=int, help="sampling.steps")
@click.option("--guidance", "guidance_scale", type=float, help="sampling.guidance_scale")
@click.option("--seed", type=int, help="sampling.seed")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: for many takes on a GPU.")
@click.option("--from-mix", is_flag=True, help="A whole song: its vocals are taken out first.")
@click.option("--existing", type=A_PATH, help="An accompaniment of which --keep names the parts.")
@click.option("--keep", metavar="SECONDS", help="What stays of --existing: 0-12.5,30-")
def generate(
    settings: Settings, model: Path, vocal: Path, output: Path, takes: int, length_s: float | None,
    balance_db: float, compiled: bool, from_mix: bool, existing: Path | None, keep: str | None,
    **sampling: Any,
) -> None:  # fmt: skip
    """Write an accompaniment for a vocal: any audio file."""
    from samuel.checkpoint import load_model
    from samuel.device import compiled as compile_network
    from samuel.device import resolve_device
    from samuel.generate import Keep, Request, ranges_of
    from samuel.generate import generate as make
    from samuel.separators import load_separator

    if (keep is None) != (existing is None):
        raise InputError("--keep and --existing belong together: which seconds, and of what")
    kept = Keep(existing, ranges_of(keep)) if existing and keep else None
    device = resolve_device(settings.device)
    trained = load_model(model, device)
    if compiled:
        trained = dataclasses.replace(trained, network=compile_network(trained.network, device))
    codec = codec_for_latents(trained.codec, settings, one_song=True)
    separator = load_separator(settings.separator, device) if from_mix else None
    request = Request(
        vocal, output, _sampling(settings, trained, sampling), takes=takes, length_s=length_s,
        separator=separator, keep=kept, balance_db=balance_db,
    )  # fmt: skip
    with ending_cleanly(), _bars() as show:
        made = make(request, trained, codec, show)
    for take in made:
        print(take.accompaniment, take.mix, take.record, sep="\n")


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress with a bar for each part of the work, one after the other."""
    bar, shown = tqdm(disable=True), ""

    def show(what: str, done: int, of: int) -> None:
        nonlocal bar, shown
        if what != shown or done < bar.n:
            bar.close()
            bar, shown = tqdm(total=of, desc=what, disable=None, bar_format=BAR), what
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        bar.close()


def _sampling(settings: Settings, model: "TrainedModel", options: dict[str, Any]) -> SamplingConfig:
    """The sampling of the settings, with what the options say instead, checked against the model's steps."""
    said = {name: value for name, value in options.items() if value is not None}
    sampling = settings.sampling.model_dump() | said
    return parse({"sampling": sampling, "diffusion": model.diffusion.model_dump()}).sampling


@click.command(cls=SettingsCommand, uses=("device", "codec.path", "separator"), interrupted=CLOSED)
@click.option("--model", type=A_PATH, required=True, help="Folder of a trained model.")
@click.option("--port", type=int, default=7860, help="Of 127.0.0.1: no other machine reaches it.")
def app(settings: Settings, model: Path, port: int) -> None:
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


@click.command(cls=SettingsCommand, uses=OF_RENDER, interrupted=GOES_ON)
@click.argument("system", type=click.Choice(SYSTEMS))
@click.option("--vocals", type=A_PATH, required=True, help="A folder of audio files.")
@click.option("-o", "--output", type=A_FOLDER, required=True, help=RENDERS)
@click.option("--model", help=WEIGHTS)
@click.option("--prompt", help="The text that musicgen and stable-audio-open are given.")
@click.option("--seed", type=int, help="Each track's own follows from it and the track's name.")
def render(
    settings: Settings, system: str, vocals: Path, output: Path, model: str | None, **options: Any
) -> int:
    """Write a system's accompaniments for a folder of vocals; exit code 1 where one failed.

    musicgen and stable-audio-open need the extra `baselines`.
    """
    from samuel.baselines.render import render_folder, vocals_in

    def show(outcome: "Outcome") -> None:
        if outcome.message:
            print(plain(f"{outcome.vocal.name}: {outcome.message}"), file=sys.stderr, flush=True)
        else:
            took = "there already" if outcome.seconds is None else f"{outcome.seconds:.1f} s"
            print(plain(f"{outcome.file}: {took}"), flush=True)

    found = vocals_in(vocals, output)
    for name, reason in found.skipped:
        print(plain(f"{name}: {reason}: skipped"), file=sys.stderr)
    with ending_cleanly():
        outcomes = render_folder(_renderer(system, settings, model, options), found, output, show)
    made = sum(outcome.seconds is not None for outcome in outcomes)
    failed = sum(outcome.file is None for outcome in outcomes)
    print(f"{made} made, {len(outcomes) - made - failed} there already, {failed} failed")
    return 1 if failed else 0


def _renderer(system: str, settings: Settings, model: str | None, options: dict[str, Any]) -> "Renderer":
    from samuel.baselines import musicgen, stable_audio_open
    from samuel.baselines.base import Samuel
    from samuel.checkpoint import load_model
    from samuel.device import resolve_device

    device, said = resolve_device(settings.device), {k: v for k, v in options.items() if v is not None}
    if system == "samuel":
        if "prompt" in said:
            raise InputError("--prompt: SAMUeL reads no text; leave it out")
        if model is None:
            raise InputError("--model is missing: give the folder of a trained model")
        trained, name = load_model(Path(model), device), Path(model).resolve().name
        codec = codec_for_latents(trained.codec, settings, one_song=True)
        return Samuel(name, trained, codec, _sampling(settings, trained, said), device)
    section = system.replace("-", "_")
    config = getattr(parse({section: getattr(settings, section).model_dump() | said}), section)
    if system == "musicgen":
        return musicgen.MusicGen(model or musicgen.MODEL, config, device)
    return stable_audio_open.StableAudioOpen(model or stable_audio_open.MODEL, config, device)
