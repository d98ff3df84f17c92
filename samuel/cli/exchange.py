"""`samuel import-popdb`, `export-sat` and `export-manifest`: datasets from elsewhere, and for others."""

import argparse
from pathlib import Path

from tqdm import tqdm

from samuel.cli.settings import Commands, add_cache
from samuel.cli.terminal import plain
from samuel.errors import InputError

PUBLISHED = ("latent_vocal.npy", "latent_accomp.npy")


def add_commands(commands: Commands) -> None:
    """Add them to the command line."""
    command = commands.add_parser("import-popdb", help="the published POPDB, two .npy files, as a dataset")
    command.add_argument(
        "files",
        type=Path,
        nargs="+",
        help=f"the folder that holds {' and '.join(PUBLISHED)}; or the two files, the vocal first",
    )
    command.add_argument("-o", "--output", required=True, help="the dataset: a folder or a URL")
    command.add_argument("--codec", help="identity of the codec that made the latents, where it is known")
    add_cache(command)
    command.set_defaults(command=import_popdb)

    command = commands.add_parser("export-sat", help="write a dataset as stable-audio-tools reads it")
    _add_export(command)
    command.set_defaults(command=export_sat)

    command = commands.add_parser(
        "export-manifest", help="write a list of a dataset's pairs, without latents"
    )
    _add_export(command)
    command.set_defaults(command=export_manifest)


def import_popdb(options: argparse.Namespace) -> int:
    """Make a dataset of two files of latents."""
    from samuel.popdb.accounts import counted
    from samuel.popdb.exchange import import_published

    vocal, accompaniment = _published(options.files)
    with tqdm(desc="import", unit=" pairs", disable=None) as bar:
        popdb = import_published(
            vocal, accompaniment, options.output,
            cache=options.cache, codec=options.codec, on_pair=bar.update,
        )  # fmt: skip
    print(f"{plain(popdb.location)}: {counted(popdb.info['counts']['pairs'], 'pair')}")
    return 0


def export_sat(options: argparse.Namespace) -> int:
    """Write a dataset for stable-audio-tools."""
    from samuel.popdb.dataset import open_popdb
    from samuel.popdb.exchange import export_stable_audio

    popdb = open_popdb(options.path, options.cache)
    with tqdm(total=popdb.info["counts"]["pairs"], desc="export", unit=" pairs", disable=None) as bar:
        print(plain(str(export_stable_audio(popdb, options.output, on_pair=bar.update))))
    return 0


def export_manifest(options: argparse.Namespace) -> int:
    """Write a manifest of a dataset."""
    from samuel.popdb.dataset import open_popdb
    from samuel.popdb.exchange import export_manifest as export

    print(plain(str(export(open_popdb(options.path, options.cache), options.output))))
    return 0


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", help="the dataset: a folder or a URL")
    command.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    add_cache(command)


def _published(files: list[Path]) -> tuple[Path, Path]:
    """The two files that were named, or those in the folder that was."""
    if len(files) == 1:
        files = [files[0] / name for name in PUBLISHED]
    if len(files) != len(PUBLISHED):
        raise InputError(f"{len(files)} files given; give the folder of {' and '.join(PUBLISHED)}, or both")
    return files[0], files[1]
