"""Commands of the dataset: its songs, what it holds, whether it is whole, copies from and for elsewhere."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from samuel.cli.options import A_FOLDER, A_PATH, GOES_ON, SettingsCommand, plain
from samuel.config import Settings
from samuel.doctor import require
from samuel.errors import InputError, MissingPartError
from samuel.text import counted, text_of

if TYPE_CHECKING:
    from samuel.popdb.dataset import Popdb

PUBLISHED = ("latent_vocal.npy", "latent_accomp.npy")
DRAWN = Path("artifacts/inspect")
SECONDS_BETWEEN_LINES = 60.0
OF_DATASET = ("data", "popdb.path", "popdb.cache")

a_dataset = click.argument("dataset", required=False)  # a folder or a URL; none: that of the settings
a_folder = click.option("-o", "--output", type=A_FOLDER, required=True, help="A folder.")


def _open(settings: Settings, dataset: str | None) -> "Popdb":
    from samuel.popdb.dataset import open_popdb

    return open_popdb(dataset or settings.popdb_path, settings.popdb.cache)


def _print_made(popdb: "Popdb") -> None:
    print(f"{plain(popdb.location)}: {counted(popdb.info['counts']['pairs'], 'pair')}")


@click.command(cls=SettingsCommand, uses=("data", "songs", "download"), interrupted=GOES_ON)
def download(settings: Settings) -> None:
    """Acquire the songs of the list, and account for each; the rest is the flow's."""
    from samuel.popdb.accounts import funnel, require_space
    from samuel.popdb.acquire import acquire_songs
    from samuel.popdb.parts import Parts
    from samuel.popdb.songs import list_songs
    from samuel.popdb.tables import same_recordings, song_rows, write_songs

    require(settings, {settings.songs.source})
    listed = list_songs(settings.songs, settings.data)
    print(text_of(listed.rules), end="\n\n", flush=True)
    require_space(listed.songs, settings, group=None)
    parts = Parts(settings)
    parts.rate_limiter.start_run()
    every_s = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES  # no terminal: a log
    with tqdm(total=len(listed.songs), desc="download", unit=" songs", mininterval=every_s) as bar:
        outcomes = acquire_songs(listed.songs, parts, lambda _: bar.update())
    path = settings.data / "songs.parquet"
    write_songs(path, song_rows(outcomes, same_recordings(outcomes)))
    print(f"{text_of(funnel(outcomes))}\n\neach song and its candidates: {path}")


@click.command(cls=SettingsCommand, uses=("data", "songs.seed", "codec", "popdb"), interrupted=GOES_ON)
@click.option("--songs", type=click.IntRange(1, 100_000), required=True, help="How many, of two minutes.")
def synthesise(settings: Settings, songs: int) -> None:
    """Make a dataset of synthetic songs from their true stems, which no separator has touched."""
    from samuel.popdb.accounts import funnel
    from samuel.popdb.parts import Parts
    from samuel.popdb.stages import encode_true_stems
    from samuel.popdb.writer import require_place, write_popdb

    require(settings, set())
    require_place(settings)
    with tqdm(total=songs, desc="synthesise", unit=" songs", disable=None) as bar:
        outcomes = encode_true_stems(Parts(settings), songs, lambda _: bar.update())
    popdb = write_popdb(outcomes, settings)
    if not all(outcome.ok for outcome in outcomes):
        print(text_of(funnel(outcomes)), end="\n\n")
    _print_made(popdb)


@click.command(cls=SettingsCommand, uses=OF_DATASET)
@a_dataset
def verify(settings: Settings, dataset: str | None) -> int:
    """Check every byte of a dataset; exit code 1 when it has faults."""
    from samuel.popdb.verify import verify as faults_of

    location = dataset or str(settings.popdb_path)
    faults = faults_of(location, settings.popdb.cache)
    print(plain("\n".join(faults)) if faults else f"{plain(location)}: sound")
    return 1 if faults else 0


@click.command(cls=SettingsCommand, uses=(*OF_DATASET, "device", "codec.path"))
@a_dataset
@click.option("--pairs", type=click.IntRange(0, 50), default=6, help="How many to draw, with clips of 15 s.")
@click.option("-o", "--output", type=A_FOLDER, help=f"Folder of sheet and clips; none: one in {DRAWN}.")
@click.option("--no-audio", is_flag=True, help="Draw the latents, and decode nothing.")
def inspect(settings: Settings, dataset: str | None, pairs: int, output: Path | None, no_audio: bool) -> None:
    """Print what a dataset holds, and write a contact sheet of some pairs with clips beside it."""
    from samuel.popdb.accounts import overview

    popdb = _open(settings, dataset)
    print(plain(overview(popdb)), end="\n\n", flush=True)
    if not pairs:
        return

    from samuel.artifacts import digest
    from samuel.codecs import codec_for_latents
    from samuel.device import resolve_device
    from samuel.report.contact_sheet import choose_strips, write_contact_sheet

    rows = choose_strips(popdb, pairs)
    # The digest, and not what the dataset says of itself, which would be anybody's path.
    folder = output or DRAWN / digest(popdb.info["content_sha256"])
    try:
        device = resolve_device(settings.device)
        codec = None if no_audio else codec_for_latents(popdb.codec, settings.codec, device)
        with tqdm(total=len(rows), desc="decode", unit=" pairs", disable=None) as bar:
            print(write_contact_sheet(popdb, rows, codec, folder, bar.update))
    except MissingPartError as error:
        raise MissingPartError(f"{error}\nno pair was decoded; --no-audio draws without the codec") from error


@click.command("import-popdb", cls=SettingsCommand, uses=("popdb.cache",))
@click.argument("files", type=A_PATH, nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="The dataset: a folder or a URL.")
def import_popdb(settings: Settings, files: tuple[Path, ...], output: str) -> None:
    """Make a dataset of the published POPDB: the folder of its two .npy files, or both, the vocal first."""
    from samuel.popdb.exchange import import_published

    found = [files[0] / name for name in PUBLISHED] if len(files) == 1 else list(files)
    if len(found) != len(PUBLISHED):
        raise InputError(f"{len(found)} files given; give the folder of {' and '.join(PUBLISHED)}, or both")
    with tqdm(desc="import", unit=" pairs", disable=None) as bar:
        cache = settings.popdb.cache
        popdb = import_published(found[0], found[1], output, cache=cache, on_pair=bar.update)
    _print_made(popdb)


@click.command("export-sat", cls=SettingsCommand, uses=OF_DATASET)
@a_dataset
@a_folder
def export_sat(settings: Settings, dataset: str | None, output: Path) -> None:
    """Write a dataset as stable-audio-tools reads it: pre-encoded, with its vocals."""
    from samuel.popdb.exchange import export_stable_audio

    popdb = _open(settings, dataset)
    with tqdm(total=popdb.info["counts"]["pairs"], desc="export", unit=" pairs", disable=None) as bar:
        print(plain(str(export_stable_audio(popdb, output, on_pair=bar.update))))


@click.command("export-manifest", cls=SettingsCommand, uses=OF_DATASET)
@a_dataset
@a_folder
def export_manifest(settings: Settings, dataset: str | None, output: Path) -> None:
    """Write a list of a dataset's pairs, with ids, digests and settings, without latents or titles."""
    from samuel.popdb.exchange import export_manifest as export

    print(plain(str(export(_open(settings, dataset), output))))
