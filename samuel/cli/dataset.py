"""`samuel verify` and `compact`: a dataset that is there."""

import argparse
from pathlib import Path

from samuel.cli.settings import Commands, add_dataset
from samuel.cli.terminal import plain


def add_commands(commands: Commands) -> None:
    """Add them to the command line."""
    command = commands.add_parser("verify", help="check a dataset")
    add_dataset(command)
    command.add_argument("--repair", action="store_true", help="take out what is damaged, and keep the rest")
    command.set_defaults(command=verify)

    command = commands.add_parser("compact", help="rewrite a dataset that has grown, without what has left")
    add_dataset(command)
    command.set_defaults(command=compact)


def verify(options: argparse.Namespace) -> int:
    """Check a dataset; 1 when it has faults that stay."""
    from samuel.popdb.verify import verify as faults_of

    if options.repair and not _repair(options.path, options.cache):
        return 1
    faults = faults_of(options.path, options.cache)
    print(plain("\n".join(faults)) if faults else f"{plain(options.path)}: sound")
    return 1 if faults else 0


def _repair(location: str, cache: Path | None) -> bool:
    """Repair a dataset and say what became of it; False where nothing could be done."""
    from samuel.popdb.accounts import counted
    from samuel.popdb.writer import repair

    repaired = repair(location, cache)
    for fault in repaired.faults:
        print(plain(fault))
    if repaired.popdb is None:
        print("\nnothing was repaired, and nothing was changed")
        return False
    if repaired.dropped:
        print(f"\ndropped {counted(len(repaired.dropped), 'pair')}: {plain(', '.join(repaired.dropped))}")
    if repaired.songs:
        print("\nrun build-popdb again for these songs:")
    for song_id, title in repaired.songs:
        print(f"  {plain(song_id)}  {plain(_line(title))}")
    if repaired.faults:
        print()
    return True


def _line(title: str) -> str:
    return " ".join(title.split())


def compact(options: argparse.Namespace) -> int:
    """Rewrite a dataset with full shards, and say what that changed."""
    from samuel.popdb.accounts import counted
    from samuel.popdb.dataset import open_popdb
    from samuel.popdb.writer import compact as rewrite

    before = open_popdb(options.path, options.cache).info["counts"]
    popdb = rewrite(options.path, options.cache)
    if not popdb.made:
        print(f"{plain(options.path)}: already compact, nothing was rewritten")
        return 0
    after = popdb.info["counts"]
    print(
        f"{plain(options.path)}: {counted(after['pairs'], 'pair')} in {counted(after['shards'], 'shard')}; "
        f"before: {counted(before['shards'], 'shard')}, {counted(before['buried'], 'row')} of no pair"
    )
    return 0
