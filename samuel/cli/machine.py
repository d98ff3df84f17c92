"""`samuel doctor`, `demo`, `settings` and `summary`: this machine, the settings and the network."""

import subprocess
import sys

import click

from samuel.cli.options import GOES_ON, SettingsCommand, describe
from samuel.config import Settings


@click.command(cls=SettingsCommand, uses=("data", "songs", "separator", "codec", "evaluation"))
def doctor(settings: Settings) -> None:
    """Say what this machine has and lacks; exit code 1 where something that the settings need is lacking."""
    from samuel.doctor import dataset_parts, examine, require, table, training_parts

    print(table(examine(settings)))
    require(settings, dataset_parts(settings) | training_parts(settings))


@click.command(cls=SettingsCommand, interrupted=GOES_ON)
@click.pass_context
def demo(context: click.Context, settings: Settings) -> int:  # checked before Prefect is started
    """Run both flows on this machine; all settings count (samuel settings)."""
    # The flows are beside this library, which knows nothing of them.
    file, overrides = context.meta["settings_file"], context.meta["overrides"]
    arguments = [*(["--settings", str(file)] if file else []), *overrides]
    return subprocess.run([sys.executable, "-m", "flows.demo", *arguments], check=False).returncode


@click.command("settings", cls=SettingsCommand)
@click.argument("section", required=False)
def show_settings(settings: Settings, section: str | None) -> None:
    """Print every setting, or those of a section: its value, what it is, its bounds."""
    from samuel.popdb.accounts import text_of

    rows = [
        {"setting": row.name, "value": row.value, "unit": row.unit, "": row.description}
        for row in describe(settings)
        if section in (None, row.name.partition(".")[0])
    ]
    if not rows:
        known = ", ".join(sorted(Settings.model_fields))
        raise click.UsageError(f"no section {section!r}; there are {known}")
    print(text_of(rows))


@click.command(cls=SettingsCommand, uses=("model", "diffusion"))
@click.option("--frames", type=click.IntRange(min=8), default=1024, help="Latent frames of the item.")
def summary(settings: Settings, frames: int) -> None:
    """Print parameters and operations of the network, part by part, for one item."""
    from samuel.model.summary import summary as parts_of
    from samuel.model.unet import SamuelUNet
    from samuel.popdb.accounts import text_of

    parts = parts_of(SamuelUNet(settings.model, settings.diffusion), frames)
    rows = [
        {"part": part.name, "parameters": part.parameters, "GFLOP": f"{part.flops / 1e9:6.3f}",
         "share": f"{part.flops / parts[-1].flops:6.1%}"}
        for part in parts
    ]  # fmt: skip
    print(text_of(rows))
