"""`python -m benchmarks WHAT`: speeds and exactness of this machine; `make bench` runs them all."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from samuel.cli.options import SettingsCommand
from samuel.config import SeparatorConfig, Settings
from samuel.errors import SamuelError

Figures = Iterable[tuple[str, str]]


@click.group()
def benchmarks() -> None:
    """Measure speeds and deviations, as ratios within one run."""


def benchmark(name: str, *options: Any) -> Callable[[Callable[..., Figures]], None]:
    """Add a command that prints the figures of a function as they are measured."""

    def add(function: Callable[..., Figures]) -> None:
        def run(settings: Settings, **given: Any) -> None:
            for figure, value in function(settings, **given):
                click.echo(f"{figure:<38}  {value}")

        run.__doc__ = function.__doc__
        for option in reversed(options):
            run = option(run)
        benchmarks.command(name, cls=SettingsCommand)(run)

    return add


songs_option = click.option("--songs", type=int, help="How many.")
seconds_option = click.option("--seconds", type=float, help="How long each.")
model_option = click.option("--model", type=click.Path(path_type=Path), help="Folder of a trained model.")


@benchmark("machine")
def machine(settings: Settings) -> Figures:
    """Measure the network and the embedded parts."""
    from benchmarks.machine import machine_rows

    return machine_rows(settings)


@benchmark("exactness")
def exactness(settings: Settings) -> Figures:
    """Compare separation and encoding at full size with the libraries' own loops."""
    from benchmarks.exactness import exactness_rows

    return exactness_rows(settings)


@benchmark("loader")
def loader(settings: Settings) -> Figures:
    """Measure how fast training gets its batches."""
    from benchmarks.loader import loader_rows

    return loader_rows()


@benchmark("training")
def training(settings: Settings) -> Figures:
    """Compare the training loop with the bare step."""
    from benchmarks.training import training_rows

    return training_rows(settings)


@benchmark("generate", model_option)
def generate(settings: Settings, model: Path | None) -> Figures:
    """Measure the way from a vocal to an accompaniment."""
    from benchmarks.generation import generation_rows

    return generation_rows(settings, model)


@benchmark("scoring", songs_option, seconds_option)
def scoring(settings: Settings, songs: int | None, seconds: float | None) -> Figures:
    """Compare scorers with their own commands."""
    from benchmarks.scoring import scoring_rows

    return scoring_rows(settings, songs, seconds)


@benchmark("pipeline", songs_option, seconds_option)
def pipeline(settings: Settings, songs: int | None, seconds: float | None) -> Figures:
    """Measure separation and encoding at full size."""
    from benchmarks.pipeline import pipeline_rows

    return pipeline_rows(settings, songs, seconds)


@benchmarks.command("separation", cls=SettingsCommand)
@click.option("--songs", type=int, default=12, help="How many synthetic songs.")
def separation(settings: Settings, songs: int) -> None:
    """Compare separators with true stems."""
    from benchmarks.separation import separation_rows
    from samuel.device import resolve_device
    from samuel.popdb.accounts import text_of

    demucs = settings.separator if settings.separator.name == "demucs" else SeparatorConfig(name="demucs")
    rows = separation_rows(
        songs,
        [SeparatorConfig(), demucs],
        resolve_device(settings.device),
        lambda items: tqdm(items, desc="separate", total=songs, disable=None),
    )
    click.echo(text_of([row.row() for row in rows]))


@benchmarks.command("samplers", cls=SettingsCommand)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Folder of a trained model.")
@click.option(
    "--record", type=click.Path(path_type=Path), default=Path("samplers.jsonl"), show_default=True,
    help="What was drawn, which is not drawn again.",
)  # fmt: skip
@click.option("--frames", type=int, default=256, show_default=True, help="Latent frames of an item.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Of every setting.")
@click.option("--reference-seeds", type=click.IntRange(min=1), default=2, help="Of 800-step DDPM.")
def samplers(
    settings: Settings, model: Path, record: Path, frames: int, seeds: int, reference_seeds: int
) -> None:
    """Find how few steps samplers may take; takes hours without a GPU."""
    from benchmarks.samplers import draws, plan, table
    from samuel.checkpoint import load_model
    from samuel.device import resolve_device
    from samuel.popdb.accounts import text_of
    from samuel.popdb.dataset import open_popdb

    trained = load_model(model, resolve_device(settings.device))
    popdb = open_popdb(settings.popdb_path, settings.popdb.cache)
    planned = plan(settings.sampling.guidance_scale, seeds, reference_seeds)
    rows = []
    for row in draws(trained, popdb, planned, frames, record):
        rows.append(row)
        setting = f"{row['sampler']}, {row['steps']} steps, seed {row['seed']}"
        click.echo(f"{setting:<38}  {row['frechet']:.3f}, {row['seconds']:.1f} s")
    click.echo(f"\n{text_of(table(rows))}")


if __name__ == "__main__":
    try:
        benchmarks()
    except SamuelError as error:
        sys.exit(f"error: {error}")
