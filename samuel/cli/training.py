"""`samuel train`: the model, without Prefect; `samuel validate`: what it makes of its vocals."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from samuel.cli.settings import Commands, add_settings, read_settings
from samuel.cli.terminal import plain

if TYPE_CHECKING:
    from samuel.artifacts import Artifact


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("train", help="train on POPDB, or go on with it; torchrun for several GPUs")
    add_settings(command)
    command.set_defaults(
        command=train, interrupted="a checkpoint was written; the same command goes on from it"
    )

    command = commands.add_parser("validate", help="a model's error on held-out songs, by noise level")
    command.add_argument("model", type=Path, help="the folder of a model")
    add_settings(command)
    command.set_defaults(command=validate)


def train(options: argparse.Namespace) -> int:
    """Train where the flow train-and-eval would, which then finds the model there."""
    from samuel.doctor import require
    from samuel.popdb.dataset import open_popdb
    from samuel.train import fit, run_folder

    settings = read_settings(options.settings)
    require(settings, set())
    popdb = open_popdb(settings.popdb_path)
    first = os.environ.get("RANK", "0") == "0"
    with tqdm(total=settings.training.steps, desc="train", disable=None if first else True) as bar:
        model = fit(popdb, settings, run_folder(popdb, settings), lambda row: _tell(row, bar))
    if first:
        print(_summary(model))
    return 0


def validate(options: argparse.Namespace) -> int:
    """Print the error of v on all held-out pairs, with their own vocals and with those of other songs."""
    from samuel.checkpoint import load_model
    from samuel.device import resolve_device
    from samuel.popdb.accounts import text_of
    from samuel.popdb.dataset import open_popdb
    from samuel.train.validation import conditioning_gain

    settings = read_settings(options.settings)
    model = load_model(options.model, resolve_device(settings.device))
    gain = conditioning_gain(model.network, open_popdb(settings.popdb_path))
    print(text_of(gain.table()), gain.sentence(), sep="\n\n")
    return 0


def _tell(row: dict[str, Any], bar: "tqdm[NoReturn]") -> None:
    bar.update(row["step"] - bar.n)
    bar.set_postfix(v_mse=f"{row['v_mse']:.3f}", refresh=False)
    if "validation_loss" in row:
        shuffled = row.get("validation_shuffled")
        other = "" if shuffled is None else f", {shuffled:.4f} with another song's vocal"
        bar.write(f"step {row['step']}: validation loss {row['validation_loss']:.4f}{other}")


def _summary(model: "Artifact") -> str:
    progress = model.record["progress"]
    state = "trained" if model.made else "already there"
    best = f"validation loss {progress['best_loss']:.4f} at step {progress['best_step']}"
    return f"{plain(str(model.folder))}: {state}, {best}"
