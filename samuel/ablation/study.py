"""Training every variant with every seed; each fit is found again by its settings, wherever it was made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from samuel.ablation.variants import PlannedFit, Value, planned_fits
from samuel.config import Factor, Settings
from samuel.errors import DatasetError, SettingsError
from samuel.files import Entry, read_jsonl
from samuel.popdb.shards import Popdb
from samuel.train import fit, run_folder


@dataclass(frozen=True)
class Result:
    """What became of a fit. The losses are mean squared errors of v on held-out songs.

    Attributes:
        factor: What was varied; None: nothing.
        value: The choice; None where nothing was varied.
        seed: Of the fit.
        best_step: Step of the best validation, whose model was exported; None where the fit failed.
        best_loss: Its validation loss.
        shuffled_loss: The same with the vocals of other songs; None where it was not measured.
        last_step: Step of the last validation.
        last_loss: Its validation loss.
        message: Why there is no result; empty where there is one.
        worked: True when something was trained, False when all was there.
    """

    factor: Factor | None
    value: Value | None
    seed: int
    best_step: int | None = None
    best_loss: float | None = None
    shuffled_loss: float | None = None
    last_step: int | None = None
    last_loss: float | None = None
    message: str = ""
    worked: bool = field(default=True, compare=False)

    @property
    def vocal_worth(self) -> float | None:
        """How much the loss grows with the vocal of another song; None where it was not measured."""
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

    Args:
        popdb: The dataset of all fits.
        settings: What the variants start from.
        on_step: Called with the number of steps of all fits so far.
        on_result: Called after each fit.

    Raises:
        OSError: What concerns all fits ends the study, such as a full disk; started again, it goes on.
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
    variant, settings = planned.variant, planned.settings
    try:
        model = fit(popdb, settings, run_folder(popdb, settings), on_step)
    except (DatasetError, SettingsError) as error:  # a loss that is not finite, above all
        return Result(variant.factor, variant.value, planned.seed, message=str(error))
    return Result(variant.factor, variant.value, planned.seed, **_losses(model), worked=model.made)


def _losses(model: Entry) -> dict[str, Any]:
    rows = [row for row in read_jsonl(model.path("metrics.jsonl")) if "validation_loss" in row]
    best = {row["step"]: row for row in rows}[model.record["progress"]["best_step"]]
    return {
        "best_step": best["step"],
        "best_loss": best["validation_loss"],
        "shuffled_loss": best.get("validation_shuffled"),
        "last_step": rows[-1]["step"],
        "last_loss": rows[-1]["validation_loss"],
    }
