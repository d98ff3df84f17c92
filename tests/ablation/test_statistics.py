import math

import numpy as np
import pytest
from scipy import stats

from samuel.ablation import (
    Spread,
    paired_difference,
    share_marked_by_chance,
    spread,
)


def test_mean_and_deviation_are_those_of_numpy() -> None:
    values = [0.41, 0.57, 0.39, 0.6, 0.44]
    found = spread(values)
    assert found
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert found.count == 5


def test_one_number_has_no_deviation_and_none_has_nothing() -> None:
    assert spread([0.5]) == Spread(0.5, None, 1)
    assert spread([]) is None


def test_a_difference_is_paired_by_seed() -> None:
    base = {0: 1.0, 1: 2.0, 2: 4.0, 7: 100.0}
    values = {2: 4.5, 1: 2.1, 0: 1.3, 8: -5.0}
    found = paired_difference(values, base)
    assert found
    assert found.mean == pytest.approx(0.3)  # of 0.3, 0.1 and 0.5
    assert found.deviation == pytest.approx(0.2)
    assert found.count == 3
    assert paired_difference({1: 1.0}, {2: 1.0}) is None


@pytest.mark.parametrize("count", [3, 4, 10])
def test_a_mark_is_a_paired_t_of_more_than_two(count: int) -> None:
    rng = np.random.default_rng(count)
    marks = 0
    for _ in range(200):
        base, values = rng.normal(size=(2, count))
        t = abs(stats.ttest_rel(values, base).statistic)
        found = paired_difference(dict(enumerate(values)), dict(enumerate(base)))
        assert found
        assert found.marked == (t > 2)
        marks += found.marked
    assert 0 < marks < 200


def test_fewer_than_three_are_never_marked() -> None:
    assert not Spread(1.0, 1e-9, 2).marked
    assert not Spread(1.0, None, 1).marked
    assert Spread(1.0, 1e-9, 3).marked
    assert not Spread(0.0, 0.0, 3).marked


def test_what_chance_marks_is_what_chance_marks() -> None:
    assert share_marked_by_chance(3) == pytest.approx(1 - 2 / math.sqrt(6))  # closed form for two degrees
    draws = np.random.default_rng(0).normal(size=(20_000, 5))
    errors = draws.std(axis=1, ddof=1) / math.sqrt(5)
    assert share_marked_by_chance(5) == pytest.approx(np.mean(abs(draws.mean(axis=1)) > 2 * errors), abs=0.01)
