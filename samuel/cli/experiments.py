"""`samuel synthesise` and `ablate`: experiments on songs whose true stems are known, or on any dataset."""

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

from samuel.cli.settings import Commands, add_settings, read_settings
from samuel.cli.terminal import GOES_ON, plain
from samuel.errors import InputError

if TYPE_CHECKING:
    from samuel.ablation import PlannedFit, Result

MOST_SONGS = 100_000


def add_commands(commands: Commands) -> None:
    """Add them to the command line."""
    command = commands.add_parser("synthesise", help="a dataset of synthetic songs, from their true stems")
    add_settings(command)
    command.add_argument("--songs", type=int, required=True, help="how many, of about two minutes each")
    command.set_defaults(command=synthesise, interrupted=GOES_ON)

    command = commands.add_parser("ablate", help="compare choices that the papers leave open, in one table")
    add_settings(command)
    command.set_defaults(command=ablate, interrupted=GOES_ON)


def synthesise(options: argparse.Namespace) -> int:
    """Make a dataset of pairs that no separator has touched."""
    from samuel.doctor import require
    from samuel.popdb.accounts import counted, funnel, text_of
    from samuel.popdb.status import Outcome
    from samuel.popdb.true_stems import write_true_pairs

    if not 1 <= options.songs <= MOST_SONGS:
        raise InputError(f"--songs {options.songs}: give how many, from 1 to {MOST_SONGS}")
    settings = read_settings(options.settings)
    require(settings, set())
    outcomes: list[Outcome] = []
    with tqdm(total=options.songs, desc="synthesise", unit=" songs", disable=None) as bar:

        def tell(outcome: Outcome) -> None:
            outcomes.append(outcome)
            bar.update()

        popdb = write_true_pairs(settings, options.songs, tell)
    if not all(outcome.ok for outcome in outcomes):
        print(text_of([step.row() for step in funnel(outcomes)]), end="\n\n")
    print(f"{plain(popdb.location)}: {counted(popdb.info['counts']['pairs'], 'pair')}")
    return 0


def ablate(options: argparse.Namespace) -> int:
    """Train every variant with every seed, without Prefect, and print the table."""
    from samuel.ablation import planned_fits, run_study, write_table
    from samuel.device import resolve_device
    from samuel.doctor import require
    from samuel.popdb.dataset import open_popdb

    settings = read_settings(options.settings)
    require(settings, set())
    resolve_device(settings.device)
    popdb = open_popdb(settings.popdb_path)
    total = len(planned_fits(settings)) * settings.training.steps
    with tqdm(total=total, desc="ablate", unit=" steps", disable=None) as bar:
        results = run_study(
            popdb,
            settings,
            lambda done: bar.update(done - bar.n),
            lambda planned, result: _tell(planned, result, bar),
        )
    table = write_table(popdb, settings, results)
    print(plain(table.path("ablation.md").read_text("utf-8")))
    print(plain(str(table.folder)))
    return 0


def _tell(planned: "PlannedFit", result: "Result", bar: "tqdm[NoReturn]") -> None:
    loss = result.message if result.best_loss is None else f"validation loss {result.best_loss:.4f}"
    line = plain(f"{planned.name}: {loss}")
    bar.write(line, file=sys.stderr)
