"""The command `samuel`."""

import argparse
import logging
import sys

from samuel import __version__
from samuel.cli import (
    accompaniment,
    app,
    bench,
    comparison,
    dataset,
    evaluation,
    exchange,
    experiments,
    inspection,
    machine,
    render,
    songs,
    training,
)
from samuel.cli.settings import read_settings
from samuel.cli.terminal import (
    PlainFormatter,
    plain,
    print_what_it_can,
    unread,
)
from samuel.errors import SamuelError

__all__ = ["main", "read_settings"]

PARTS = (
    machine,
    bench,
    songs,
    training,
    accompaniment,
    app,
    render,
    evaluation,
    comparison,
    dataset,
    inspection,
    exchange,
    experiments,
)
STOPPED = "nothing half-written was left, run it again"


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="samuel", description="An accompaniment for a vocal.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="store_true", help="show what happens")
    parser.set_defaults(interrupted=STOPPED)
    commands = parser.add_subparsers(required=True, metavar="command")
    for part in PARTS:
        part.add_commands(commands)
    return parser
