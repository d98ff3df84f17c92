"""The table of an ablation, as Markdown, as JSON and as a picture."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from samuel.ablation.plot import plot_rows
from samuel.ablation.rows import Row, table_rows
from samuel.ablation.statistics import LEAST_SEEDS, Spread, share_marked_by_chance
from samuel.ablation.study import Result
from samuel.ablation.variants import Variant
from samuel.config import Settings
from samuel.device import resolve_device
from samuel.errors import DatasetError
from samuel.files import Entry, digest, find_entry, make_entry, write_json
from samuel.model.unet import SamuelUNet, parameter_count
from samuel.popdb.shards import Popdb
from samuel.report.markdown import plain
from samuel.report.training import caveats

VERSION = 1
MARK = "†"
HEAD = """\
| choice | value | fits | validation loss, best | last | what the vocal is worth | best, less as set |
|---|---|---|---|---|---|---|"""


def write_table(popdb: Popdb, settings: Settings, results: Sequence[Result]) -> Entry:
    """Write `ablation.md`, `ablation.json` and `ablation.png`, or find them, in `artifacts/ablations/<key>`.

    Args:
        popdb: The dataset of all fits.
        settings: What the variants started from.
        results: Of every fit.

    Raises:
        DatasetError: Every fit failed; says why the first did.
    """
    if not any(result.best_loss is not None for result in results):
        raise DatasetError(f"no fit came to a result; the first: {results[0].message}")
    numbers = {
        "dataset": {part: popdb.info[part] for part in ("content_sha256", "source", "separator", "codec")},
        "settings": {part: getattr(settings, part).model_dump(mode="json") for part in SHAPING},
        "device": _device(settings),
        "fits": [_numbers(result) for result in results],
    }
    folder = settings.artifacts / "ablations" / digest("ablation", VERSION, numbers)

    def make(target: Path) -> dict[str, Any]:
        rows = table_rows(results, settings)
        plot_rows(rows, target / "ablation.png")
        write_json(target / "ablation.json", numbers | {"rows": [_row_numbers(row) for row in rows]})
        (target / "ablation.md").write_text(_text(rows, results, popdb, settings), "utf-8")
        return {"fits": len(results)}

    return find_entry(folder) or make_entry(folder, make)


SHAPING = ("model", "diffusion", "training", "ablation")


def _numbers(result: Result) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(result).items() if name != "worked"}
    return kept | {"vocal_worth": result.vocal_worth}


def _row_numbers(row: Row) -> dict[str, Any]:
    marked = row.difference is not None and row.difference.marked
    return {name: value for name, value in asdict(row).items() if name != "results"} | {"marked": marked}


def _text(rows: Sequence[Row], results: Sequence[Result], popdb: Popdb, settings: Settings) -> str:
    sections = [
        "# Ablations",
        "\n".join([HEAD, *map(_line, rows)]),
        _legend(results, settings),
        _failures(results, settings),
        "![Ablations](ablation.png)",
        _made_of(popdb, settings),
        caveats(popdb),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _line(row: Row) -> str:
    value = f"`{row.value}`{' (as set)' if row.as_set else ''}"
    count, whole = row.best.count if row.best else 0, len(row.results)
    fits = str(count) if count == whole else f"{count} of {whole}"
    difference = "–" if row.as_set else _spread(row.difference, "+z.5f")
    difference += f" {MARK}" if row.difference and row.difference.marked else ""
    cells = [_spread(row.best), _spread(row.last), _spread(row.vocal_worth, "+z.4f"), difference]
    return f"| {row.factor.replace('_', ' ')} | {value} | {fits} | {' | '.join(cells)} |"


def _spread(spread: Spread | None, form: str = ".4f") -> str:
    if spread is None:
        return "not measured"
    deviation = "" if spread.deviation is None else f" ± {spread.deviation:{form.lstrip('+z')}}"
    return f"{spread.mean:{form}}{deviation}"


def _legend(results: Sequence[Result], settings: Settings) -> str:
    seeds = settings.ablation.seeds
    sentences = [
        "Mean ± sample standard deviation over the seeds; a loss is better when lower.",
        "The validation loss is the unweighted mean squared error of v, at noise levels and with noise that "
        "are the same for all fits, every vocal given: so choices of loss weight and of condition dropout "
        "compare fairly.",
        "*Best* is the lowest of a fit's validations, which flatters all fits alike; *last* was not chosen.",
        "*What the vocal is worth*: how much the best model's loss grows with the vocal of another held-out "
        "song; where there is no other, it is not measured.",
        "*Best, less as set* pairs the fits by seed, so what a seed does to both cancels.",
    ]
    if seeds < LEAST_SEEDS:
        sentences.append(f"With fewer than {LEAST_SEEDS} seeds, no difference is marked.")
    elif len(results) > seeds:
        chance = share_marked_by_chance(seeds)
        sentences.append(
            f"{MARK}: more than two standard errors from zero. By chance alone, that would mark about "
            f"{chance:.0%} of the differences, and a mark says nothing of their size."
        )
    return " ".join(sentences)


def _failures(results: Sequence[Result], settings: Settings) -> str:
    failed = [result for result in results if result.best_loss is None]
    named = [(Variant(result.factor, result.value, settings).name, result) for result in failed]
    lines = [f"- `{name}`, seed {result.seed}: {plain(result.message)}" for name, result in named]
    return "\n".join(["Fits without a result:", "", *lines]) if lines else ""


def _made_of(popdb: Popdb, settings: Settings) -> str:
    counts, training = popdb.info["counts"], settings.training
    held = "held out by song" if popdb.pairs("validation") else "none held out: validated on training songs"
    patience = f", ended after {training.patience} validations without gain" if training.patience else ""
    parameters = parameter_count(SamuelUNet(settings.model, settings.diffusion))
    source, separator, codec = (plain(str(popdb.info[part])) for part in ("source", "separator", "codec"))
    lines = [
        f"- dataset: source {source}, separator {separator}, codec {codec}; {counts['pairs']} pairs of "
        f"{counts['songs_kept']} songs: {counts['train']} to train on, {counts['validation']} {held}",
        f"- each fit: {training.steps} steps of {training.batch_size} pairs{patience}",
        f"- network: {parameters:,} parameters, channels {settings.model.channels}",
        f"- device: {_device(settings)}",
    ]
    return "\n".join(lines)


def _device(settings: Settings) -> str:
    device = resolve_device(settings.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
