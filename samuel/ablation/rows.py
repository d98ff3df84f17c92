"""The rows of an ablation's table: for each value of each factor, what its fits came to."""

from collections.abc import Sequence
from dataclasses import dataclass

from samuel.ablation.statistics import Spread, paired_difference, spread
from samuel.ablation.study import Result
from samuel.ablation.variants import VALUES, Value, value_of
from samuel.config import Factor, Settings


@dataclass(frozen=True)
class Row:
    """A value of a factor, over the seeds.

    Attributes:
        factor: What is varied.
        value: The choice.
        as_set: True where the settings say so.
        results: One per seed, failures included.
        best: Loss of the best validation.
        last: Loss of the last validation.
        vocal_worth: What the vocal of another song adds to the loss of the exported model.
        difference: `best` less that of the settings as they are, paired by seed; None for those themselves.
    """

    factor: Factor
    value: Value
    as_set: bool
    results: tuple[Result, ...]
    best: Spread | None
    last: Spread | None
    vocal_worth: Spread | None
    difference: Spread | None


def table_rows(results: Sequence[Result], settings: Settings) -> list[Row]:
    """A row for each value of every factor, the settings' own among them."""
    rows: list[Row] = []
    for factor in dict.fromkeys(settings.ablation.factors):
        own, values = value_of(settings, factor), VALUES[factor]
        shown = values if own in values else (own, *values)
        rows += [_row(results, factor, value, as_set=value == own) for value in shown]
    return rows


def best_losses(results: Sequence[Result]) -> dict[int, float]:
    """Seed → loss of the best validation, where there is one."""
    return {result.seed: result.best_loss for result in results if result.best_loss is not None}


def _row(results: Sequence[Result], factor: Factor, value: Value, *, as_set: bool) -> Row:
    base = [result for result in results if result.factor is None]
    named = [result for result in results if (result.factor, result.value) == (factor, value)]
    mine = base if as_set else named
    return Row(
        factor,
        value,
        as_set,
        tuple(mine),
        best=spread(best_losses(mine).values()),
        last=spread(result.last_loss for result in mine if result.last_loss is not None),
        vocal_worth=spread(result.vocal_worth for result in mine if result.vocal_worth is not None),
        difference=None if as_set else paired_difference(best_losses(mine), best_losses(base)),
    )
