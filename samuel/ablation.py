"""The experiments that the papers leave open: one choice varied at a time, several seeds, one table.

Every fit is found again by its settings, wherever it was made.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, get_args

import torch
from matplotlib.figure import Figure
from scipy.stats import t as student

from samuel.artifacts import Artifact, digest, find_artifact, make_artifact, read_jsonl, write_json
from samuel.config import Factor, LossWeight, Mixing, Settings
from samuel.device import resolve_device
from samuel.errors import DatasetError, SettingsError
from samuel.model.unet import SamuelUNet, parameter_count
from samuel.popdb.dataset import Popdb
from samuel.report.html import Markdown, bullets, plain, section, table
from samuel.report.report import caveats
from samuel.train import fit, run_folder

Value: TypeAlias = str | int | float

VERSION = 1
SEEDS = 2**32  # there are no more
MARK, MARK_ERRORS = "†", 2.0  # standard errors that a mean difference has to exceed to be marked
LEAST_SEEDS = 3  # with fewer, a deviation says nothing
VALUES: Mapping[Factor, tuple[str, tuple[Value, ...]]] = {
    "mixing": ("model", get_args(Mixing)),
    "window": ("model", (8, 16, 32, 64)),
    "condition_dropout": ("diffusion", (0.0, 0.05, 0.1, 0.2)),
    "loss_weight": ("diffusion", get_args(LossWeight)),
}
"""By factor: its section of the settings, and what is compared, the papers' open questions among it."""
HEAD = ("choice", "value", "fits", "validation loss, best", "last", "conditioning gain", "best, less as set")
LEGEND = (
    "Mean ± sample standard deviation over the seeds; a loss is better when lower. "
    "The validation loss is the unweighted mean squared error of v, at noise levels and with noise that "
    "are the same for all fits, every vocal given: so choices of loss weight and of condition dropout "
    "compare fairly. "
    "*Best* is the lowest of a fit's validations, which flatters all fits alike; *last* was not chosen. "
    "*Conditioning gain*: how much the best model's loss grows with the vocal of another held-out "
    "song; where there is no other, it is not measured. "
    "*Best, less as set* pairs the fits by seed, so what a seed does to both cancels."
)


@dataclass(frozen=True)
class Variant:
    """Settings that differ in one choice from those an ablation starts from."""

    factor: Factor | None  # what differs; None: nothing does
    value: Value | None
    seed: int  # of weights, batches, noise and dropout

    @property
    def choice(self) -> str:
        """For people: "window = 8"."""
        return "as set" if self.factor is None else f"{self.factor} = {self.value}"


@dataclass(frozen=True)
class PlannedFit(Variant):
    """One training of a variant."""

    settings: Settings

    @property
    def name(self) -> str:
        """For people: "window = 8, seed 0"."""
        return f"{self.choice}, seed {self.seed}"


def planned_fits(settings: Settings) -> list[PlannedFit]:
    """Plan the settings as they are and each other value of every factor, with every seed; seed by seed."""

    def changed(tree: Settings, part: str, name: str, value: Value) -> Settings:
        return tree.model_copy(update={part: getattr(tree, part).model_copy(update={name: value})})

    variants: list[tuple[Factor | None, Value | None, Settings]] = [(None, None, settings)]
    for factor in dict.fromkeys(settings.ablation.factors):
        part, values = VALUES[factor]
        others = [value for value in values if value != getattr(getattr(settings, part), factor)]
        variants.extend((factor, value, changed(settings, part, factor, value)) for value in others)
    seeds = [(settings.training.seed + place) % SEEDS for place in range(settings.ablation.seeds)]
    return [
        PlannedFit(factor, value, seed, changed(variant, "training", "seed", seed))
        for seed in seeds
        for factor, value, variant in variants
    ]


@dataclass(frozen=True)
class Spread:
    """Mean of `count` numbers and their sample standard deviation (n - 1); None for a single number."""

    mean: float
    deviation: float | None
    count: int

    @property
    def marked(self) -> bool:
        """True where the mean is more than two standard errors away from zero, by three numbers or more."""
        if self.deviation is None or self.count < LEAST_SEEDS:
            return False
        return abs(self.mean) > MARK_ERRORS * self.deviation / math.sqrt(self.count)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that there are; None of nothing."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Spread(statistics.fmean(numbers), deviation, len(numbers))


def paired_difference(values: Mapping[int, float], base: Mapping[int, float]) -> Spread | None:
    """Mean and deviation of value less base over the seeds that both have.

    What a seed does to both of them alike cancels, so this is less than the deviations of either suggest.
    """
    return spread(values[seed] - base[seed] for seed in sorted(values.keys() & base.keys()))


def share_marked_by_chance(count: int) -> float:
    """Share of differences over `count` seeds that chance alone would mark (Student's t)."""
    return float(2.0 * student.sf(MARK_ERRORS, count - 1))


@dataclass(frozen=True)
class Result(Variant):
    """Outcome of a fit. The losses are mean squared errors of v on held-out songs."""

    best_step: int | None = None  # of the best validation, whose model was exported; None where it failed
    best_loss: float | None = None
    shuffled_loss: float | None = None  # the same with the vocals of other songs, where it was measured
    last_step: int | None = None
    last_loss: float | None = None
    message: str = ""  # why there is no result
    worked: bool = field(default=True, compare=False)  # something was trained

    @property
    def conditioning_gain(self) -> float | None:
        """Growth of the loss with the vocal of another song; None where it was not measured."""
        if self.shuffled_loss is None or self.best_loss is None:
            return None
        return self.shuffled_loss - self.best_loss


def run_study(
    popdb: Popdb,
    settings: Settings,
    on_step: Callable[[int], object],
    on_result: Callable[[PlannedFit, Result], object],
) -> list[Result]:
    """Train what `settings.ablation` asks for; what was trained before, here or elsewhere, is not again.

    `on_step` is called with the number of steps of all fits so far. What concerns all fits, such as a full
    disk, ends the study; started again, it goes on.
    """
    results: list[Result] = []
    steps = settings.training.steps
    for place, planned in enumerate(planned_fits(settings)):
        before = place * steps
        results.append(run_fit(popdb, planned, lambda row, before=before: on_step(before + row["step"])))
        on_step(before + steps)  # it may have been there, or have ended early
        on_result(planned, results[-1])
    return results


def run_fit(popdb: Popdb, planned: PlannedFit, on_step: Callable[[dict[str, Any]], object]) -> Result:
    """Train one variant with one seed, or find it. One that fails by itself has a result that says why."""
    try:
        model = fit(popdb, planned.settings, run_folder(popdb, planned.settings), on_step)
    except (DatasetError, SettingsError) as error:  # a loss that is not finite, above all
        return Result(planned.factor, planned.value, planned.seed, message=str(error))
    rows = [row for row in read_jsonl(model.path("metrics.jsonl")) if "validation_loss" in row]
    best = {row["step"]: row for row in rows}[model.record["progress"]["best_step"]]
    return Result(
        planned.factor, planned.value, planned.seed,
        best["step"], best["validation_loss"], best.get("validation_shuffled"),
        rows[-1]["step"], rows[-1]["validation_loss"], worked=model.made,
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A value of a factor, over the seeds."""

    factor: Factor
    value: Value
    as_set: bool  # the settings say so
    results: tuple[Result, ...]  # one per seed, failures included
    best: Spread | None
    last: Spread | None
    conditioning_gain: Spread | None
    difference: Spread | None  # `best` less that of the settings as they are; None for those themselves


def table_rows(results: Sequence[Result], settings: Settings) -> list[Row]:
    """Compute a row for each value of every factor, the settings' own among them."""

    def losses(some: Sequence[Result]) -> dict[int, float]:
        return {result.seed: result.best_loss for result in some if result.best_loss is not None}

    base = [result for result in results if result.factor is None]
    rows: list[Row] = []
    for factor in dict.fromkeys(settings.ablation.factors):
        part, values = VALUES[factor]
        own = getattr(getattr(settings, part), factor)
        for value in values if own in values else (own, *values):
            named = [result for result in results if (result.factor, result.value) == (factor, value)]
            mine = base if value == own else named
            row = Row(
                factor, value, value == own, tuple(mine),
                best=spread(result.best_loss for result in mine),
                last=spread(result.last_loss for result in mine),
                conditioning_gain=spread(result.conditioning_gain for result in mine),
                difference=None if value == own else paired_difference(losses(mine), losses(base)),
            )  # fmt: skip
            rows.append(row)
    return rows


def write_table(popdb: Popdb, settings: Settings, results: Sequence[Result]) -> Artifact:
    """Write `ablation.md`, `ablation.json` and `ablation.png`, or find them, in `artifacts/ablations/<key>`.

    Raises:
        DatasetError: Every fit failed; says why the first did.
    """
    if not any(result.best_loss is not None for result in results):
        raise DatasetError(f"no fit came to a result; the first: {results[0].message}")
    rows, shaping = table_rows(results, settings), ("model", "diffusion", "training", "ablation")
    device = resolve_device(settings.device)
    computed_on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    fits = [asdict(result) | {"conditioning_gain": result.conditioning_gain} for result in results]
    for numbers in fits:
        del numbers["worked"]
    content = {
        "dataset": {part: popdb.info[part] for part in ("content_sha256", "source", "separator", "codec")},
        "settings": {part: getattr(settings, part).model_dump(mode="json") for part in shaping},
        "device": computed_on,
        "fits": fits,
    }
    folder = settings.artifacts / "ablations" / digest("ablation", VERSION, content)

    def make(target: Path) -> dict[str, Any]:
        plot_rows(rows, target / "ablation.png")
        spreads = [
            {name: value for name, value in asdict(row).items() if name != "results"}
            | {"marked": row.difference is not None and row.difference.marked}
            for row in rows
        ]
        write_json(target / "ablation.json", content | {"rows": spreads})
        (target / "ablation.md").write_text(_text(rows, results, popdb, settings, computed_on), "utf-8")
        return {"fits": len(results)}

    return find_artifact(folder) or make_artifact(folder, make)


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Draw a column for each factor, a dot for each fit, a line at each mean; the settings' own in colour."""
    groups = [list(group) for _, group in groupby(rows, lambda row: row.factor)]
    results = [result for row in rows for result in row.results]
    shown = {"best_loss": "best validation loss", "conditioning_gain": "conditioning gain"}
    measures = [name for name in shown if any(getattr(result, name) is not None for result in results)]
    widths = [len(group) for group in groups]
    figure = Figure(figsize=(0.75 * sum(widths) + 2, 3.2 * len(measures)), layout="constrained")
    plots = figure.subplots(
        len(measures), len(groups), squeeze=False, sharey="row", sharex="col", width_ratios=widths
    )
    for line, measure in zip(plots, measures, strict=True):
        line[0].set_ylabel(f"{shown[measure]}\n(squared error of v)")
        for axes, group in zip(line, groups, strict=True):
            axes.set_xticks(range(len(group)), [str(row.value) for row in group])
            axes.set_xlim(-0.6, len(group) - 0.4)
            axes.grid(axis="y", color="0.92")
            axes.set_axisbelow(True)
            for place, row in enumerate(group):
                values = [v for result in row.results if (v := getattr(result, measure)) is not None]
                colour = "tab:orange" if row.as_set else "tab:blue"
                axes.plot([place] * len(values), values, "o", color=colour, alpha=0.6, markersize=5)
                if values:
                    mean = statistics.fmean(values)
                    axes.hlines(mean, place - 0.25, place + 0.25, color=colour, linewidth=2)
    for axes, group in zip(plots[-1], groups, strict=True):
        axes.set_xlabel(group[0].factor.replace("_", " "))
    figure.suptitle("each fit, and the mean; orange: the settings as they are", fontsize="medium")
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def _text(
    rows: Sequence[Row], results: Sequence[Result], popdb: Popdb, settings: Settings, device: str
) -> str:
    failed = [
        f"`{result.choice}`, seed {result.seed}: {plain(result.message)}"
        for result in results
        if result.best_loss is None
    ]
    legend, seeds = LEGEND, settings.ablation.seeds
    if seeds < LEAST_SEEDS:
        legend += f" With fewer than {LEAST_SEEDS} seeds, no difference is marked."
    elif len(results) > seeds:
        legend += (
            f" {MARK}: more than two standard errors from zero. By chance alone, that would mark about "
            f"{share_marked_by_chance(seeds):.0%} of the differences, and a mark says nothing of their size."
        )
    counts, training = popdb.info["counts"], settings.training
    held = "held out by song" if popdb.pairs("validation") else "none held out: validated on training songs"
    patience = f", ended after {training.patience} validations without gain" if training.patience else ""
    parameters = parameter_count(SamuelUNet(settings.model, settings.diffusion))
    source, separator = (plain(str(popdb.info[part])) for part in ("source", "separator"))
    made_of = [
        f"dataset: source {source}, separator {separator}, codec {popdb.codec}; {counts['pairs']} pairs of "
        f"{counts['songs_kept']} songs: {counts['train']} to train on, {counts['validation']} {held}",
        f"each fit: {training.steps} steps of {training.batch_size} pairs{patience}",
        f"network: {parameters:,} parameters, channels {settings.model.channels}",
        f"device: {device}",
    ]
    parts = [
        "# Ablations",
        table(HEAD, map(_cells, rows), words=len(HEAD)),
        legend,
        section("Fits without a result:", bullets(failed)) if failed else "",
        "![Ablations](ablation.png)",
        bullets(made_of),
        caveats(popdb),
    ]
    return section(*parts) + "\n"


def _cells(row: Row) -> list[str]:
    def mean(found: Spread | None, form: str = ".4f") -> str:
        if found is None:
            return "not measured"
        deviation = "" if found.deviation is None else f" ± {found.deviation:{form.lstrip('+z')}}"
        return f"{found.mean:{form}}{deviation}"

    count, whole = row.best.count if row.best else 0, len(row.results)
    difference = "–" if row.as_set else mean(row.difference, "+z.5f")
    cells = [
        row.factor.replace("_", " "),
        f"`{row.value}`{' (as set)' if row.as_set else ''}",
        str(count) if count == whole else f"{count} of {whole}",
        mean(row.best),
        mean(row.last),
        mean(row.conditioning_gain, "+z.4f"),
        f"{difference} {MARK}" if row.difference and row.difference.marked else difference,
    ]
    return [*map(Markdown, cells)]
