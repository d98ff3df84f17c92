"""`samuel evaluate` and `compare`: folders of accompaniments scored, and evaluations side by side."""

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from samuel.artifacts import explain_full_disk
from samuel.cli.options import A_FOLDER, A_PATH, GOES_ON, SettingsCommand, ending_cleanly, plain
from samuel.config import Settings
from samuel.errors import InputError
from samuel.reading import read_json
from samuel.text import text_of


@click.command(cls=SettingsCommand, uses=("artifacts", "device", "codec", "evaluation"), interrupted=GOES_ON)
@click.option("--vocals", type=A_PATH, required=True, help="Folder of vocals, any audio: the tracks.")
@click.option(
    "--system", "systems", multiple=True, required=True, metavar="NAME=FOLDER",
    help="Accompaniments, each under its vocal's name, whatever the suffix; may be given several times.",
)  # fmt: skip
@click.option("--references", type=A_PATH, help="Folder of the true ones, under the same names.")
@click.option("--dataset", help="A dataset in which copies are looked for: a folder or a URL.")
@click.option("--audiobox", is_flag=True, help="AudioBox-Aesthetics too, as the paper does.")
@click.option("-o", "--output", type=A_FOLDER, help="Folder; none: evaluations/ among the artifacts.")
def evaluate(
    settings: Settings, vocals: Path, systems: tuple[str, ...], references: Path | None, dataset: str | None,
    audiobox: bool, output: Path | None,
) -> None:  # fmt: skip
    """Score folders of accompaniments for the same vocals, write a report, and print where it is."""
    from samuel.codecs import codec_for_latents, load_codec
    from samuel.device import resolve_device
    from samuel.evaluate.distribution import Space
    from samuel.evaluate.summary import score_lineup
    from samuel.evaluate.systems import folders
    from samuel.evaluate.tracks import with_ceiling
    from samuel.popdb.dataset import open_popdb
    from samuel.report.report import write_evaluation_report

    named: dict[str, Path] = {}
    for text in systems:
        name, _, folder = text.partition("=")
        if not (name and folder):
            raise InputError(f"--system {text}: give NAME=FOLDER, such as MusicGen=renders/musicgen")
        if name in named:
            raise InputError(f"--system {name} is given twice; each needs a name of its own")
        named[name] = Path(folder)
    lineup = folders(vocals, named, references)
    root = output or settings.artifacts / "evaluations"
    root.mkdir(parents=True, exist_ok=True)
    scorers = tuple(dict.fromkeys([*settings.evaluation.scorers, *["audiobox"] * audiobox]))
    config = settings.evaluation.model_copy(update={"scorers": scorers})

    def bar(what: str) -> Any:
        return lambda items: tqdm(items, desc=what, total=len(lineup.tracks), disable=None, unit=" tracks")

    with ending_cleanly(), explain_full_disk(root, "what is scored stays: make room, and run it again"):
        popdb = open_popdb(dataset, settings.popdb.cache) if dataset else None
        device = resolve_device(settings.device)
        if popdb:
            codec = codec_for_latents(popdb.codec, settings.codec, device, one_song=True)
        else:
            codec = load_codec(settings.codec, device)
        lineup = with_ceiling(lineup, codec, root / "through-codec", bar("codec"))
        space = Space(codec.info, codec, popdb)
        scores = score_lineup(lineup, config, root / "scores", space, each=bar("score"))
        report = write_evaluation_report(lineup, scores, root / "report")
    summary = read_json(report.path("summary.json"))
    for scorer in scorers:
        if reason := summary["not_measured"].get(scorer):
            print(plain(f"{scorer}: not measured: {reason}"), file=sys.stderr)
    if count := len(summary["problems"]):
        print(f"{count} problem{'s are' if count > 1 else ' is'} listed in the report", file=sys.stderr)
    if not summary["tracks"]:
        raise InputError(f"no track could be scored: {summary['problems'][0]['message']}")
    for name in ("report.html", "report.md", "scores.parquet"):
        print(plain(str(report.path(name))))


@click.command()
@click.argument("runs", type=A_PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=A_FOLDER, help="Folder for compare.html, .md and .parquet.")
def compare(runs: tuple[Path, ...], output: Path | None) -> None:
    """Lay evaluations side by side, with what is more than noise.

    RUNS are folders of reports or of their scores; the first is what the others are held to.
    """
    from samuel.report.compare import compare as differences
    from samuel.report.compare import legend, notes, read_runs, table_rows, write_comparison

    read = read_runs(runs)
    rows, remarks = differences(read), notes(read)
    # A line break in a cell would break the table.
    cells = [{name: " ".join(cell.split()) for name, cell in row.items()} for row in table_rows(rows)]
    print(plain(text_of(cells)), end="\n\n")
    for line in (*legend(rows), *remarks):
        print(plain(line.replace("*", "")))
    if output:
        print("", *(plain(str(path)) for path in write_comparison(read, rows, remarks, output)), sep="\n")
