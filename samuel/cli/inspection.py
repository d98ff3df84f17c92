"""`samuel inspect`: what a dataset holds, to read, to see and to hear."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from samuel.cli.settings import (
    Commands,
    add_codec,
    add_dataset,
    codec_of,
)
from samuel.cli.terminal import plain
from samuel.errors import InputError, MissingPartError

if TYPE_CHECKING:
    from samuel.popdb.dataset import Popdb

MOST_PAIRS = 50
PLACE = Path("artifacts/inspect")


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("inspect", help="what a dataset holds, with pairs to see and to hear")
    add_dataset(command)
    command.add_argument(
        "--pairs", type=int, default=6, help=f"how many to draw, with clips of 15 s: 0 to {MOST_PAIRS}"
    )
    command.add_argument("-o", "--output", type=Path, help=f"folder of sheet and clips; none: one in {PLACE}")
    command.add_argument("--no-audio", action="store_true", help="draw the latents, and decode nothing")
    add_codec(command)
    command.set_defaults(command=inspect)


def inspect(options: argparse.Namespace) -> int:
    """Print what a dataset holds, then write a contact sheet of some pairs with clips beside it."""
    from samuel.popdb.accounts import overview
    from samuel.popdb.dataset import open_popdb

    if not 0 <= options.pairs <= MOST_PAIRS:
        raise InputError(f"--pairs {options.pairs}: give how many to draw, from 0 to {MOST_PAIRS}")
    if options.output:
        _require_folder(options.output)
    popdb = open_popdb(options.path, options.cache)
    for part in overview(popdb):
        print(plain(part), end="\n\n", flush=True)
    if options.pairs:
        print(_draw(popdb, options))
    return 0


def _require_folder(path: Path) -> None:
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place} is a file; give a folder")


def _draw(popdb: "Popdb", options: argparse.Namespace) -> Path:
    from samuel.artifacts import digest
    from samuel.report.contact_sheet import choose_strips, write_contact_sheet

    # Not what the dataset says of itself, which would be anybody's path.
    folder = options.output or PLACE / digest(popdb.info["content_sha256"])
    rows = choose_strips(popdb, options.pairs)
    try:
        codec = None if options.no_audio else codec_of(popdb.info["codec"], options)
        with tqdm(total=len(rows), desc="decode", unit=" pairs", disable=None) as bar:
            return write_contact_sheet(popdb, rows, codec, folder, bar.update)
    except MissingPartError as error:
        remedy = "no pair was decoded; `samuel inspect --no-audio` draws the latents without the codec"
        raise MissingPartError(f"{error}\n{remedy}") from error
