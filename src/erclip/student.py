"""Student's t for whole numbers of degrees of freedom, without a library for it."""

from __future__ import annotations

import math
from functools import cache


@cache
def t_quantile(degrees: int, level: float = 0.95) -> float:
    """The t with P(|T| ≤ t) = level for a whole number of degrees of freedom.

    P is a finite series (Abramowitz and Stegun 26.7.3 and 26.7.4), inverted by bisection.

    >>> round(t_quantile(29), 3), round(t_quantile(100_000), 3)
    (2.045, 1.96)
    """
    low, high = 0.0, 1.0
    while _t_probability(high, degrees) < level:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if _t_probability(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return high


def two_sided_p(t: float, degrees: int) -> float:
    """P(|T| ≥ |t|) of Student's t for a whole number of degrees of freedom.

    >>> round(two_sided_p(2.776, 4), 3), two_sided_p(0.0, 4), two_sided_p(math.inf, 4)
    (0.05, 1.0, 0.0)
    """
    if math.isinf(t):
        return 0.0
    return min(1.0, max(0.0, 1.0 - _t_probability(abs(t), degrees)))


def _t_probability(t: float, degrees: int) -> float:
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    if degrees == 1:
        return 2 * theta / math.pi
    term = total = cosine if odd else 1.0
    for j in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine * cosine * (j - 1) / j
        total += term
        if term < 1e-17 * total:
            break
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
