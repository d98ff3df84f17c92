from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from samuel.evaluate.statistics import (
    RESAMPLES,
    Pairing,
    least_pairing_p,
    mean_interval,
    others,
    pairing_p,
    permutation_p,
)


@pytest.mark.parametrize("n", [2, 6, 20])
def test_the_interval_holds_the_true_mean_as_often_as_it_says(n: int) -> None:
    rng, hits, narrow = np.random.default_rng(n), 0, 0
    for _ in range(300):
        values = rng.normal(3.0, 2.0, n)
        interval = mean_interval(values)
        hits += interval["low"] <= 3.0 <= interval["high"]
        plain = np.quantile(values[rng.integers(n, size=(499, n))].mean(axis=1), [0.025, 0.975])
        narrow += plain[0] <= 3.0 <= plain[1]
    assert hits / 300 > 0.92  # 95 % less two standard errors
    assert narrow < hits  # what plain percentiles would do


def test_the_interval_of_many_values_is_that_of_scipy_and_of_few_students() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=500)
    expected = stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(1))
    interval = mean_interval(values)
    assert interval["mean"] == pytest.approx(values.mean())
    within = (interval["low"], interval["high"])
    assert within == pytest.approx(tuple(expected.confidence_interval), abs=0.01)
    few = [0.1, 0.4, 0.2]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(few), scale=stats.sem(few))
    assert (mean_interval(few)["low"], mean_interval(few)["high"]) == pytest.approx((low, high))
    assert mean_interval([1.0, np.nan, 1.0]) == {"n": 2, "mean": 1.0, "low": None, "high": None}
    assert mean_interval([2.5])["low"] is None
    assert (mean_interval([np.nan])["n"], mean_interval([])["mean"]) == (0, None)
    assert mean_interval([1.0] * 7)["low"] == 1.0


def test_a_paired_p_is_that_of_all_signs_and_near_the_t_tests() -> None:
    differences = np.array([0.3, 0.1, -0.05, 0.4, 0.2, 0.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    means = (signs * differences).mean(axis=1)
    one_sided = min(
        np.mean(means >= differences.mean() - 1e-12), np.mean(means <= differences.mean() + 1e-12)
    )
    assert permutation_p(differences) == pytest.approx(2 * one_sided)
    rng = np.random.default_rng(5)
    shifted = rng.normal(0.5, 1.0, 40)
    assert permutation_p(shifted) == pytest.approx(stats.ttest_1samp(shifted, 0.0)[1], abs=0.01)
    assert permutation_p([1.0]) is None


def test_a_pairing_p_is_the_share_of_all_orders_that_are_as_good_dealt_within_blocks() -> None:
    rng = np.random.default_rng(9)
    blocks = [rng.normal(size=(3, 3)) + np.eye(3), 10 + rng.normal(size=(4, 4)) + np.eye(4)]
    for some in (blocks[1:], blocks):
        sums = [
            sum(block[range(len(block)), order].sum() for block, order in zip(some, orders, strict=True))
            for orders in product(*(permutations(range(len(block))) for block in some))
        ]
        exact = np.mean(np.array(sums) >= sum(np.trace(block) for block in some) - 1e-12)
        assert pairing_p(some) == pytest.approx(exact, abs=0.015)
    assert pairing_p([np.full((5, 5), 0.1) + 0.2]) == 1.0  # equal scores prove nothing


def test_the_least_p_is_one_order_of_all() -> None:
    assert least_pairing_p([3, 2]) == pytest.approx(1 / 12)
    assert least_pairing_p([40]) == 1 / (1 + RESAMPLES)
    sure = [np.random.default_rng(seed).normal(size=(5, 5)) + 9 * np.eye(5) for seed in range(20)]
    assert all(pairing_p([block]) >= least_pairing_p([5]) for block in sure)


def test_a_summary_is_of_tracks_that_have_both() -> None:
    nan = np.nan
    block = np.array([[0.9, 0.1, nan], [0.3, 0.8, nan], [0.5, 0.5, nan]])  # the third vocal is silent
    assert others(block).tolist() == [0.1, 0.3, 0.5]
    summary = Pairing({}, [["a", "b", "c"]], [block]).summary()
    assert (summary["n"], summary["own"], summary["other"]) == (2, pytest.approx(0.85), pytest.approx(0.2))
    assert summary["difference"]["mean"] == pytest.approx(0.65)
    assert summary["p"] == pytest.approx(0.5, abs=0.02)
    alone = Pairing({"a": 0.9}, [["a"]], [np.array([[0.9]])]).summary()
    assert (alone["n"], alone["own"], alone["p"]) == (0, None, None)
    assert np.isnan(others(np.array([[0.9]]))).all()
