"""Rows → what each method comes to at its own best setting and across the grid, with intervals.

Differences are paired: the same seed, the same machine and the same setting (or each method's own
best one) on both sides. Where a study has tuning seeds, they alone choose the best setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from erclip.statistics import Interval, estimate, holm, mean_interval, p_value
from erclip.study.design import REGIME, Cell, Method
from erclip.study.machine import machine
from erclip.study.outcomes import OUTCOMES, Row, number, with_outcomes
from erclip.study.rows import Results

Point = tuple[tuple[str, Any], ...]
Seeds = Mapping[int, Row]
ACCURACY, PASS = "final_accuracy", "final_pass_at_k"
VARIANT = "method"  # the name of a point's part that says which of a rule's methods it is of
LEVEL = 0.05


@dataclass(frozen=True)
class Runs:
    """All rows of one method, by point of the grid and seed; those of tuning seeds apart.

    `lead` is the study's first outcome, by which the best point is chosen.
    """

    method: Method
    points: Mapping[Point, Seeds]
    tuning: Mapping[Point, Seeds] = field(default_factory=dict)
    lead: str = ACCURACY

    def values(self, point: Point, column: str = ACCURACY) -> dict[int, float]:
        """One column at one point, by seed; what was not measured is left out."""
        return _values(self.points.get(point, {}), column)

    def estimate(self, point: Point, column: str = ACCURACY) -> Interval | None:
        """Mean and interval over the seeds at one point."""
        values = self.values(point, column)
        return estimate(list(values.values())) if values else None

    def best(self) -> Point:
        """The point with the best mean of the first outcome, among those with the most seeds.

        Of the tuning seeds where there are any, else of the runs that are then reported.
        """
        rows = {point: seeds for point, seeds in self.tuning.items() if point in self.points}
        rows = rows or self.points
        most = max(len(seeds) for seeds in rows.values())
        full = [point for point, seeds in rows.items() if len(seeds) == most]
        sign = -1.0 if OUTCOMES[self.lead].better is False else 1.0
        return max(full, key=lambda point: sign * _mean(_values(rows[point], self.lead), -sign))

    def edges(self, point: Point) -> list[str]:
        """Columns of numbers in which this point is the grid's first or last of several."""
        found = []
        for name, value in point:
            values = {dict(other).get(name) for other in self.points}
            numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(numbers) > 1 and value in (min(numbers), max(numbers)):
                found.append(name)
        return found

    def over_grid(self) -> dict[int, float]:
        """The mean over the grid by seed, of the seeds that have all of it."""
        return _mean_by_seed([self.values(point, self.lead) for point in self.points])

    def collapsed_at(self, point: Point) -> tuple[int, int]:
        """Runs at one point that collapsed, and all of them."""
        rows = self.points.get(point, {}).values()
        return sum(number(row, "collapsed") == 1 for row in rows), len(rows)

    @property
    def collapsed(self) -> tuple[int, int]:
        """Runs that collapsed, and all runs."""
        counts = [self.collapsed_at(point) for point in self.points]
        return sum(fallen for fallen, _ in counts), sum(count for _, count in counts)


class Against(NamedTuple):
    """A method minus the one that it is compared with; `points` only where both have two seeds."""

    at_best: Interval | None
    pass_at_best: Interval | None
    over_grid: Interval | None
    points: dict[Point, Interval]


def read(results: Results) -> dict[str, Runs]:
    """Every method that has rows, in the order of the study; each row with all outcomes."""
    rows, curves = results.rows(), results.curve()
    tuning = set(results.study.file.tuning_seeds)
    found: dict[str, Runs] = {}
    for method in results.study.methods:
        own: tuple[dict[Point, dict[int, Row]], ...] = ({}, {})
        for cell in results.study.cells():
            if cell.method == method.name and cell in rows:
                row = with_outcomes(rows[cell], curves.get(cell, ()))
                own[cell.seed in tuning].setdefault(cell.point, {})[cell.seed] = row
        if own[0]:
            found[method.name] = Runs(method, *own, lead=results.study.file.outcomes[0])
    return found


def by_regime(found: Mapping[str, Runs]) -> dict[str, dict[str, Runs]]:
    """Regime → methods, the regime no longer in their points; "" for a study without regimes."""
    names = {
        value: None for runs in found.values() for p in runs.points for k, value in p if k == REGIME
    }
    if not names:
        return {"": dict(found)} if found else {}
    return {
        regime: {
            name: replace(
                runs,
                points=_within(runs.points, regime),
                tuning=_within(runs.tuning, regime),
            )
            for name, runs in found.items()
            if _within(runs.points, regime)
        }
        for regime in names
    }


def paired_rows(base: Seeds, own: Seeds, column: str) -> dict[int, float]:
    """own − base of the seeds that both have, each pair from one machine."""
    return {
        seed: difference
        for seed in sorted(set(base) & set(own))
        if machine(base[seed]) == machine(own[seed])
        and not math.isnan(difference := number(own[seed], column) - number(base[seed], column))
    }


def at_best(runs: Runs, base: Runs, column: str = ACCURACY) -> dict[int, float]:
    """`runs` minus `base` by seed, each at its own best setting."""
    return paired_rows(base.points[base.best()], runs.points[runs.best()], column)


def at_points(runs: Runs, base: Runs, column: str = ACCURACY) -> dict[Point, dict[int, float]]:
    """`runs` minus `base` by seed at every point that both have."""
    found = {
        point: paired_rows(base.points[plain(point)], own, column)
        for point, own in runs.points.items()
        if plain(point) in base.points
    }
    return {point: differences for point, differences in found.items() if differences}


def over_grid(runs: Runs, base: Runs, column: str = ACCURACY) -> dict[int, float]:
    """The mean of these differences over the points by seed, of seeds that have all of them."""
    return _mean_by_seed(list(at_points(runs, base, column).values()))


def against(runs: Runs, base: Runs) -> Against:
    """`runs` minus `base`, paired by seed."""
    points = {point: interval_of(d) for point, d in at_points(runs, base, runs.lead).items()}
    return Against(
        interval_of(at_best(runs, base, runs.lead)),
        interval_of(at_best(runs, base, PASS)),
        interval_of(over_grid(runs, base, runs.lead)),
        {point: found for point, found in points.items() if found is not None},
    )


def interval_of(differences: Mapping[int, float]) -> Interval | None:
    """Mean and interval over the seeds, two at least."""
    return estimate(list(differences.values())) if len(differences) > 1 else None


def plain(point: Point) -> Point:
    """A point without the method that a rule has there."""
    return tuple(part for part in point if part[0] != VARIANT)


def corrected(differences: Iterable[Interval | Interval | None]) -> list[float]:
    """Holm's p of each of a family of differences; NaN where there is none."""
    tests = (found if isinstance(found, Interval) else None for found in differences)
    return holm([math.nan if found is None else p_value(found) for found in tests])


def share(fallen: int, count: int) -> Interval:
    """A share of runs with its interval.

    >>> [round(x, 2) for x in share(0, 5)[:3]]
    [0.0, 0.0, 0.49]
    """
    return mean_interval([1.0] * fallen + [0.0] * (count - fallen))


def families(found: Mapping[str, Runs]) -> list[list[Runs]]:
    """Each method that others are first compared with, and those others; the rest together."""
    first = {name: next(iter(runs.method.against), None) for name, runs in found.items()}
    bases = dict.fromkeys(base for base in first.values() if base in found)
    groups = [
        [found[base], *(found[name] for name in found if first[name] == base)]
        for base in bases
        if base is not None
    ]
    placed = {runs.method.name for group in groups for runs in group}
    rest = [runs for name, runs in found.items() if name not in placed]
    return groups + ([rest] if rest else [])


def verdict(difference: Interval | None, p: float) -> str:
    """win, tie or loss by a corrected p; nothing inside the noise is a gain.

    >>> tie, loss = Interval.around(0.02, 0.03, 5), Interval.around(-0.05, 0.03, 5)
    >>> verdict(tie, 0.14), verdict(loss, 0.01)
    ('tie', 'loss')
    """
    if difference is None or difference.count < 3:
        return "few seeds"
    if not p < LEVEL:
        return "tie"
    return "win" if difference.mean > 0 else "loss"


def curve(
    points: Mapping[Cell, Sequence[Row]], runs: Runs, regime: str, column: str
) -> dict[int, list[float]]:
    """A column of curves.csv at the method's best point: rollout → values over seeds."""
    found: dict[int, list[float]] = {}
    best = runs.best()
    point = ((REGIME, regime), *best) if regime else best
    for seed in runs.points[best]:
        for row in points.get(Cell(runs.method.name, point, seed), ()):
            value = number(row, column)
            if not math.isnan(value):
                found.setdefault(int(row["rollout"]), []).append(value)
    return found


def _within(points: Mapping[Point, Seeds], regime: str) -> dict[Point, Seeds]:
    return {
        tuple(part for part in point if part[0] != REGIME): seeds
        for point, seeds in points.items()
        if dict(point)[REGIME] == regime
    }


def _values(rows: Seeds, column: str) -> dict[int, float]:
    found = {seed: number(row, column) for seed, row in rows.items()}
    return {seed: value for seed, value in found.items() if not math.isnan(value)}


def _mean_by_seed(points: Sequence[Mapping[int, float]]) -> dict[int, float]:
    if not points:
        return {}
    shared = set.intersection(*(set(values) for values in points))
    return {seed: math.fsum(v[seed] for v in points) / len(points) for seed in sorted(shared)}


def _mean(values: Mapping[int, float], sign: float) -> float:
    """The mean; of no values the infinity of this sign."""
    return math.fsum(values.values()) / len(values) if values else sign * math.inf
