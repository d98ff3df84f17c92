"""`samuel inspect`: what a dataset holds, to read, to see and to hear."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from samuel.cli.settings import Commands, add_codec, add_dataset, codec_config
from samuel.cli.terminal import plain
from samuel.errors import InputError, MissingPartError, SettingsError

if TYPE_CHECKING:
    from samuel.codec import Codec
    from samuel.popdb.shards import Popdb


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("inspect", help="what a dataset holds, with pairs to see and to hear")
    add_dataset(command)
    command.add_argument("--pairs", type=int, default=6, help="how many to draw, with clips of 15 s; 0: none")
    command.add_argument(
        "-o", "--output", type=Path, help="folder of sheet and clips; none: one in artifacts/inspect"
    )
    command.add_argument("--no-audio", action="store_true", help="draw the latents, and decode nothing")
    add_codec(command)
    command.set_defaults(command=inspect)


def inspect(options: argparse.Namespace) -> int:
    """Print what a dataset holds, then write a contact sheet of some pairs with clips beside it."""
    from samuel.popdb.overview import overview
    from samuel.popdb.shards import open_popdb

    if options.pairs < 0:
        raise InputError(f"--pairs {options.pairs}: give how many pairs to draw, 0 for none")
    popdb = open_popdb(options.path, options.cache)
    for part in overview(popdb):
        print(plain(part), end="\n\n", flush=True)
    if options.pairs:
        print(_draw(popdb, options))
    return 0


def _draw(popdb: "Popdb", options: argparse.Namespace) -> Path:
    from samuel.evaluate.contact_sheet import choose_strips, write_contact_sheet

    folder = options.output or Path("artifacts/inspect") / popdb.info["content_sha256"][:12]
    rows = choose_strips(popdb, options.pairs)
    try:
        codec = None if options.no_audio else _codec(popdb.info["codec"], options)
        with tqdm(total=len(rows), desc="decode", unit=" pairs", disable=None) as bar:
            return write_contact_sheet(popdb, rows, codec, folder, bar.update)
    except (MissingPartError, SettingsError) as error:
        remedy = "no pair was decoded; `samuel inspect --no-audio` draws the latents without the codec"
        raise MissingPartError(f"{error}\n{remedy}") from error


def _codec(identity: str, options: argparse.Namespace) -> "Codec":
    from samuel.codec import load_codec
    from samuel.device import resolve_device

    return load_codec(codec_config(identity, options.codec_path), resolve_device(options.device))
