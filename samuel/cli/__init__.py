"""The command `samuel`."""

import io
import logging
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click

from samuel import __version__
from samuel.cli import datasets, evaluation, models
from samuel.cli.options import GOES_ON, STOPPED, PlainFormatter, SettingsCommand, describe, plain
from samuel.config import Settings
from samuel.errors import SamuelError
from samuel.text import text_of

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


class Commands(click.Group):
    """The group of all commands, which turns what ends one of them into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and exit by what it returns; click itself ends quietly where nobody reads on."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()  # at exit, it could not be told any more
        except BrokenPipeError:
            raise
        except (SamuelError, OSError) as error:
            print(f"error: {plain(str(error))}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            running = self.commands.get(ctx.invoked_subcommand or "")
            print(f"interrupted; {getattr(running, 'interrupted', STOPPED)}", file=sys.stderr)
            code = 130
        ctx.exit(code or 0)


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, message="%(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Show what happens.")
def commands(verbose: bool) -> None:
    """Write an accompaniment for a vocal, and make, train and score what does."""
    shown = logging.StreamHandler()
    shown.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[shown])
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own


@commands.command(cls=SettingsCommand, uses=("data", "songs", "separator", "codec", "evaluation"))
def doctor(settings: Settings) -> None:
    """Say what this machine has and lacks; exit code 1 where something that the settings need is lacking."""
    from samuel.doctor import dataset_parts, examine, require, table, training_parts

    print(table(examine(settings)))
    require(settings, dataset_parts(settings) | training_parts(settings))


@commands.command(cls=SettingsCommand, interrupted=GOES_ON)
@click.pass_context
def demo(context: click.Context, settings: Settings) -> int:  # checked before Prefect is started
    """Run both flows on this machine; all settings count (samuel settings)."""
    # The flows are beside this library, which knows nothing of them.
    file, overrides = context.meta["settings_file"], context.meta["overrides"]
    arguments = [*(["--settings", str(file)] if file else []), *overrides]
    return subprocess.run([sys.executable, "-m", "flows.demo", *arguments], check=False).returncode


@commands.command("settings", cls=SettingsCommand)
@click.argument("section", required=False)
def show_settings(settings: Settings, section: str | None) -> None:
    """Print every setting, or those of a section: its value, what it is, its bounds."""
    rows = [row for row in describe(settings) if section in (None, row["setting"].partition(".")[0])]
    if not rows:
        raise click.UsageError(f"no section {section!r}; there are {', '.join(Settings.model_fields)}")
    print(text_of(rows))


for room in (datasets, models, evaluation):
    for member in vars(room).values():
        if isinstance(member, click.Command):
            commands.add_command(member)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 when all is well, 1 where the user must act, 2 where mistyped, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # `?` for what the encoding lacks
    try:
        commands.main(arguments, "samuel")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0
