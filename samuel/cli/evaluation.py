"""`samuel evaluate`: score folders of accompaniments for the same vocals."""

import argparse
import errno
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from samuel.artifacts import full_disk_told, read_json
from samuel.cli.settings import (
    Commands,
    add_codec,
    add_settings,
    codec_of,
    read_settings,
)
from samuel.cli.terminal import GOES_ON, ending_cleanly, plain
from samuel.config import EvaluationConfig, Settings, parse
from samuel.errors import InputError

if TYPE_CHECKING:
    from samuel.artifacts import Artifact
    from samuel.codecs.base import Codec
    from samuel.evaluate.systems import Lineup
    from samuel.popdb.dataset import Popdb


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    command = commands.add_parser("evaluate", help="score folders of accompaniments for the same vocals")
    command.add_argument("--vocals", type=Path, required=True, help="folder of vocals, any audio: the tracks")
    command.add_argument(
        "--system", action="append", required=True, metavar="NAME=FOLDER", dest="systems",
        help="accompaniments, each under its vocal's name, whatever the suffix; may be given several times",
    )  # fmt: skip
    command.add_argument("--references", type=Path, help="folder of the true ones, under the same names")
    command.add_argument("--dataset", help="a dataset in which copies are looked for: a folder or a URL")
    command.add_argument("--audiobox", action="store_true", help="AudioBox-Aesthetics too, as the paper does")
    command.add_argument("--audiobox-path", type=Path, help="its checkpoint.pt; none: the hub")
    command.add_argument("-o", "--output", type=Path, help="folder; default: artifacts/evaluations")
    add_codec(command)
    add_settings(command)
    command.set_defaults(command=evaluate, interrupted=GOES_ON)


def evaluate(options: argparse.Namespace) -> int:
    """Score, write the report, and print where it is."""
    from samuel.evaluate.systems import folders

    settings = read_settings(options.settings)
    config = _config(options, settings)
    lineup = folders(options.vocals, _systems(options.systems), options.references)
    root = options.output or settings.artifacts / "evaluations"
    _require_place(root)
    popdb = _dataset(options)
    codec = _codec(options, settings, popdb)
    with ending_cleanly(), full_disk_told(root, "what is scored stays: make room, and run it again"):
        report = _run(lineup, config, codec, popdb, root)
    _tell(report, config)
    for name in ("report.html", "report.md", "scores.parquet"):
        print(plain(str(report.path(name))))
    return 0


def _run(
    lineup: "Lineup", config: EvaluationConfig, codec: "Codec", popdb: "Popdb | None", root: Path
) -> "Artifact":
    from samuel.evaluate.distribution import FolderSpace
    from samuel.evaluate.summary import score_lineup
    from samuel.evaluate.tracks import with_ceiling
    from samuel.report.report import write_evaluation_report

    lineup = with_ceiling(lineup, codec, root / "through-codec", _bar("codec", lineup))
    space, each = FolderSpace(codec, popdb), _bar("score", lineup)
    scores = score_lineup(lineup, config, root / "scores", space, each=each)
    return write_evaluation_report(lineup, scores, root / "report")


def _require_place(root: Path) -> None:
    """Refuse a place where nothing can be written, before the work.

    Raises:
        InputError: It is no folder, or not for writing.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{root}: {error.strerror}; give another --output") from error


def _tell(report: "Artifact", config: EvaluationConfig) -> None:
    """What was asked for and not measured, and how much was found wrong, on standard error."""
    summary = read_json(report.path("summary.json"))
    for scorer in config.scorers:
        if reason := summary["not_measured"].get(scorer):
            print(plain(f"{scorer}: not measured: {reason}"), file=sys.stderr)
    if count := len(summary["problems"]):
        problems = "1 problem is" if count == 1 else f"{count} problems are"
        print(f"{problems} listed in the report", file=sys.stderr)


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
    from samuel.popdb.dataset import open_popdb

    return open_popdb(options.dataset) if options.dataset else None


def _codec(options: argparse.Namespace, settings: Settings, popdb: "Popdb | None") -> "Codec":
    """The dataset's codec, or that of the settings; the path of weights means the one that has any."""
    from samuel.codecs import load_codec
    from samuel.device import resolve_device

    if options.device == "auto":
        options.device = settings.device
    if popdb:
        return codec_of(popdb.info["codec"], options, one_song=True)
    values = settings.codec.model_dump()
    if options.codec_path:
        values |= {"name": "stable-audio-open", "path": options.codec_path}
    return load_codec(parse({"codec": values}).codec, resolve_device(options.device))


def _bar(what: str, lineup: "Lineup") -> Any:
    return lambda items: tqdm(items, desc=what, total=len(lineup.tracks), disable=None, unit=" tracks")
