"""The frontier: what a rule keeps in a broken regime for what it gains in a clean one.

A rule that drifts less keeps more, and so does a smaller learning rate; so a method is not a point
but a curve. Across x, an outcome (the final accuracy, say) in the clean regime; up
y, that in the broken one, in the same budget; one point per setting of the grid. Settings that
another one beats in both are left out, and neighbours are joined by straight lines. A method helps
if its curve lies above that of its surrogate without a rule: the mean of the height between the two
over the x that both reach, and the area, height times width. Each tightness of a rule is a method
with a curve of its own, so all have as many settings as no rule has, and none is favoured by having
more to choose from. Intervals are over seeds, by jackknife.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from erclip.statistics import Interval, estimate
from erclip.study.design import NO_RULE
from erclip.study.machine import machine
from erclip.study.outcomes import Row, number
from erclip.study.pooled import surrogate_of
from erclip.study.results import Point, Runs, Seeds

Curve = Sequence[tuple[float, float]]


class Setting(NamedTuple):
    """One point of a curve: its means over seeds, and whether it is on the front."""

    point: Point
    x: float
    y: float
    front: bool


class Frontier(NamedTuple):
    """A method's curve under one regime, and how it lies to its surrogate's without a rule."""

    outcome: str
    regime: str
    surrogate: str
    method: str
    rule: str
    settings: tuple[Setting, ...]
    span: tuple[float, float] | None  # of x, where both curves are
    height: Interval | None
    area: Interval | None


def frontiers(
    regimes: Mapping[str, Mapping[str, Runs]], gained: str, kept: str, outcome: str
) -> list[Frontier]:
    """Every method's frontier in the regime `kept`, those without a rule first."""
    if gained not in regimes or kept not in regimes:
        return []
    clean, broken = regimes[gained], regimes[kept]
    sides = {
        name: side
        for name in clean
        if name in broken and (side := _Side.of(clean[name], broken[name], outcome)).points
    }
    found = []
    for name, side in sides.items():
        rule, surrogate = clean[name].method.rule, surrogate_of(name, clean)
        base = sides.get(surrogate) if rule != NO_RULE else None
        compared = (None, None, None) if base is None else _between(side, base)
        means = side.means(side.seeds())
        settings = tuple(Setting(p, *means[p], p in side.front) for p in side.points if p in means)
        found.append(Frontier(outcome, kept, surrogate, name, rule, settings, *compared))
    return sorted(found, key=lambda own: own.rule != NO_RULE)


def front(curve: Mapping[Point, tuple[float, float]]) -> list[Point]:
    """The points that no other one beats in both x and y.

    >>> front({"slow": (0.3, 0.28), "good": (0.5, 0.25), "fast": (0.45, 0.2)})
    ['slow', 'good']
    """
    return [
        point
        for point, (x, y) in curve.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in curve.values())
    ]


def height_between(upper: Curve, lower: Curve) -> tuple[float, tuple[float, float]] | None:
    """Mean of upper(x) − lower(x) over the x of both, and those x; None where there are none.

    >>> height_between([(0.0, 0.5), (1.0, 0.5)], [(0.5, 0.25), (1.5, 0.25)])
    (0.25, (0.5, 1.0))
    """
    upper, lower = sorted(upper), sorted(lower)
    low, high = max(upper[0][0], lower[0][0]), min(upper[-1][0], lower[-1][0])
    if not low < high:
        return None
    knots = sorted({low, high, *(x for x, _ in (*upper, *lower) if low < x < high)})
    gaps = [_at(upper, x) - _at(lower, x) for x in knots]  # straight between knots: exact
    steps = zip(knots, knots[1:], gaps, gaps[1:], strict=False)
    area = sum((right - left) * (a + b) / 2 for left, right, a, b in steps)
    return area / (high - low), (low, high)


class _Side(NamedTuple):
    """One method's rows in both regimes, at the settings that both have."""

    points: dict[Point, tuple[Seeds, Seeds]]
    outcome: str
    front: list[Point]

    @classmethod
    def of(cls, clean: Runs, broken: Runs, outcome: str) -> _Side:
        points = {
            p: (clean.points[p], broken.points[p]) for p in clean.points if p in broken.points
        }
        side = cls(points, outcome, [])
        return side._replace(front=front(side.means(side.seeds())))

    def seeds(self) -> list[int]:
        """Seeds that have every setting in both regimes, all on one machine."""
        rows = [seeds for pair in self.points.values() for seeds in pair]
        shared = set.intersection(*(set(own) for own in rows)) if rows else set()
        return sorted(seed for seed in shared if len({machine(own[seed]) for own in rows}) == 1)

    def machines(self, seed: int) -> str:
        """The machine of a seed's rows."""
        return machine(next(iter(self.points.values()))[0][seed])

    def means(self, seeds: Sequence[int]) -> dict[Point, tuple[float, float]]:
        """(x, y) of every setting, means over these seeds."""
        if not seeds:
            return {}
        return {
            point: (self._mean([a[s] for s in seeds]), self._mean([b[s] for s in seeds]))
            for point, (a, b) in self.points.items()
        }

    def _mean(self, rows: Sequence[Row]) -> float:
        return sum(number(row, self.outcome) for row in rows) / len(rows)

    def curve(self, seeds: Sequence[int]) -> Curve:
        """The front, from left to right."""
        means = self.means(seeds)
        return sorted(means[point] for point in self.front)


def _between(
    side: _Side, base: _Side
) -> tuple[tuple[float, float] | None, Interval | None, Interval | None]:
    """Span, height and area over no rule's curve, from the seeds and machines that both have."""
    seeds = [s for s in side.seeds() if s in base.seeds() and side.machines(s) == base.machines(s)]
    whole = height_between(side.curve(seeds), base.curve(seeds)) if seeds else None
    if whole is None:
        return None, None, None
    height, (low, high) = whole
    heights, areas = [], []
    for seed in seeds if len(seeds) > 1 else []:
        rest = [other for other in seeds if other != seed]
        part = height_between(side.curve(rest), base.curve(rest))
        if part is None:
            return (low, high), None, None
        width = part[1][1] - part[1][0]
        n = len(seeds)
        heights.append(n * height - (n - 1) * part[0])
        areas.append(n * height * (high - low) - (n - 1) * part[0] * width)
    if not heights:
        return (low, high), None, None
    return (low, high), estimate(heights), estimate(areas)


def _at(curve: Curve, x: float) -> float:
    """The height of a curve at an x inside it."""
    right = next(i for i, (a, _) in enumerate(curve) if a >= x)
    (b, high) = curve[right]
    if b == x or right == 0:
        return high
    a, low = curve[right - 1]
    return low + (high - low) * (x - a) / (b - a)
