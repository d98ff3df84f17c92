"""`python -m benchmarks WHAT`: speeds and exactness of this machine; `make bench` runs them all."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from samuel.cli.options import SettingsCommand
from samuel.config import Settings
from samuel.errors import SamuelError


@click.group()
def benchmarks() -> None:
    """Measure speeds and deviations, as ratios within one run."""


def add(name: str, module: str, what: str, *options: Any) -> None:
    """Add a command that prints the figures of a module's `rows` as they are measured."""

    def run(settings: Settings, **given: Any) -> None:
        for figure, value in import_module(f"benchmarks.{module}").rows(settings, **given):
            click.echo(f"{figure:<38}  {value}")

    for option in reversed(options):
        run = option(run)
    benchmarks.command(name, cls=SettingsCommand, help=what)(run)


folder = click.Path(path_type=Path)
songs = click.option("--songs", type=int, help="How many.")
seconds = click.option("--seconds", type=float, help="How long each.")
model = click.option("--model", type=folder, help="Folder of a trained model.")

add("machine", "network", "Measure the network and the embedded parts.")
add("training", "training", "Compare the training loop with the bare step.")
add("generate", "generation", "Measure the way from a vocal to an accompaniment.", model)
add("exactness", "exactness", "Compare separation and encoding at full size with the libraries' own loops.")
add("scoring", "scoring", "Compare scorers with their own commands.", songs, seconds)
add("pipeline", "pipeline", "Measure separation and encoding at full size.", songs, seconds)
add("loader", "loader", "Measure how fast training gets its batches.")
add("separation", "separation", "Compare separators with true stems.", songs)
add("threads", "threads", "Measure what busy neighbours cost, by how libgomp's threads wait.", seconds)
add(
    "samplers", "samplers", "Find how few steps samplers may take; takes hours without a GPU.",
    click.option("--model", type=folder, required=True, help="Folder of a trained model."),
    click.option("--record", type=folder, default="samplers.jsonl", help="What was drawn, and is not again."),
    click.option("--frames", type=int, default=256, show_default=True, help="Latent frames of an item."),
    click.option("--seeds", type=int, default=3, show_default=True, help="Of every setting."),
    click.option("--reference-seeds", type=int, default=2, help="Of 800-step DDPM.")
)  # fmt: skip


if __name__ == "__main__":
    try:
        benchmarks()
    except SamuelError as error:
        sys.exit(f"error: {error}")
