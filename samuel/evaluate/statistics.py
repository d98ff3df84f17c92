"""What may be said of a mean over few tracks: intervals and permutation tests, the same for the same numbers.

A score that looks at the vocal means something only beside the same score with the vocals of other songs: a
`Pairing` holds both. Shapes: N tracks of a block; a matrix holds accompaniment × vocal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import factorial, log, sqrt
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 9_999
SEED = 0
CONFIDENCE = 0.95
SIGNIFICANT = 0.05  # below it, p says that something is more than noise
LEAST_RESAMPLED = 6
BATCH = 1000  # resamples in memory at a time

Matrix = NDArray[np.float64]
Interval = dict[str, Any]  # `mean` of `n` values, and `low` to `high`, where it lies with 95 % confidence


def mean_interval(values: ArrayLike) -> Interval:
    """Mean, and its bootstrap interval; NaN are left out.

    Plain percentiles cover too little with few values: it is the expanded percentile interval (Hesterberg,
    "What Teachers Should Know About the Bootstrap", 2015, §4.2), below six values Student's.
    """
    from scipy import stats

    found = np.asarray(values, dtype=np.float64).ravel()
    found = found[np.isfinite(found)]
    n = len(found)
    mean = float(found.mean()) if n else None
    interval: Interval = {"n": n, "mean": mean, "low": None, "high": None}
    if mean is None or n < 2:
        return interval
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    if n < LEAST_RESAMPLED:
        reach = t * float(found.std(ddof=1)) / sqrt(n)
        return interval | ({"low": mean - reach, "high": mean + reach} if reach else {})
    inside = float(1 - 2 * stats.norm.cdf(-t * sqrt(n / (n - 1))))
    resampled = stats.bootstrap(
        (found,), np.mean, confidence_level=inside, method="percentile", n_resamples=RESAMPLES, batch=BATCH,
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    low, high = resampled.confidence_interval
    return interval | {"low": float(low), "high": float(high)}


def permutation_p(differences: ArrayLike) -> float | None:
    """Two-sided p of a mean difference within pairs, finite ones, by their signs; None below two pairs."""
    from scipy import stats

    found = np.asarray(differences, dtype=np.float64)
    if len(found) < 2:
        return None
    result = stats.permutation_test(
        (found,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, batch=BATCH,
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(result.pvalue)


@dataclass(frozen=True)
class Pairing:
    """One score of one system: every accompaniment against its own vocal and those of other songs."""

    own: dict[str, float]  # of each track with its own vocal, over all that both have
    tracks: list[list[str]]  # those that are compared with each other's vocals, block by block
    blocks: list[Matrix]  # of each block, own pairs on the diagonal, all over one length; NaN without a vocal

    def others(self) -> dict[str, float]:
        """Mean score of each track with the vocals of the others; NaN where there are none."""
        columns = [others(block) for block in self.blocks]
        return dict(zip(chain(*self.tracks), map(float, chain(*columns)), strict=True))

    def summary(self) -> dict[str, Any]:
        """Means over the tracks that have all scores, their difference, and how often chance does as well."""
        # A vocal without anything to follow is followed by nothing: NaN on the diagonal tells of its column.
        measured = [(block, np.flatnonzero(np.isfinite(np.diag(block)))) for block in self.blocks]
        kept = [block[np.ix_(places, places)] for block, places in measured if len(places) > 1]
        own, other = (np.array([value for block in kept for value in of(block)]) for of in (np.diag, others))
        difference = mean_interval(own - other)
        if not kept:
            return {"n": 0, "difference": difference} | dict.fromkeys(("own", "other", "p", "p_least"))
        means = {"own": float(own.mean()), "other": float(other.mean()), "difference": difference}
        p, least = pairing_p(kept), least_pairing_p([len(block) for block in kept])
        return {"n": len(own), "p": p, "p_least": least} | means


def pairing_p(blocks: Sequence[Matrix]) -> float:
    """One-sided p of the accompaniments' following their own vocals more than others.

    The mean over the pairs as they are, against its means over random orders in which the accompaniments are
    dealt to the vocals of each block (N, N) of finite scores. It is exact, although the pairs share vocals.
    """
    own, drawn = sum(np.trace(block) for block in blocks), np.zeros(RESAMPLES)
    rng = np.random.default_rng(SEED)
    for block in blocks:
        places = np.arange(len(block))
        orders = rng.permuted(np.tile(places, (RESAMPLES, 1)), axis=1)
        drawn += block[places, orders].sum(axis=1)
    # Rounding must not make an order that is as good seem worse.
    rounding = 1e-9 * sum(float(np.abs(block).max()) * len(block) for block in blocks)
    p = (1 + int(np.sum(drawn >= own - rounding))) / (1 + RESAMPLES)
    return max(p, least_pairing_p([len(block) for block in blocks]))


def least_pairing_p(sizes: Sequence[int]) -> float:
    """The least p that `pairing_p` can come to with blocks of these sizes: one order of all."""
    return max(1 / (1 + RESAMPLES), float(np.exp(-sum(log(factorial(size)) for size in sizes))))


def others(block: Matrix) -> Matrix:
    """The mean over the other vocals of each accompaniment (N,), NaN of none, of a matrix (N, N)."""
    return pd.DataFrame(np.where(np.eye(len(block), dtype=bool), np.nan, block)).mean(axis=1).to_numpy()
