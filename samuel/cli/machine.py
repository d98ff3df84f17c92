"""`samuel doctor`, `demo` and `summary`: what this machine can do, and what the network asks."""

import argparse
import subprocess
import sys

from samuel.cli.settings import Commands, add_settings, read_settings
from samuel.cli.terminal import GOES_ON


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


def doctor(options: argparse.Namespace) -> int:
    """Print what this machine has and lacks for these settings; 1 where something they need is lacking."""
    from samuel.doctor import (
        dataset_parts,
        examine,
        require,
        table,
        training_parts,
    )

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
