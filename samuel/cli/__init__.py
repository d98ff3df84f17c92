"""The command `samuel`."""

import logging
import sys
from collections.abc import Sequence

import click

from samuel import __version__
from samuel.cli import datasets, evaluation, generation, machine, training
from samuel.cli.options import STOPPED
from samuel.cli.terminal import PlainFormatter, plain, print_what_it_can, unread
from samuel.errors import SamuelError

__all__ = ["commands", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="%(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Show what happens.")
def commands(verbose: bool) -> None:
    """Write an accompaniment for a vocal, and make, train and score what does."""
    shown = logging.StreamHandler()
    shown.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[shown])
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own


for room in (machine, datasets, training, generation, evaluation):
    for member in vars(room).values():
        if isinstance(member, click.Command):
            commands.add_command(member)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when all is well, 1 with a clear message when the user must act, 2 where a command is mistyped, 130
        after Ctrl-C.
    """
    print_what_it_can()
    context: click.Context | None = None
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        with commands.make_context("samuel", given) as context:
            code = commands.invoke(context)
        sys.stdout.flush()  # at exit, it could not be told any more
    except click.UsageError as error:
        error.show()
        return 2
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (SamuelError, OSError) as error:
        broken = isinstance(error, BrokenPipeError)  # which may be another pipe
        if not (unread("\n" if broken else "") and broken):
            print(f"error: {plain(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        running = commands.commands.get((context and context.invoked_subcommand) or "")
        print(f"interrupted; {getattr(running, 'interrupted', STOPPED)}", file=sys.stderr)
        return 130
    return code or 0
