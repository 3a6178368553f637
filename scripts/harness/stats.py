"""Statistics, pure: one quantile for the whole project."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def quantile(ascending: Sequence[float], q: float) -> float:
    """Return the ``q`` quantile (0 to 1) of values sorted in ascending order.

    Linear interpolation between the two nearest ranks: Hyndman & Fan (1996), type 7, as numpy and
    AIPerf compute it. NaN for no values, since "no answer" must never read as 0.
    ValueError if ``q`` lies outside 0 to 1.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"quantile q must lie between 0 and 1, not {q}")
    if not ascending:
        return math.nan
    position = q * (len(ascending) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ascending) - 1)
    low, high = ascending[below], ascending[above]
    if low == high or position == below:  # an infinite neighbour must not make it NaN
        return low
    return low + (high - low) * (position - below)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, exactly rounded; NaN for no values."""
    return math.fsum(values) / len(values) if values else math.nan


def ascending(values: Iterable[float]) -> list[float]:
    """Return the values in ascending order, without the NaN that stand for absent ones."""
    return sorted([value for value in values if value == value])  # noqa: PLR0124 - but NaN


def median_interval(ascending: Sequence[float], z: float) -> tuple[float, float]:
    """Return an interval that holds the median of what values sorted in ascending order are of.

    ``z`` standard deviations of the binomial distribution to either side of the middle rank, with
    the normal approximation (Conover, Practical Nonparametric Statistics, 3.2): no shape of the
    distribution is assumed. The extremes where there are few values, (NaN, NaN) for none.
    """
    n = len(ascending)
    if not n:
        return math.nan, math.nan
    reach = z * math.sqrt(n) / 2
    low = max(math.floor(n / 2 - reach), 1)
    high = min(math.ceil(n / 2 + reach) + 1, n)
    return ascending[low - 1], ascending[high - 1]
