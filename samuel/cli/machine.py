"""`samuel doctor`, `demo`, `summary` and `bench`: what this machine can do, and what the network asks."""

import argparse
import subprocess
import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

from samuel.cli.settings import Commands, add_settings, read_settings
from samuel.cli.terminal import GOES_ON
from samuel.config import SeparatorConfig, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable


def add_commands(commands: Commands) -> None:
    """Add them to the command line."""
    command = commands.add_parser("doctor", help="what this machine has and lacks")
    add_settings(command)
    command.set_defaults(command=doctor)

    command = commands.add_parser("demo", help="run both flows on this machine")
    add_settings(command)
    command.set_defaults(command=demo, interrupted=GOES_ON)

    command = commands.add_parser("summary", help="what the parts of the network weigh and cost")
    command.add_argument(
        "--frames", type=int, default=1024, help="latent frames of the item; 1024 are 47.55 s"
    )
    add_settings(command)
    command.set_defaults(command=summary)

    command = commands.add_parser("bench", help="what this machine does in a second, and how exactly")
    command.add_argument(
        "what",
        nargs="?",
        default="machine",
        choices=["machine", "pipeline", "exactness", "separation", "loader", "training"],
        help="machine: network and embedded parts; pipeline: separation and encoding at full size; "
        "exactness: these against the libraries' own loops; separation: separators against true stems; "
        "loader: how fast training gets its batches; training: its loop against the bare step",
    )
    add_settings(command)
    command.add_argument("--songs", type=int, help="pipeline, separation: how many songs")
    command.add_argument("--seconds", type=float, help="pipeline: their duration")
    command.set_defaults(command=bench)


def doctor(options: argparse.Namespace) -> int:
    """Print what this machine has and lacks for these settings; 1 where something they need is lacking."""
    from samuel.doctor import dataset_parts, examine, require, table, training_parts

    settings = read_settings(options.settings)
    print(table(examine(settings)))
    require(settings, dataset_parts(settings) | training_parts(settings))
    return 0


def demo(options: argparse.Namespace) -> int:
    """Run both flows; they are beside this library, which knows nothing of them."""
    settings = [str(options.settings)] if options.settings else []
    return subprocess.run([sys.executable, "-m", "flows.demo", *settings], check=False).returncode


def summary(options: argparse.Namespace) -> int:
    """Print parameters, operations of a forward pass of one item, and their share, part by part."""
    from samuel.model.summary import summary as parts_of
    from samuel.model.unet import SamuelUNet
    from samuel.popdb.accounts import text_of

    settings = read_settings(options.settings)
    parts = parts_of(SamuelUNet(settings.model, settings.diffusion), options.frames)
    rows = [
        {
            "part": part.name,
            "parameters": part.parameters,
            "GFLOP": f"{part.flops / 1e9:6.3f}",
            "share": f"{part.flops / parts[-1].flops:6.1%}",
        }
        for part in parts
    ]
    print(text_of(rows))
    return 0


def bench(options: argparse.Namespace) -> int:
    """Print what this machine does, figure by figure, as they are measured."""
    settings, what = read_settings(options.settings), options.what
    if what == "separation":
        return _bench_separation(settings, options.songs)
    for name, figure in _bench_rows(what, settings, options):
        print(f"{name:<38}  {figure}", flush=True)
    return 0


def _bench_rows(what: str, settings: Settings, options: argparse.Namespace) -> "Iterable[tuple[str, str]]":
    if what == "machine":
        from samuel.bench.machine import machine_rows

        return machine_rows(settings)
    if what == "exactness":
        from samuel.bench.exactness import exactness_rows

        return exactness_rows(settings)
    if what == "loader":
        from samuel.bench.loader import loader_rows

        return loader_rows()
    if what == "training":
        from samuel.bench.training import training_rows

        return training_rows(settings)
    from samuel.bench.pipeline import pipeline_rows

    return pipeline_rows(settings, options.songs, options.seconds)


def _bench_separation(settings: Settings, songs: int | None) -> int:
    from samuel.bench.separation import separation_rows
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
