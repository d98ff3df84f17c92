"""Commands of models: `train`, `validate`, `ablate`, `summary`, `generate`, `app` and `render`."""

import dataclasses
import importlib.util
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any, get_args

import click
from filelock import FileLock
from tqdm import tqdm

from samuel.cli.options import A_FOLDER, A_PATH, GOES_ON, SettingsCommand, ending_cleanly, plain, stands_for
from samuel.config import Sampler, SamplingConfig, Settings, parse
from samuel.doctor import require
from samuel.errors import InputError, MissingPartError
from samuel.text import install_extra, text_of

if TYPE_CHECKING:
    import torch

    from samuel.baselines.render import Outcome, Renderer
    from samuel.checkpoint import TrainedModel
    from samuel.codecs import Codec

OF_TRAINING = ("data", "artifacts", "device", "popdb.path", "model", "diffusion", "training")
CHECKPOINT = "a checkpoint was written; the same command goes on from it"
BAR = "{desc:<8} {percentage:3.0f}%|{bar:30}| {elapsed}"
LOCK = "lock"
TAKES_STAY = "takes that were finished stay, the rest is not there"
CLOSED = "the page is closed, and its temporary files are gone"
TEXT_SYSTEMS = ("musicgen", "stable_audio_open")  # by their sections
OF_GENERATE = ("device", "sampling", "separator", "codec.path")
OF_RENDER = ("device", "sampling", "codec.path", *TEXT_SYSTEMS)
PARTS = "A .wav or .flac; the mix and a JSON record are written beside it."
RENDERS = "A folder: a .flac under the name of each vocal, and system.json; begun before, it goes on."
WEIGHTS = "samuel: folder of a trained model; the others: a folder or a repository of the hub."
SEED = "Each track's own follows from it and the track's name."

a_model = click.option("--model", type=A_PATH, required=True, help="Folder of a trained model.")


@click.command(cls=SettingsCommand, uses=OF_TRAINING, interrupted=CHECKPOINT)
def train(settings: Settings) -> int:
    """Train on POPDB, or go on with it; on several GPUs of this machine with training.processes.

    The model lies where the flow train-and-eval looks for it.
    """
    from samuel.popdb.dataset import open_popdb
    from samuel.train import fit, run_folder, train_together
    from samuel.train.processes import RENDEZVOUS

    require(settings, set())
    popdb = open_popdb(settings.popdb_path)
    if settings.training.processes > 1 and "RANK" not in os.environ:  # neither torchrun's process nor ours
        return train_together(settings)
    first = os.environ.get("RANK", "0") == "0"
    with tqdm(total=settings.training.steps, desc="train", disable=None if first else True) as bar:

        def show(row: dict[str, Any]) -> None:
            bar.update(row["step"] - bar.n)
            bar.set_postfix(v_mse=f"{row['v_mse']:.3f}", refresh=False)
            if "validation_loss" in row:
                shuffled = row.get("validation_shuffled")
                other = "" if shuffled is None else f", {shuffled:.4f} with another song's vocal"
                bar.write(f"step {row['step']}: validation loss {row['validation_loss']:.4f}{other}")

        try:
            model = fit(popdb, settings, run_folder(popdb, settings), show)
        except KeyboardInterrupt:
            if RENDEZVOUS not in os.environ:
                raise
            return 130  # who started it says so
    if first:
        progress, state = model.record["progress"], "trained" if model.made else "already there"
        best = f"validation loss {progress['best_loss']:.4f} at step {progress['best_step']}"
        print(f"{plain(str(model.folder))}: {state}, {best}")
    return 0


@click.command(cls=SettingsCommand, uses=("data", "device", "popdb.path"))
@click.argument("model", type=A_PATH)
def validate(settings: Settings, model: Path) -> None:
    """Print a model's error of v on all held-out pairs, with their own vocals and with other songs'."""
    from samuel.checkpoint import load_model
    from samuel.device import resolve_device
    from samuel.popdb.dataset import open_popdb
    from samuel.train.validation import conditioning_gain

    network = load_model(model, resolve_device(settings.device)).network
    gain = conditioning_gain(network, open_popdb(settings.popdb_path))
    print(gain.to_string(float_format="{:.4f}".format))


@click.command(cls=SettingsCommand, uses=(*OF_TRAINING, "ablation"), interrupted=GOES_ON)
def ablate(settings: Settings) -> None:
    """Train every variant of choices that the papers leave open with every seed, and print one table."""
    from samuel.ablation import planned_fits, run_fit, write_table
    from samuel.device import resolve_device
    from samuel.popdb.dataset import open_popdb

    require(settings, set())
    resolve_device(settings.device)
    popdb = open_popdb(settings.popdb_path)
    results, fits, steps = [], planned_fits(settings), settings.training.steps
    with tqdm(total=len(fits) * steps, desc="ablate", unit=" steps", disable=None) as bar:
        for place, planned in enumerate(fits):
            before = place * steps

            def show(row: dict[str, Any], before: int = before) -> None:
                bar.update(before + row["step"] - bar.n)

            results.append(result := run_fit(popdb, planned, show))
            bar.update(before + steps - bar.n)  # it may have been there, or have ended early
            loss = result.message if result.best_loss is None else f"validation loss {result.best_loss:.4f}"
            bar.write(plain(f"{planned.name}: {loss}"), file=sys.stderr)
    table = write_table(popdb, settings, results)
    print(plain(table.path("ablation.md").read_text("utf-8")), plain(str(table.folder)), sep="\n")


@click.command(cls=SettingsCommand, uses=("model", "diffusion"))
@click.option("--frames", type=click.IntRange(min=8), default=1024, help="Latent frames of the item.")
def summary(settings: Settings, frames: int) -> None:
    """Print parameters and operations of the network, part by part, for one item."""
    from samuel.model.unet import SamuelUNet
    from samuel.model.unet import summary as parts_of

    parts = parts_of(SamuelUNet(settings.model, settings.diffusion), frames)
    rows = []
    for part in parts:
        gflop, share = f"{part.flops / 1e9:6.3f}", f"{part.flops / parts[-1].flops:6.1%}"
        rows.append({"part": part.name, "parameters": part.parameters, "GFLOP": gflop, "share": share})
    print(text_of(rows))


@click.command(cls=SettingsCommand, uses=OF_GENERATE, interrupted=TAKES_STAY)
@click.argument("vocal", type=A_PATH)
@a_model
@click.option("-o", "--output", type=A_PATH, default=Path("accompaniment.wav"), help=PARTS)
@click.option("--n", "takes", type=int, default=1, help="How many takes, with the seeds that follow.")
@click.option("--length", "length_s", type=float, metavar="S", help="So many seconds from the beginning.")
@click.option("--balance", "balance_db", type=float, default=1, metavar="DB", help="Vocal over the rest.")
@stands_for(["sampling.sampler"], "--sampler", click.Choice(get_args(Sampler)))
@stands_for(["sampling.steps"], "--steps", int)
@stands_for(["sampling.guidance_scale"], "--guidance", float)
@stands_for(["sampling.seed"], "--seed", int)
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: for many takes on a GPU.")
@click.option("--from-mix", is_flag=True, help="A whole song: its vocals are taken out first.")
@click.option("--existing", type=A_PATH, help="An accompaniment of which --keep names the parts.")
@click.option("--keep", metavar="SECONDS", help="What stays of --existing: 0-12.5,30-")
def generate(
    settings: Settings, model: Path, vocal: Path, output: Path, takes: int, length_s: float | None,
    balance_db: float, compiled: bool, from_mix: bool, existing: Path | None, keep: str | None
) -> None:  # fmt: skip
    """Write an accompaniment for a vocal: any audio file."""
    from samuel.device import compiled as compile_network
    from samuel.generate import Keep, Request, ranges_of
    from samuel.generate import generate as make
    from samuel.separators import load_separator

    if (keep is None) != (existing is None):
        raise InputError("--keep and --existing belong together: which seconds, and of what")
    kept = Keep(existing, ranges_of(keep)) if existing and keep else None
    trained, codec, device = _load(model, settings)
    if compiled:
        trained = dataclasses.replace(trained, network=compile_network(trained.network, device))
    separator = load_separator(settings.separator, device) if from_mix else None
    sampling = _sampling(settings, trained)
    request = Request(vocal, output, sampling, takes, length_s, separator, balance_db, kept)
    shown = ""
    with ending_cleanly(), tqdm(disable=None, bar_format=BAR) as bar:

        def show(what: str, done: int, of: int) -> None:
            nonlocal shown
            if what != shown or done < bar.n:
                bar.reset(of)
                bar.set_description_str(shown := what)
            bar.update(done - bar.n)

        made = make(request, trained, codec, show)
    for take in made:
        print(take.accompaniment, take.mix, take.record, sep="\n")


def _load(model: Path, settings: Settings) -> tuple["TrainedModel", "Codec", "torch.device"]:
    """A trained model and its codec, on the device of the settings."""
    from samuel.checkpoint import load_model
    from samuel.codecs import codec_for_latents
    from samuel.device import resolve_device

    device = resolve_device(settings.device)
    trained = load_model(model, device)
    return trained, codec_for_latents(trained.codec, settings.codec, device, one_song=True), device


def _sampling(settings: Settings, model: "TrainedModel") -> SamplingConfig:
    """The sampling of the settings, checked against the model's steps."""
    sections = {"sampling": settings.sampling, "diffusion": model.diffusion}
    return parse({name: section.model_dump() for name, section in sections.items()}).sampling


@click.command(cls=SettingsCommand, uses=("device", "codec.path", "separator"), interrupted=CLOSED)
@a_model
@click.option("--port", type=click.IntRange(1, 65_535), default=7860, help="Of 127.0.0.1 alone.")
def app(settings: Settings, model: Path, port: int) -> None:
    """Serve the page to the browser: a vocal up, an accompaniment down; until Ctrl-C.

    Its address has the password, a new one each time; the environment variable SAMUEL_PASSWORD sets it.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingPartError(f"samuel app needs the package gradio: {install_extra('app')}")
    from samuel.separators import load_separator

    trained, codec, device = _load(model, settings)
    separator = load_separator(settings.separator, device)
    password = os.environ.get("SAMUEL_PASSWORD") or secrets.token_urlsafe(16)
    with ending_cleanly(), _own_folder("samuel-app-") as folder:
        quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        os.environ.update(quiet, GRADIO_TEMP_DIR=f"{folder}/served")
        from samuel.app import Page  # now: gradio reads some of these when it is imported

        with Page(trained, codec, separator, folder).served(port, password) as address:
            print(f"{address} (Ctrl-C ends it)", flush=True)
            while True:
                time.sleep(3600)


@contextmanager
def _own_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, locked; what killed processes left under this prefix is removed."""
    user = getattr(os, "getuid", lambda: 0)()
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # its process lives, or removes it just now
            found = left.lstat()
            if S_ISDIR(found.st_mode) and found.st_uid == user:
                with FileLock(left / LOCK, timeout=0):
                    shutil.rmtree(left, ignore_errors=True)
    temporary = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    with temporary as folder, FileLock(Path(folder, LOCK), timeout=0):
        yield Path(folder)


@click.command(cls=SettingsCommand, uses=OF_RENDER, interrupted=GOES_ON)
@click.argument("system", type=click.Choice(["samuel", "musicgen", "stable-audio-open"]))
@click.option("--vocals", type=A_PATH, required=True, help="A folder of audio files.")
@click.option("-o", "--output", type=A_FOLDER, required=True, help=RENDERS)
@click.option("--model", help=WEIGHTS)
@stands_for([f"{name}.prompt" for name in TEXT_SYSTEMS], "--prompt", str)
@stands_for([f"{name}.seed" for name in ("sampling", *TEXT_SYSTEMS)], "--seed", int, SEED)
def render(settings: Settings, system: str, vocals: Path, output: Path, model: str | None) -> int:
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
    for name in found.skipped:
        print(plain(f"{name}: no audio file, by its suffix: skipped"), file=sys.stderr)
    with ending_cleanly():
        outcomes = render_folder(_renderer(system, settings, model), found, output, show)
    made = sum(outcome.seconds is not None for outcome in outcomes)
    failed = sum(outcome.file is None for outcome in outcomes)
    print(f"{made} made, {len(outcomes) - made - failed} there already, {failed} failed")
    return 1 if failed else 0


def _renderer(system: str, settings: Settings, model: str | None) -> "Renderer":
    from samuel.baselines.pretrained import MusicGen, StableAudioOpen
    from samuel.baselines.render import Samuel
    from samuel.device import resolve_device

    device = resolve_device(settings.device)
    if system == "musicgen":
        return MusicGen(model or MusicGen.repository, settings.musicgen, device)
    if system == "stable-audio-open":
        return StableAudioOpen(model or StableAudioOpen.repository, settings.stable_audio_open, device)
    if any(given.startswith("musicgen.prompt=") for given in click.get_current_context().meta["overrides"]):
        raise InputError("--prompt: SAMUeL reads no text; leave it out")
    if model is None:
        raise InputError("--model is missing: give the folder of a trained model")
    trained, codec, device = _load(Path(model), settings)
    return Samuel(Path(model).resolve().name, trained, codec, _sampling(settings, trained), device)
