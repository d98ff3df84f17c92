"""`samuel compare`: finished evaluations side by side."""

import argparse
from pathlib import Path

from samuel.cli.settings import Commands
from samuel.cli.terminal import plain


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser(
        "compare", help="lay evaluations side by side, with what is more than noise"
    )
    command.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="folder of a report or of its scores; the first is what the others are held to",
    )  # fmt: skip
    command.add_argument("-o", "--output", type=Path, help="folder for compare.html, .md and .parquet")
    command.set_defaults(command=compare)


def compare(options: argparse.Namespace) -> int:
    """Print what differs, and write it where that is asked for."""
    from samuel.popdb.accounts import text_of
    from samuel.report.compare import compare as differences
    from samuel.report.compare import legend, notes, read_runs, table_rows, write_comparison

    runs = read_runs(options.runs)
    rows, told = differences(runs), notes(runs)
    print(plain(text_of([_one_line(row) for row in table_rows(rows)])), end="\n\n")
    for line in (*legend(rows), *told):
        print(plain(line.replace("*", "")))
    if options.output:
        print()
        for path in write_comparison(runs, rows, told, options.output):
            print(plain(str(path)))
    return 0


def _one_line(row: dict[str, str]) -> dict[str, str]:
    """Cells without line breaks, which would break the table."""
    return {name: " ".join(cell.split()) for name, cell in row.items()}
