"""`samuel download`: the songs of a list."""

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

from samuel.cli.settings import Commands, add_settings, read_settings
from samuel.cli.terminal import GOES_ON

if TYPE_CHECKING:
    from samuel.popdb.accounts import Progress
    from samuel.popdb.status import Outcome

SECONDS_BETWEEN_LINES = 60.0


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("download", help="acquire the songs of a list, and account for each")
    add_settings(command)
    command.set_defaults(command=download, interrupted=GOES_ON)


def download(options: argparse.Namespace) -> int:
    """Acquire the songs of the list and write what became of each; the rest is the flow's."""
    from samuel.doctor import require
    from samuel.popdb.accounts import (
        Progress,
        funnel,
        least_s,
        text_of,
    )
    from samuel.popdb.acquire import acquire_songs
    from samuel.popdb.parts import Parts
    from samuel.popdb.songs import list_songs
    from samuel.popdb.space import require_audio_space
    from samuel.popdb.tables import same_recordings, song_rows, write_songs

    settings = read_settings(options.settings)
    require(settings, {settings.songs.source})
    listed = list_songs(settings.songs, settings.data)
    print(text_of(listed.table()), end="\n\n", flush=True)
    require_audio_space(listed.songs, settings)
    progress = Progress(len(listed.songs), least_s(listed.songs, settings.download))
    parts = Parts(settings)
    parts.rate_limiter.open()
    with tqdm(total=progress.songs, desc="download", disable=None) as bar:
        outcomes = acquire_songs(listed.songs, parts, lambda outcome: _tell(progress, outcome, bar))
    path = settings.data / "songs.parquet"
    write_songs(path, song_rows(outcomes, same_recordings(outcomes)))
    print(f"{text_of([step.row() for step in funnel(outcomes)])}\n\neach song and its candidates: {path}")
    return 0


def _tell(progress: "Progress", outcome: "Outcome", bar: "tqdm[NoReturn]") -> None:
    progress.add([outcome])
    bar.update()
    if bar.disable and progress.due(SECONDS_BETWEEN_LINES):  # no terminal: a log
        print(progress.line(), file=sys.stderr, flush=True)
