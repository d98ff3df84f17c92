"""`samuel train`, `validate`, `ablate` and `summary`: models without Prefect, and what they make of them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from samuel.cli.options import A_PATH, GOES_ON, SettingsCommand, plain
from samuel.config import Settings

if TYPE_CHECKING:
    from samuel.ablation import PlannedFit, Result

OF_TRAINING = ("data", "artifacts", "device", "popdb.path", "model", "diffusion", "training")
CHECKPOINT = "a checkpoint was written; the same command goes on from it"


@click.command(cls=SettingsCommand, uses=OF_TRAINING, interrupted=CHECKPOINT)
def train(settings: Settings) -> None:
    """Train on POPDB, or go on with it; by torchrun on several GPUs.

    The model lies where the flow train-and-eval looks for it.
    """
    from samuel.doctor import require
    from samuel.popdb.dataset import open_popdb
    from samuel.train import fit, run_folder

    require(settings, set())
    popdb = open_popdb(settings.popdb_path)
    first = os.environ.get("RANK", "0") == "0"
    with tqdm(total=settings.training.steps, desc="train", disable=None if first else True) as bar:

        def show(row: dict[str, Any]) -> None:
            bar.update(row["step"] - bar.n)
            bar.set_postfix(v_mse=f"{row['v_mse']:.3f}", refresh=False)
            if "validation_loss" in row:
                shuffled = row.get("validation_shuffled")
                other = "" if shuffled is None else f", {shuffled:.4f} with another song's vocal"
                bar.write(f"step {row['step']}: validation loss {row['validation_loss']:.4f}{other}")

        model = fit(popdb, settings, run_folder(popdb, settings), show)
    if first:
        progress, state = model.record["progress"], "trained" if model.made else "already there"
        best = f"validation loss {progress['best_loss']:.4f} at step {progress['best_step']}"
        print(f"{plain(str(model.folder))}: {state}, {best}")


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
    from samuel.ablation import planned_fits, run_study, write_table
    from samuel.device import resolve_device
    from samuel.doctor import require
    from samuel.popdb.dataset import open_popdb

    require(settings, set())
    resolve_device(settings.device)
    popdb = open_popdb(settings.popdb_path)
    total = len(planned_fits(settings)) * settings.training.steps
    with tqdm(total=total, desc="ablate", unit=" steps", disable=None) as bar:

        def show(planned: "PlannedFit", result: "Result") -> None:
            loss = result.message if result.best_loss is None else f"validation loss {result.best_loss:.4f}"
            bar.write(plain(f"{planned.name}: {loss}"), file=sys.stderr)

        results = run_study(popdb, settings, lambda done: bar.update(done - bar.n), show)
    table = write_table(popdb, settings, results)
    print(plain(table.path("ablation.md").read_text("utf-8")), plain(str(table.folder)), sep="\n")


@click.command(cls=SettingsCommand, uses=("model", "diffusion"))
@click.option("--frames", type=click.IntRange(min=8), default=1024, help="Latent frames of the item.")
def summary(settings: Settings, frames: int) -> None:
    """Print parameters and operations of the network, part by part, for one item."""
    from samuel.model.unet import SamuelUNet
    from samuel.model.unet import summary as parts_of
    from samuel.popdb.accounts import text_of

    parts = parts_of(SamuelUNet(settings.model, settings.diffusion), frames)
    rows = [
        {"part": part.name, "parameters": part.parameters, "GFLOP": f"{part.flops / 1e9:6.3f}",
         "share": f"{part.flops / parts[-1].flops:6.1%}"}
        for part in parts
    ]  # fmt: skip
    print(text_of(rows))
