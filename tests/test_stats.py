"""Statistics: the one quantile is numpy's, and no answer is never 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats import ascending, mean, median_interval, quantile

VALUES = st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=60)


@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_numpys_linear_one(values: list[float], q: float) -> None:
    expected = float(np.quantile(values, q, method="linear"))
    assert quantile(sorted(values), q) == pytest.approx(expected, rel=1e-9, abs=1e-3)


@given(VALUES, st.floats(0, 1))
def test_a_quantile_lies_between_the_smallest_and_the_largest(
    values: list[float], q: float
) -> None:
    slack = 1e-9 * max(abs(value) for value in values)
    assert min(values) - slack <= quantile(sorted(values), q) <= max(values) + slack


@given(VALUES)
def test_a_mean_is_numpys(values: list[float]) -> None:
    assert mean(values) == pytest.approx(float(np.mean(values)), rel=1e-9, abs=1e-3)


def test_quantiles_between_two_values_are_interpolated() -> None:
    assert [quantile([10.0, 20.0], q) for q in (0, 0.25, 0.5, 1)] == [10.0, 12.5, 15.0, 20.0]


def test_no_values_have_no_quantile_and_no_mean() -> None:
    assert math.isnan(quantile([], 0.5))
    assert math.isnan(mean([]))


def test_an_infinite_value_does_not_spoil_the_others() -> None:
    assert quantile([1.0, 2.0, math.inf], 0.5) == 2.0
    assert quantile([1.0, math.inf, math.inf], 1.0) == math.inf


@pytest.mark.parametrize("q", [-0.01, 1.01, 95, math.nan])
def test_a_quantile_outside_0_to_1_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile([1.0], q)


def test_absent_values_are_left_out_when_sorting() -> None:
    assert ascending([3.0, math.nan, 1.0]) == [1.0, 3.0]


@given(VALUES, st.floats(0, 4))
def test_an_interval_of_the_median_holds_that_of_the_values(values: list[float], z: float) -> None:
    low, high = median_interval(sorted(values), z)
    assert low <= quantile(sorted(values), 0.5) <= high


@given(VALUES)
def test_more_certainty_takes_a_wider_interval(values: list[float]) -> None:
    (low, high), (lower, higher) = (median_interval(sorted(values), z) for z in (1.96, 2.58))
    assert lower <= low <= high <= higher


def test_the_interval_has_the_ranks_of_the_binomial_distribution() -> None:
    """Of 100 values the 95 % interval has the ranks 40 and 61 (tables of Conover)."""
    assert median_interval(range(1, 101), 1.96) == (40, 61)


def test_an_interval_of_nothing_is_nan() -> None:
    assert all(math.isnan(end) for end in median_interval([], 1.96))


def test_the_99_pct_interval_rarely_misses_the_median() -> None:
    rng = np.random.default_rng(5)
    n_missed = 0
    for values in np.sort(rng.lognormal(0, 0.6, (2000, 21)), axis=1):
        low, high = median_interval(values.tolist(), 2.58)
        n_missed += not low <= 1 <= high
    assert n_missed <= 0.01 * 2000
