"""`samuel app`: the page in the browser."""

import argparse
import time
from pathlib import Path

from samuel.cli.settings import Commands, add_codec, codec_of
from samuel.cli.terminal import ending_cleanly


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("app", help="a page in the browser: a vocal up, an accompaniment down")
    command.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    command.add_argument("--port", type=int, default=7860, help="of 127.0.0.1: no other machine reaches it")
    add_codec(command)
    command.set_defaults(command=app, interrupted="the page is closed, and its temporary files are gone")


def app(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from samuel.app import require_gradio, serving
    from samuel.checkpoint import load_model
    from samuel.config import SeparatorConfig
    from samuel.device import resolve_device
    from samuel.separators import load_separator

    require_gradio()
    device = resolve_device(options.device)
    model = load_model(options.model, device)
    codec = codec_of(model.codec, options, one_song=True)
    separator = load_separator(SeparatorConfig(), device)
    with ending_cleanly(), serving(model, codec, separator, options.port) as address:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(3600)
