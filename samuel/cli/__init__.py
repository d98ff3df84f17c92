"""The command `samuel`."""

import argparse
import logging
import sys

from samuel import __version__
from samuel.cli import (
    accompaniment,
    app,
    bench,
    dataset,
    exchange,
    experiments,
    inspection,
    machine,
    songs,
    training,
)
from samuel.cli.settings import read_settings
from samuel.cli.terminal import PlainFormatter, plain, print_what_it_can, unread
from samuel.errors import NotBuiltError, SamuelError

__all__ = ["main", "read_settings"]

PARTS = (machine, bench, songs, training, accompaniment, app, dataset, inspection, exchange, experiments)
STOPPED = "nothing half-written was left, run it again"
NOT_BUILT = {"evaluate": "the report of train-and-eval holds the scores of its own tracks"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 with a clear message when the user must act."""
    options = _parser().parse_args(arguments)
    shown = logging.StreamHandler()
    shown.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, handlers=[shown])
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    print_what_it_can()
    try:
        code = options.command(options)
        sys.stdout.flush()  # at exit, it could not be told any more
    except (SamuelError, OSError) as error:
        broken = isinstance(error, BrokenPipeError)  # which may be another pipe
        if not (unread("\n" if broken else "") and broken):
            print(f"error: {plain(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {options.interrupted}", file=sys.stderr)
        return 130
    return code


def not_built(options: argparse.Namespace) -> int:
    """Say that a command of the design is not there yet."""
    raise NotBuiltError(f"samuel {options.name} is not in version {__version__}; {NOT_BUILT[options.name]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="samuel", description="An accompaniment for a vocal.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="store_true", help="show what happens")
    parser.set_defaults(interrupted=STOPPED)
    commands = parser.add_subparsers(required=True, metavar="command")
    for part in PARTS:
        part.add_commands(commands)
    for name in NOT_BUILT:
        command = commands.add_parser(name, help="not in this version")
        command.set_defaults(command=not_built, name=name)
    return parser
