"""How commands get settings, `--settings FILE` and `section.name=value` anywhere, and speak to a terminal."""

import json
import logging
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from samuel.config import Section, Settings, read_settings, without_secrets

STOPPED = "nothing half-written was left, run it again"
GOES_ON = "what is done stays, and the same command goes on from there"
OVERRIDE = re.compile(r"([a-z][a-z_]*)(\.[a-z][a-z_]*)*=", re.ASCII)
UNITS = {"_s": "s", "_frames": "frames", "_db": "dB"}
A_PATH = click.Path(path_type=Path)
A_FOLDER = click.Path(path_type=Path, file_okay=False, writable=True)  # or nothing yet


def plain(text: str) -> str:
    """`text` without secrets in URLs, and control characters, by which a name could steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in without_secrets(text))


class PlainFormatter(logging.Formatter):
    """Messages without control characters: the names in them are anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and the trace of an error with it."""
        return plain(super().format(record))


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does, so that what is temporary is removed."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(section: Section, prefix: str = "") -> Iterator[dict[str, str]]:
    """A row for every setting of a section, and of those below it; its description has choices and bounds."""
    schema = type(section).model_json_schema()["properties"]
    for name in type(section).model_fields:
        value, field = getattr(section, name), schema[name]
        if isinstance(value, Section):
            yield from describe(value, f"{prefix}{name}.")
            continue
        unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")
        choices = f" ({', '.join(field['enum'])})" if "enum" in field else ""
        text = json.dumps(value, default=str, ensure_ascii=False)
        shown = text.strip('"') if isinstance(value, str | Path) else text
        yield {"setting": prefix + name, "value": shown, "unit": unit, "": field["description"] + choices}


def stands_for(settings: Sequence[str], option: str, kind: Any, about: str = "") -> Callable[[Any], Any]:
    """An option of a SettingsCommand that is another name for settings."""

    def override(ctx: click.Context, _option: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.meta["overrides"] += [f"{name}={json.dumps(value)}" for name in settings]

    return click.option(
        option, type=kind, expose_value=False, callback=override, help=about or ", ".join(settings)
    )


class SettingsCommand(click.Command):
    """Its function is given `settings`; `uses` are those in its help; Ctrl-C says `interrupted`."""

    def __init__(self, *args: Any, uses: Sequence[str] = (), interrupted: str = STOPPED, **more: Any) -> None:
        super().__init__(*args, options_metavar="[OPTIONS] [SETTING=VALUE]...", **more)
        self.uses, self.interrupted = uses, interrupted
        about = "JSON file of settings; those named on the command line hold over it"
        self.params.append(click.Option(["--settings"], type=A_PATH, metavar="FILE", help=about))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the settings out of the arguments, and leave the rest, and what an option takes, to click."""
        options = [param for param in self.params if isinstance(param, click.Option) and not param.is_flag]
        takes = {name: option.nargs for option in options for name in option.opts}
        overrides, rest, values_due = list[str](), list[str](), 0
        for text in args:
            named = OVERRIDE.match(text)
            if not values_due and named and named[1] in Settings.model_fields:
                overrides.append(text)
            else:
                rest.append(text)
                values_due = values_due - 1 if values_due else takes.get(text, 0)
        ctx.meta["overrides"] = overrides
        return super().parse_args(ctx, rest)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function with the settings; raises InputError or SettingsError where they are wrong."""
        ctx.meta["settings_file"] = ctx.params["settings"]
        ctx.params["settings"] = read_settings(ctx.params["settings"], ctx.meta["overrides"])
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the settings that the command uses, with defaults and bounds."""
        rows = [
            (f"{row['setting']}={row['value']}", row[""])
            for row in describe(Settings())
            if row["setting"] in self.uses or row["setting"].partition(".")[0] in self.uses
        ]
        if rows:
            with formatter.section("Settings"):
                formatter.write_dl(rows, col_max=34)
