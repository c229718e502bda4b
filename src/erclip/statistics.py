"""Means and differences with 95 % intervals: over problems, sets of problems, and seeds.

Over problems, responses to one problem are one observation: there is one value per problem, and
intervals can be trusted at 30 of them. Over seeds they are Student's t.
Letters: P problems, k responses to each.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from erclip.student import t_quantile, two_sided_p

Outcome = Literal["gain", "loss", "no difference shown"]


class Interval(NamedTuple):
    """A mean with its 95 % interval, over `count` values.

    The ends are NaN where a single value says nothing of spread.
    """

    mean: float
    low: float
    high: float
    count: int = 0

    @classmethod
    def around(cls, mean: float, half: float, count: int = 0) -> Interval:
        """An interval that is as long on both sides."""
        return cls(mean, mean - half, mean + half, count)

    @property
    def half(self) -> float:
        """Half of its length."""
        return (self.high - self.low) / 2

    @property
    def holds_zero(self) -> bool:
        """Whether the interval contains 0, or has no ends: no difference shown."""
        return not (self.low > 0 or self.high < 0)

    @property
    def outcome(self) -> Outcome:
        """What a difference shows; nothing inside the noise is a gain.

        >>> Interval.around(0.02, 0.03).outcome, Interval.around(0.05, 0.03).outcome
        ('no difference shown', 'gain')
        """
        if self.holds_zero:
            return "no difference shown"
        return "gain" if self.mean > 0 else "loss"

    def within(self, lowest: float, highest: float) -> Interval:
        """The same interval, its ends no further out than these; ends that are NaN stay NaN.

        >>> Interval.around(0.5, 0.7).within(0.0, 1.0).text()
        '0.500 [0.000, 1.000]'
        >>> Interval.around(0.5, math.nan).within(0.0, 1.0).text()
        '0.500'
        """
        return self._replace(low=max(self.low, lowest), high=min(self.high, highest))

    def text(self, digits: int = 3, *, signed: bool = False, percent: bool = False) -> str:
        """Mean [low, high], the mean alone where there are no ends.

        >>> Interval(0.5, 0.25, 1.0).text(), Interval(0.5, 0.25, 1.0).text(1, percent=True)
        ('0.500 [0.250, 1.000]', '50.0 % [25.0, 100.0]')
        >>> Interval(0.02, -0.01, 0.05).text(2, signed=True)
        '+0.02 [−0.01, +0.05]'
        """
        scale, sign = 100 if percent else 1, "+" if signed else ""
        mean, low, high = (
            f"{scale * value:{sign}.{digits}f}".replace("-", "−") for value in self[:3]
        )
        mean += " %" if percent else ""
        return mean if math.isnan(self.half) else f"{mean} [{low}, {high}]"

    def times(self, factor: float) -> Interval:
        """The same in another unit: 100 makes percentage points of shares."""
        return Interval(*(factor * value for value in self[:3]), self.count)

    def as_json(self) -> dict[str, float]:
        """Mean, low and high."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def mean_interval(means: Sequence[float]) -> Interval:
    """Mean of problem means in [0, 1], with a t interval that adds one solved and one failed.

    The interval is m̃ ± t · sd/√n over the P values and two invented problems, 0 and 1; the mean is
    that of the P values. The plain interval (Miller, 2411.00640) has no width when every problem
    has the same mean and is far too short near 0 and 1: at P = 30 and a true mean of 0.02 it holds
    the truth in as little as 45 % of samples. Adding a success and a failure is Agresti and Coull's
    remedy (The American Statistician 52, 1998), here for problems instead of single trials. It
    needs no special case: P = 1 gives [0, 1].

    >>> [round(x, 3) for x in mean_interval([1, 0, 0.5, 0.5])[:3]]
    [0.5, 0.031, 0.969]
    >>> [round(x, 3) for x in mean_interval([0.0] * 30)[:3]]
    [0.0, 0.0, 0.095]
    """
    return _clipped(_moments(means, (0.0, 1.0)), 0.0, 1.0)


def difference_interval(differences: Sequence[float]) -> Interval:
    """Mean of paired differences in [−1, 1], with a t interval that adds one win of each side.

    The invented wins are as large as the differences that occurred (their root mean square without
    zeros; 1 if all are zero). With k = 1 that is Bonett and Price's interval for paired proportions
    (Journal of Educational and Behavioral Statistics 37, 2012).

    >>> [round(x, 3) for x in difference_interval([0.5, 0.0, 0.0, 0.5])[:3]]
    [0.25, -0.262, 0.595]
    """
    return _clipped(_moments(differences, _wins(differences)), -1.0, 1.0)


def difference_of_sets(sets: Sequence[Sequence[float]]) -> Interval:
    """Unweighted mean of the sets' mean differences, as published averages are made.

    Variances add up over sets; degrees of freedom by Satterthwaite, rounded down.
    """
    return _clipped(_average([_moments(values, _wins(values)) for values in sets]), -1.0, 1.0)


def mean_of_sets(sets: Sequence[Sequence[float]]) -> Interval:
    """Unweighted mean of the sets' means, with the interval of `difference_of_sets`."""
    return _clipped(_average([_moments(values, (0.0, 1.0)) for values in sets]), 0.0, 1.0)


def pass_at(correct: int, responses: int, k: int) -> float:
    """1 − C(n−c, k)/C(n, k): chance that k of the n responses, c correct, hold a correct one.

    Unbiased for k ≤ n (Chen et al., 2107.03374).

    >>> pass_at(correct=1, responses=4, k=2)
    0.5
    """
    if not 0 <= correct <= responses or not 1 <= k <= responses:
        raise ValueError(f"pass@{k} is undefined for {correct} correct of {responses}")
    return 1.0 - math.comb(responses - correct, k) / math.comb(responses, k)


def majority(votes: Iterable[tuple[Hashable | None, bool]]) -> float:
    """Share of correct responses among those that give the most frequent answer.

    `votes` are (answer, correct) of one problem's responses. A response without an answer (None)
    does not vote; no votes at all give 0. Answers with equally many votes are pooled, so a tie
    counts as a fair draw between them, whatever the order of the responses.

    >>> majority([("3", True), ("4", False), ("4", False)])
    0.0
    >>> majority([("3", True), ("4", False), (None, False)])
    0.5
    """
    counts: dict[Hashable, list[bool]] = {}
    for answer, correct in votes:
        if answer is not None:
            counts.setdefault(answer, []).append(correct)
    most = max(map(len, counts.values()), default=0)
    winners = [verdicts for verdicts in counts.values() if len(verdicts) == most]
    return fmean(chain.from_iterable(winners)) if winners else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down p-values: the i-th smallest of m times m − i + 1, never falling, at most 1.

    At any level α the chance of a single false finding among all m is at most α, however the tests
    depend on each other (Scandinavian Journal of Statistics 6, 1979). NaN is no test and stays NaN.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, math.nan])]
    [0.03, 0.06, 0.06, nan]
    """
    found = [math.nan] * len(p_values)
    tests = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p))
        found[place] = largest
    return found


class _Moments(NamedTuple):
    mean: float
    centre: float  # of the interval
    error: float  # standard error of the centre
    degrees: int


def _moments(values: Sequence[float], invented: tuple[float, float]) -> _Moments:
    if not values:
        raise ValueError("a mean needs at least one problem")
    padded = [*values, *invented]
    error = stdev(padded) / math.sqrt(len(padded))
    return _Moments(fmean(values), fmean(padded), error, len(padded) - 1)


def _wins(differences: Sequence[float]) -> tuple[float, float]:
    squares = [difference**2 for difference in differences if difference]
    size = math.sqrt(fmean(squares)) if squares else 1.0
    return (-size, size)


def _average(parts: Sequence[_Moments]) -> _Moments:
    variances = [part.error**2 for part in parts]
    spread = sum(v**2 / part.degrees for v, part in zip(variances, parts, strict=True))
    return _Moments(
        fmean(part.mean for part in parts),
        fmean(part.centre for part in parts),
        math.sqrt(sum(variances)) / len(parts),
        int(sum(variances) ** 2 / spread + 1e-9),
    )


def _clipped(found: _Moments, lowest: float, highest: float) -> Interval:
    half = t_quantile(found.degrees) * found.error
    low, high = found.centre - half, found.centre + half
    return Interval(found.mean, max(lowest, low), min(highest, high))


def p_value(difference: Interval) -> float:
    """Two-sided p of a paired or jackknifed difference: Student's t with count − 1 degrees.

    >>> round(p_value(estimate([0.01, 0.02, 0.03])), 4)  # t = 3.464, 2 degrees of freedom
    0.0742
    >>> p_value(Interval.around(0.1, math.nan, 1))
    nan
    """
    if difference.count < 2 or math.isnan(difference.half):
        return math.nan
    if difference.half == 0:
        return 1.0 if difference.mean == 0 else 0.0
    degrees = difference.count - 1
    return two_sided_p(difference.mean / difference.half * t_quantile(degrees), degrees)


def estimate(values: Sequence[float]) -> Interval:
    """mean ± t · sd / √n over seeds, sd with ddof 1.

    >>> estimate([0.5, 0.54, 0.52]).text()
    '0.520 [0.470, 0.570]'
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Interval.around(mean, math.nan, count)
    return Interval.around(mean, t_quantile(count - 1) * _error(values, mean), count)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Interval | None:
    """b − a over the seeds that both have, two at least; pairing takes out what a seed gives both.

    >>> paired({0: 0.50, 1: 0.40}, {0: 0.51, 1: 0.41, 2: 0.9}).count
    2
    """
    shared = sorted(set(a) & set(b))
    if len(shared) < 2:
        return None
    return estimate([b[seed] - a[seed] for seed in shared])


def unpaired(a: Sequence[float], b: Sequence[float]) -> Interval | None:
    """b − a by Welch's t for different seeds, two of each at least."""
    if min(len(a), len(b)) < 2:
        return None
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    error_a, error_b = _error(a, mean_a), _error(b, mean_b)
    error = math.hypot(error_a, error_b)
    if error == 0:
        return Interval.around(mean_b - mean_a, 0.0, min(len(a), len(b)))
    freedom = error**4 / (error_a**4 / (len(a) - 1) + error_b**4 / (len(b) - 1))
    half = t_quantile(max(1, int(freedom))) * error  # the whole number below: careful
    return Interval.around(mean_b - mean_a, half, min(len(a), len(b)))


def _error(values: Sequence[float], mean: float) -> float:
    """sd / √n."""
    squares = math.fsum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1) / len(values))
