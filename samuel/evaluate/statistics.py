"""What may be said of a mean over few tracks: intervals and permutation tests, the same for the same numbers.

A score that looks at the vocal means something only beside the same score with the vocals of other songs: a
`Pairing` holds both. Shapes: N tracks of a block; a matrix holds accompaniment × vocal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import factorial, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 9_999
SEED = 0
CONFIDENCE = 0.95
LEAST_RESAMPLED = 6
AT_A_TIME = 2**22  # numbers drawn at a time: 32 MiB

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values and where it lies with 95 % confidence; None where too little is known."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


def mean_interval(values: ArrayLike) -> Interval:
    """Mean, and its bootstrap interval; NaN are left out.

    The percentiles of the resampled means are taken further out by Student's t and √(n / (n - 1)), as plain
    percentiles cover too little with few values: the expanded percentile interval (Hesterberg, "What
    Teachers Should Know About the Bootstrap", 2015, §4.2). Below six values, whose resampled means lie
    between the least and the greatest of them, it is Student's interval, and none where all are equal.
    """
    from scipy import stats

    found = finite(values)
    n = len(found)
    if n < 2:
        return Interval(n, float(found[0]) if n else None, None, None)
    mean = float(found.mean())
    if n < LEAST_RESAMPLED:
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * found.std(ddof=1) / sqrt(n))
        return Interval(n, mean, mean - reach, mean + reach) if reach else Interval(n, mean, None, None)
    tail = float(stats.norm.cdf(sqrt(n / (n - 1)) * stats.t.ppf((1 - CONFIDENCE) / 2, n - 1)))
    rng = np.random.default_rng(SEED)
    sizes = map(len, np.array_split(np.empty(RESAMPLES), -(-RESAMPLES // _batch(n))))
    means = np.concatenate([found[rng.integers(n, size=(size, n))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(n, mean, float(low), float(high))


def paired_p(differences: ArrayLike) -> float | None:
    """Two-sided p of a mean difference within pairs, by permuting the members of pairs; None below two pairs.

    Under the null hypothesis a difference is as likely to have the other sign. All signs are tried where
    there are no more than `RESAMPLES` of them. NaN are left out.
    """
    found = finite(differences)
    return None if len(found) < 2 else _permutation_p((found,), np.mean, "samples")


def unpaired_p(first: ArrayLike, second: ArrayLike) -> float | None:
    """Two-sided p of a difference of means of independent samples, by permuting all values but NaN.

    None where one has fewer than two values.
    """

    def difference_of_means(one: Matrix, other: Matrix, axis: int = -1) -> Matrix:
        return one.mean(axis=axis) - other.mean(axis=axis)

    samples = finite(first), finite(second)
    return None if min(map(len, samples)) < 2 else _permutation_p(samples, difference_of_means, "independent")


def _permutation_p(samples: tuple[Matrix, ...], statistic: Callable[..., Any], kind: str) -> float:
    from scipy import stats

    result = stats.permutation_test(
        samples, statistic, permutation_type=kind, vectorized=True, n_resamples=RESAMPLES,
        batch=_batch(sum(map(len, samples))), rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(result.pvalue)


def _batch(n: int) -> int:
    return max(1, min(RESAMPLES, AT_A_TIME // n))


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
        kept = _usable_parts(self.blocks)
        own, other = (np.array([value for block in kept for value in of(block)]) for of in (np.diag, others))
        return {
            "n": len(own),
            "own": float(own.mean()) if kept else None,
            "other": float(other.mean()) if kept else None,
            "difference": vars(mean_interval(own - other)),
            "p": pairing_p(kept),
            "p_least": least_pairing_p([len(block) for block in kept]) if kept else None,
        }


def pairing_p(blocks: Sequence[Matrix]) -> float | None:
    """One-sided p of the accompaniments' following their own vocals more than others.

    Under the null hypothesis the accompaniments could as well have been dealt to the vocals in any other
    order, so the mean over the pairs as they are is compared with its means over random orders, dealt within
    each block (N, N). It is exact whatever the scores' distribution, and although the pairs share vocals.
    Tracks with NaN are left out as `usable` says. None with fewer than two tracks in every block.
    """
    kept = _usable_parts(blocks)
    if not kept:
        return None
    own, drawn, rng = sum(np.trace(block) for block in kept), np.zeros(RESAMPLES), np.random.default_rng(SEED)
    for block in kept:
        places = np.arange(len(block))
        orders = rng.permuted(np.tile(places, (RESAMPLES, 1)), axis=1)
        drawn += block[places, orders].sum(axis=1)
    # Rounding must not make an order that is as good seem worse.
    rounding = 1e-9 * sum(float(np.abs(block).max()) * len(block) for block in kept)
    p = (1 + int(np.sum(drawn >= own - rounding))) / (1 + RESAMPLES)
    return max(p, least_pairing_p([len(block) for block in kept]))


def least_pairing_p(sizes: Sequence[int]) -> float:
    """The least p that `pairing_p` can come to with blocks of these sizes: one order of all."""
    orders = sum(log(factorial(size)) for size in sizes)
    return max(1 / (1 + RESAMPLES), float(np.exp(-orders)))


def usable(block: Matrix) -> NDArray[np.int64]:
    """Places of tracks that have scores, and no NaN, with each other's vocals; the emptiest go first."""
    places = np.flatnonzero(np.isfinite(np.diag(block)))
    while True:
        empty = ~np.isfinite(block[np.ix_(places, places)])
        if not empty.any():
            return places
        places = np.delete(places, np.argmax(empty.sum(axis=0) + empty.sum(axis=1)))


def _usable_parts(blocks: Sequence[Matrix]) -> list[Matrix]:
    return [block[np.ix_(places, places)] for block in blocks if len(places := usable(block)) > 1]


def others(block: Matrix) -> Matrix:
    """Of a square matrix of scores, the mean over the other vocals of each accompaniment: (N,)."""
    off = np.where(np.eye(len(block), dtype=bool), np.nan, block)
    counts = np.isfinite(off).sum(axis=1)
    return np.where(counts > 0, np.nansum(off, axis=1) / np.maximum(counts, 1), np.nan)


def finite(values: ArrayLike) -> Matrix:
    """The values that are numbers: (N,)."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]
