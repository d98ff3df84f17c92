"""`samuel evaluate`: score folders of accompaniments for the same vocals."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from samuel.cli.settings import Commands, add_codec, add_settings, codec_of, read_settings
from samuel.cli.terminal import GOES_ON, plain
from samuel.config import EvaluationConfig, Settings, parse
from samuel.errors import InputError

if TYPE_CHECKING:
    from samuel.codec import Codec
    from samuel.evaluate.systems import Lineup
    from samuel.popdb.shards import Popdb


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("evaluate", help="score folders of accompaniments for the same vocals")
    command.add_argument("--vocals", type=Path, required=True, help="folder of vocals: the tracks")
    command.add_argument(
        "--system", action="append", required=True, metavar="NAME=FOLDER", dest="systems",
        help="accompaniments, each called as its vocal; may be given several times",
    )  # fmt: skip
    command.add_argument("--references", type=Path, help="folder of the true accompaniments")
    command.add_argument("--dataset", help="a dataset in which copies are looked for: a folder or a URL")
    command.add_argument("--audiobox", action="store_true", help="AudioBox-Aesthetics too, as the paper does")
    command.add_argument("--audiobox-path", type=Path, help="its checkpoint.pt; none: the hub")
    command.add_argument("-o", "--output", type=Path, help="where the run goes; artifacts/evaluations")
    add_codec(command)
    add_settings(command)
    command.set_defaults(command=evaluate, interrupted=GOES_ON)


def evaluate(options: argparse.Namespace) -> int:
    """Score, write the report, and print where it is."""
    from samuel.evaluate.ceiling import with_ceiling
    from samuel.evaluate.distribution import FolderSpace
    from samuel.evaluate.scores import score_lineup
    from samuel.evaluate.systems import folders
    from samuel.report.report import write_evaluation_report

    settings = read_settings(options.settings)
    config = _config(options, settings)
    lineup = folders(options.vocals, _systems(options.systems), options.references)
    root = options.output or settings.artifacts / "evaluations"
    popdb = _dataset(options)
    codec = _codec(options, settings, popdb)
    lineup = with_ceiling(lineup, codec, root / "through-codec", _bar("codec", lineup))
    scores = score_lineup(
        lineup, config, root / "scores", FolderSpace(codec, popdb), each=_bar("score", lineup)
    )
    report = write_evaluation_report(lineup, scores, root / "report")
    for name in ("report.html", "report.md", "scores.parquet"):
        print(plain(str(report.path(name))))
    return 0


def _config(options: argparse.Namespace, settings: Settings) -> EvaluationConfig:
    """The scorers of the settings, with what the options add."""
    values: dict[str, Any] = settings.evaluation.model_dump()
    if options.audiobox or options.audiobox_path:
        values["scorers"] = list(dict.fromkeys([*values["scorers"], "audiobox"]))
    if options.audiobox_path:
        values["audiobox_path"] = options.audiobox_path
    return parse({"evaluation": values}).evaluation


def _systems(given: Iterable[str]) -> dict[str, Path]:
    """Folder of each system.

    Raises:
        InputError: One is not NAME=FOLDER, or a name comes twice.
    """
    systems: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (equals and name and folder):
            raise InputError(f"--system {text}: give NAME=FOLDER, such as MusicGen=renders/musicgen")
        if name in systems:
            raise InputError(f"--system {name} is given twice; each needs a name of its own")
        systems[name] = Path(folder)
    return systems


def _dataset(options: argparse.Namespace) -> "Popdb | None":
    from samuel.popdb.shards import open_popdb

    return open_popdb(options.dataset) if options.dataset else None


def _codec(options: argparse.Namespace, settings: Settings, popdb: "Popdb | None") -> "Codec":
    """The dataset's codec, or that of the settings."""
    if options.codec_path is None and settings.codec.name != "mel":
        options.codec_path = settings.codec.path
    return codec_of(popdb.info["codec"] if popdb else settings.codec.name, options, one_song=True)


def _bar(what: str, lineup: "Lineup") -> Any:
    return lambda items: tqdm(items, desc=what, total=len(lineup.tracks), disable=None, unit=" tracks")
