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

from samuel.artifacts import Artifact, digest, find_artifact, make_artifact, write_json
from samuel.config import SEEDS, Factor, LossWeight, Mixing, Settings
from samuel.device import resolve_device
from samuel.errors import DatasetError, SettingsError
from samuel.model.unet import SamuelUNet, parameter_count
from samuel.popdb.dataset import Popdb
from samuel.reading import read_jsonl
from samuel.report.html import NOT_MEASURED, Markdown, render
from samuel.report.plots import save
from samuel.report.report import caveats
from samuel.train import fit, run_folder

Value: TypeAlias = str | int | float
Spread: TypeAlias = dict[str, Any]  # `mean` and sample standard `deviation` (n - 1) of `count` numbers

VERSION = 1
MARK_ERRORS = 2.0  # standard errors that a mean difference has to exceed to be marked
LEAST_SEEDS = 3  # with fewer, a deviation says nothing
VALUES: Mapping[Factor, tuple[str, tuple[Value, ...]]] = {
    "mixing": ("model", get_args(Mixing)),
    "window": ("model", (8, 16, 32, 64)),
    "condition_dropout": ("diffusion", (0.0, 0.05, 0.1, 0.2)),
    "loss_weight": ("diffusion", get_args(LossWeight)),
}  # by factor: its section of the settings, and what is compared


@dataclass(frozen=True)
class Variant:
    """Settings that differ in one choice from those an ablation starts from."""

    factor: Factor | None  # what differs; None: nothing does
    value: Value | None
    seed: int  # of weights, batches, noise and dropout

    @property
    def name(self) -> str:
        """For people: "window = 8, seed 0"."""
        choice = "as set" if self.factor is None else f"{self.factor} = {self.value}"
        return f"{choice}, seed {self.seed}"


@dataclass(frozen=True)
class PlannedFit(Variant):
    """One training of a variant."""

    settings: Settings


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


def spread(values: Iterable[float | None]) -> Spread | None:
    """Those of the values that there are; None of nothing."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.fmean(numbers), "deviation": deviation, "count": len(numbers)}


def marked(difference: Spread | None) -> bool:
    """True where a mean is more than two standard errors away from zero, by three numbers or more."""
    if difference is None or difference["count"] < LEAST_SEEDS:
        return False
    return abs(difference["mean"]) > MARK_ERRORS * difference["deviation"] / math.sqrt(difference["count"])


def table_rows(results: Sequence[Result], settings: Settings) -> list[tuple[dict[str, Any], list[Result]]]:
    """A row for each value of every factor, the settings' own among them, and its results, one per seed.

    `difference` pairs the best losses with those of the settings as they are by seed: what a seed does to
    both of them alike cancels, so it deviates less than either suggests.
    """
    base = [result for result in results if result.factor is None]
    as_set = {result.seed: result.best_loss for result in base if result.best_loss is not None}
    rows = []
    for factor in dict.fromkeys(settings.ablation.factors):
        part, values = VALUES[factor]
        own = getattr(getattr(settings, part), factor)
        for value in values if own in values else (own, *values):
            named = [result for result in results if (result.factor, result.value) == (factor, value)]
            mine = base if value == own else named
            gains = [
                r.best_loss - as_set[r.seed] for r in named if r.best_loss is not None and r.seed in as_set
            ]
            row = {
                "factor": factor, "value": value, "as_set": value == own,
                "best": spread(result.best_loss for result in mine),
                "last": spread(result.last_loss for result in mine),
                "conditioning_gain": spread(result.conditioning_gain for result in mine),
                "difference": spread(gains), "marked": marked(spread(gains)),
            }  # fmt: skip
            rows.append((row, mine))
    return rows


def write_table(popdb: Popdb, settings: Settings, results: Sequence[Result]) -> Artifact:
    """Write `ablation.md`, `ablation.json` and `ablation.png`, or find them, in `artifacts/ablations/<key>`.

    DatasetError where every fit failed; it says why the first did.
    """
    if not any(result.best_loss is not None for result in results):
        raise DatasetError(f"no fit came to a result; the first: {results[0].message}")
    rows, shaping = table_rows(results, settings), ("model", "diffusion", "training", "ablation")
    device = resolve_device(settings.device)
    fits = [asdict(result) | {"conditioning_gain": result.conditioning_gain} for result in results]
    content = {
        "dataset": {part: popdb.info[part] for part in ("content_sha256", "source", "separator", "codec")},
        "settings": {part: getattr(settings, part).model_dump(mode="json") for part in shaping},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "fits": [{name: value for name, value in numbers.items() if name != "worked"} for numbers in fits],
    }
    folder = settings.artifacts / "ablations" / digest("ablation", VERSION, content)

    def mean(found: Spread | None, form: str = ".4f") -> str:
        if found is None:
            return NOT_MEASURED
        deviation = "" if found["deviation"] is None else f" ± {found['deviation']:{form.lstrip('+z')}}"
        return f"{found['mean']:{form}}{deviation}"

    def make(target: Path) -> dict[str, Any]:
        plot_rows(rows, target / "ablation.png")
        write_json(target / "ablation.json", content | {"rows": [row for row, _ in rows]})
        text = render("ablation.md.j2", {
            "rows": rows, "failed": [result for result in results if result.best_loss is None], "mean": mean,
            "info": popdb.info, "codec": popdb.codec, "settings": settings, "device": content["device"],
            "held_out": popdb.pairs("validation"), "caveats": Markdown(caveats(popdb)),
            "parameters": parameter_count(SamuelUNet(settings.model, settings.diffusion)),
            "least_seeds": LEAST_SEEDS,
        })  # fmt: skip
        (target / "ablation.md").write_text(text, "utf-8")
        return {"fits": len(results)}

    return find_artifact(folder) or make_artifact(folder, make)


def plot_rows(rows: Sequence[tuple[dict[str, Any], list[Result]]], path: Path) -> None:
    """Draw a column for each factor, a dot for each fit, a line at each mean; the settings' own in colour."""
    groups = [list(group) for _, group in groupby(rows, lambda row: row[0]["factor"])]
    shown = {"best": ("best_loss", "best validation loss"), "conditioning_gain": ("conditioning_gain",) * 2}
    measures = [name for name in shown if any(row[name] for row, _ in rows)]
    widths = [len(group) for group in groups]
    figure = Figure(figsize=(0.75 * sum(widths) + 2, 3.2 * len(measures)), layout="constrained")
    plots = figure.subplots(
        len(measures), len(groups), squeeze=False, sharey="row", sharex="col", width_ratios=widths
    )
    for line, name in zip(plots, measures, strict=True):
        of_result, title = shown[name]
        line[0].set_ylabel(f"{title.replace('_', ' ')}\n(squared error of v)")
        for axes, group in zip(line, groups, strict=True):
            axes.set_xticks(range(len(group)), [str(row["value"]) for row, _ in group])
            axes.set(xlim=(-0.6, len(group) - 0.4), xlabel=group[0][0]["factor"].replace("_", " "))
            axes.label_outer()
            axes.grid(axis="y", color="0.92")
            axes.set_axisbelow(True)
            for place, (row, results) in enumerate(group):
                values = [v for result in results if (v := getattr(result, of_result)) is not None]
                colour = "tab:orange" if row["as_set"] else "tab:blue"
                axes.plot([place] * len(values), values, "o", color=colour, alpha=0.6, markersize=5)
                if row[name]:
                    axes.hlines(row[name]["mean"], place - 0.25, place + 0.25, color=colour, linewidth=2)
    figure.suptitle("each fit, and the mean; orange: the settings as they are", fontsize="medium")
    save(figure, path)
