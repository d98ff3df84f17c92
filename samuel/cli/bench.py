"""`samuel bench`: what this machine does in a second, and what the parts are worth."""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from samuel.cli.settings import Commands, add_settings, read_settings
from samuel.config import SamplingConfig, SeparatorConfig, Settings
from samuel.errors import InputError

Figures = Iterable[tuple[str, str]]

CHOICES = {
    "machine": "network and embedded parts",
    "pipeline": "separation and encoding at full size",
    "exactness": "these against the libraries' own loops",
    "separation": "separators against true stems",
    "loader": "how fast training gets its batches",
    "training": "its loop against the bare step",
    "generate": "from a vocal to an accompaniment",
    "samplers": "how few steps they may take; takes hours without a GPU",
    "scoring": "scorers against their own commands",
    "orchestration": "what Prefect costs over a full song list, with stand-ins for the stages; minutes",
}


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("bench", help="what this machine does in a second, and how exactly")
    told = "; ".join(f"{what}: {meaning}" for what, meaning in CHOICES.items())
    command.add_argument("what", nargs="?", default="machine", choices=list(CHOICES), help=told)
    add_settings(command)
    command.add_argument(
        "--songs", type=int, help="pipeline, separation, scoring, orchestration: how many songs"
    )
    command.add_argument(
        "--seconds",
        type=float,
        help="pipeline, scoring: their duration; orchestration: what a stand-in sleeps for each",
    )
    command.add_argument("--list", type=Path, help="orchestration: a song list; none: made-up titles")
    command.add_argument("--model", type=Path, help="generate, samplers: folder of a trained model")
    _add_samplers(command)
    command.set_defaults(command=bench)


def _add_samplers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--record",
        type=Path,
        default=Path("samplers.jsonl"),
        help="samplers: what was drawn, which is not drawn again",
    )
    command.add_argument("--frames", type=int, default=256, help="samplers: latent frames of an item")
    command.add_argument(
        "--guidance", type=float, default=SamplingConfig().guidance_scale, help="samplers: guidance scale"
    )
    command.add_argument("--seeds", type=int, default=3, help="samplers: of every setting")
    command.add_argument("--reference-seeds", type=int, default=2, help="samplers: of 800-step DDPM")


def bench(options: argparse.Namespace) -> int:
    """Print what this machine does, figure by figure, as they are measured."""
    if options.what == "orchestration":
        return _orchestration(options)
    settings, what = read_settings(options.settings), options.what
    if what == "separation":
        return _separation(settings, options.songs)
    if what == "samplers":
        return _samplers(settings, options)
    for name, figure in _rows(what, settings, options):
        print(f"{name:<38}  {figure}", flush=True)
    return 0


def _rows(what: str, settings: Settings, options: argparse.Namespace) -> Figures:
    if what == "machine":
        from benchmarks.machine import machine_rows

        return machine_rows(settings)
    if what == "exactness":
        from benchmarks.exactness import exactness_rows

        return exactness_rows(settings)
    if what == "loader":
        from benchmarks.loader import loader_rows

        return loader_rows()
    if what == "training":
        from benchmarks.training import training_rows

        return training_rows(settings)
    if what == "generate":
        from benchmarks.generation import generation_rows

        return generation_rows(settings, options.model)
    return _rows_of_songs(what, settings, options)


def _rows_of_songs(what: str, settings: Settings, options: argparse.Namespace) -> Figures:
    if what == "scoring":
        from benchmarks.scoring import scoring_rows

        return scoring_rows(settings, options.songs, options.seconds)
    from benchmarks.pipeline import pipeline_rows

    return pipeline_rows(settings, options.songs, options.seconds)


def _orchestration(options: argparse.Namespace) -> int:
    """The flows are above this library: a process of their own runs them, and prints what it measures."""
    if options.settings:
        raise InputError(
            "bench orchestration has settings of its own, for its stand-ins; leave --settings out"
        )
    given = {name: getattr(options, name) for name in ("list", "songs", "seconds")}
    told = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return subprocess.run([sys.executable, "-m", "flows.orchestration", *told], check=False).returncode


def _separation(settings: Settings, songs: int | None) -> int:
    from benchmarks.separation import separation_rows
    from samuel.device import resolve_device
    from samuel.popdb.accounts import text_of

    demucs = settings.separator if settings.separator.name == "demucs" else SeparatorConfig(name="demucs")
    rows = separation_rows(
        songs or 12,
        [SeparatorConfig(), demucs],
        resolve_device(settings.device),
        lambda items: tqdm(items, desc="separate", total=songs or 12, disable=None),
    )
    print(text_of([row.row() for row in rows]))
    return 0


def _samplers(settings: Settings, options: argparse.Namespace) -> int:
    """A line for each setting and seed as it is drawn, or found, and the table."""
    from benchmarks.samplers import draws, plan, table
    from samuel.checkpoint import load_model
    from samuel.device import resolve_device
    from samuel.popdb.accounts import text_of
    from samuel.popdb.dataset import open_popdb

    if options.model is None:
        raise InputError("bench samplers draws with a trained model; give its folder with --model")
    if min(options.seeds, options.reference_seeds) < 1:
        raise InputError("--seeds and --reference-seeds: give at least 1")
    model = load_model(options.model, resolve_device(settings.device))
    popdb = open_popdb(settings.popdb_path, settings.popdb.cache)
    planned = plan(options.guidance, options.seeds, options.reference_seeds)
    rows = []
    for row in draws(model, popdb, planned, options.frames, options.record):
        rows.append(row)
        setting = f"{row['sampler']}, {row['steps']} steps, seed {row['seed']}"
        print(f"{setting:<38}  {row['frechet']:.3f}, {row['seconds']:.1f} s", flush=True)
    print(f"\n{text_of(table(rows))}")
    return 0
