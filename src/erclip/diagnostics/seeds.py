"""Means and differences over seeds, with 95 % intervals of Student's t."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from erclip.evaluation.statistics import t_quantile, two_sided_p


class Estimate(NamedTuple):
    """A mean with its 95 % interval; `half` is NaN where a single value says nothing of spread."""

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half


def p_value(difference: Estimate) -> float:
    """Two-sided p of a paired or jackknifed difference: Student's t with count − 1 degrees.

    >>> round(p_value(estimate([0.01, 0.02, 0.03])), 4)  # t = 3.464, 2 degrees of freedom
    0.0742
    >>> p_value(Estimate(0.1, math.nan, 1))
    nan
    """
    if difference.count < 2 or math.isnan(difference.half):
        return math.nan
    if difference.half == 0:
        return 1.0 if difference.mean == 0 else 0.0
    degrees = difference.count - 1
    return two_sided_p(difference.mean / difference.half * t_quantile(degrees), degrees)


def estimate(values: Sequence[float]) -> Estimate:
    """mean ± t · sd / √n over seeds, sd with ddof 1.

    >>> [round(x, 3) for x in estimate([0.5, 0.54, 0.52])[:2]]
    [0.52, 0.05]
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean, math.nan, count)
    return Estimate(mean, t_quantile(count - 1) * _error(values, mean), count)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate | None:
    """b − a over the seeds that both have, two at least; pairing takes out what a seed gives both.

    >>> paired({0: 0.50, 1: 0.40}, {0: 0.51, 1: 0.41, 2: 0.9}).count
    2
    """
    shared = sorted(set(a) & set(b))
    if len(shared) < 2:
        return None
    return estimate([b[seed] - a[seed] for seed in shared])


def unpaired(a: Sequence[float], b: Sequence[float]) -> Estimate | None:
    """b − a by Welch's t for different seeds, two of each at least."""
    if min(len(a), len(b)) < 2:
        return None
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    error_a, error_b = _error(a, mean_a), _error(b, mean_b)
    error = math.hypot(error_a, error_b)
    if error == 0:
        return Estimate(mean_b - mean_a, 0.0, min(len(a), len(b)))
    freedom = error**4 / (error_a**4 / (len(a) - 1) + error_b**4 / (len(b) - 1))
    half = t_quantile(max(1, int(freedom))) * error  # the whole number below: careful
    return Estimate(mean_b - mean_a, half, min(len(a), len(b)))


def _error(values: Sequence[float], mean: float) -> float:
    """sd / √n."""
    squares = math.fsum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1) / len(values))
