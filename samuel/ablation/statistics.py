"""Means over seeds, and differences from the settings as they are."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy.stats import t as student

MARK_ERRORS = 2.0  # standard errors that a mean difference has to exceed to be marked
LEAST_SEEDS = 3  # with fewer, a deviation says nothing


@dataclass(frozen=True)
class Spread:
    """Some numbers as one.

    Attributes:
        mean: Their mean.
        deviation: Sample standard deviation (n - 1); None for a single number.
        count: n.
    """

    mean: float
    deviation: float | None
    count: int

    @property
    def marked(self) -> bool:
        """True where the mean is more than two standard errors away from zero, by three numbers or more."""
        if self.deviation is None or self.count < LEAST_SEEDS:
            return False
        return abs(self.mean) > MARK_ERRORS * self.deviation / math.sqrt(self.count)


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and sample standard deviation; None of nothing."""
    numbers = list(values)
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
    """How often `count` differences would be marked if nothing but chance were in them (Student's t)."""
    return float(2.0 * student.sf(MARK_ERRORS, count - 1))
