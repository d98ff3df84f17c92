"""How commands get settings: `--settings FILE`, and `section.name=value` anywhere among the arguments."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from samuel.config import Settings, describe, parse, read_settings
from samuel.errors import MissingPartError, SettingsError

if TYPE_CHECKING:
    from samuel.codecs import Codec, CodecInfo

STOPPED = "nothing half-written was left, run it again"
GOES_ON = "what is done stays, and the same command goes on from there"
OVERRIDE = re.compile(r"([a-z][a-z_]*)(\.[a-z][a-z_]*)*=", re.ASCII)


class SettingsCommand(click.Command):
    """A command whose function is given `settings`; its help lists those that it uses.

    Args:
        uses: Sections, and single settings by their names.
        interrupted: Said when Ctrl-C ends it.
    """

    def __init__(
        self, *args: Any, uses: Sequence[str] = (), interrupted: str = STOPPED, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.uses, self.interrupted = uses, interrupted
        about = "JSON file of settings; those named on the command line hold over it"
        self.params.append(
            click.Option(["--settings"], type=click.Path(path_type=Path), metavar="FILE", help=about)
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the settings out of the arguments, and leave the rest to click."""
        ctx.meta["overrides"], rest = self._take_overrides(args)
        return super().parse_args(ctx, rest)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function with the settings.

        Raises:
            InputError: The file of settings is not there.
            SettingsError: A setting is wrong.
        """
        ctx.meta["settings_file"] = ctx.params["settings"]
        ctx.params["settings"] = read_settings(ctx.params["settings"], ctx.meta["overrides"])
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Usage, with the settings at its end."""
        return [*super().collect_usage_pieces(ctx), "[SETTING=VALUE]..."]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the settings that the command uses, with defaults and bounds."""
        rows = [
            (f"{row.name}={row.value}", row.description)
            for row in describe(Settings())
            if row.name in self.uses or row.name.partition(".")[0] in self.uses
        ]
        if rows:
            with formatter.section("Settings"):
                formatter.write_dl(rows, col_max=34)

    def _take_overrides(self, args: Sequence[str]) -> tuple[list[str], list[str]]:
        """The settings among the arguments, and the others; what an option takes is its value."""
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
        return overrides, rest


dataset_argument = click.argument("dataset", required=False)
"""A folder or a URL; none: the dataset of the settings."""


def codec_for_latents(info: "CodecInfo", settings: Settings, *, one_song: bool = False) -> "Codec":
    """The codec that made latents, its weights from where the settings say.

    Args:
        info: What a dataset or a model says of its codec.
        settings: `device`, and `codec.path`.
        one_song: Not a dataset: in little memory, and decoded in bf16 by a GPU that has it.

    Raises:
        MissingPartError: This version has none of that name, or its weights are not at hand.
    """
    from samuel.codecs import load_codec
    from samuel.device import resolve_device, uses_bf16

    device = resolve_device(settings.device)
    words = info.version.split()
    values = {
        "name": info.name,
        "path": settings.codec.path,
        "batch": 1 if one_song else None,
        "posterior": "sample" if "sample" in words else "mean",
        "precision": "bf16" if "bf16" in words else "fp32",
    }
    try:
        config = parse({"codec": values}).codec
    except SettingsError as error:
        raise MissingPartError(f"the latents are of {info}, a codec this version lacks") from error
    return load_codec(config, device, decoding="bf16" if one_song and uses_bf16(device, "auto") else None)
