"""Rows → what each method comes to at its own best setting and across the grid, with intervals.

Differences are paired: the same seed and the same setting (or each method's own best one) on both
sides. An interval that holds 0 is a tie, whatever its middle.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from erclip.diagnostics.seeds import Estimate, estimate, paired
from erclip.study.design import Cell, Method
from erclip.study.rows import Results, Row, number

Point = tuple[tuple[str, Any], ...]
ACCURACY, PASS = "final_accuracy", "final_pass_at_k"


@dataclass(frozen=True)
class Runs:
    """All rows of one method, by point of the grid and seed."""

    method: Method
    points: Mapping[Point, Mapping[int, Row]]

    def values(self, point: Point, column: str = ACCURACY) -> dict[int, float]:
        """One column at one point, by seed; what was not measured is left out."""
        found = {seed: number(row, column) for seed, row in self.points.get(point, {}).items()}
        return {seed: value for seed, value in found.items() if not math.isnan(value)}

    def estimate(self, point: Point, column: str = ACCURACY) -> Estimate | None:
        """Mean and interval over the seeds at one point."""
        values = self.values(point, column)
        return estimate(list(values.values())) if values else None

    def best(self) -> Point:
        """The point of highest mean final accuracy, among those with the most seeds."""
        most = max(len(rows) for rows in self.points.values())
        full = [point for point, rows in self.points.items() if len(rows) == most]
        return max(full, key=lambda point: _mean(self.values(point)))

    def over_grid(self, among: Collection[Point] | None = None) -> dict[int, float]:
        """The mean over the grid (or these points of it) by seed, of the seeds that have it all."""
        points = [self.values(point) for point in self.points if among is None or point in among]
        if not points:
            return {}
        shared = set.intersection(*(set(values) for values in points))
        return {seed: _mean({s: v[seed] for s, v in enumerate(points)}) for seed in sorted(shared)}

    @property
    def collapsed(self) -> tuple[int, int]:
        """Runs that collapsed, and all runs."""
        rows = [row for rows in self.points.values() for row in rows.values()]
        return sum(row["collapsed"] == "True" for row in rows), len(rows)


class Against(NamedTuple):
    """A method minus the one that it is compared with; `points` only where both have two seeds."""

    at_best: Estimate | None
    pass_at_best: Estimate | None
    over_grid: Estimate | None
    points: dict[Point, Estimate]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Points of the grid won, tied and lost."""
        words = [verdict(found) for found in self.points.values()]
        return words.count("win"), words.count("tie"), words.count("loss")


def read(results: Results) -> dict[str, Runs]:
    """Every method that has rows, in the order of the study."""
    rows = results.rows()
    found = {}
    for method in results.study.methods:
        points: dict[Point, dict[int, Row]] = {}
        for cell in results.study.cells():
            if cell.method == method.name and cell in rows:
                points.setdefault(cell.point, {})[cell.seed] = rows[cell]
        if points:
            found[method.name] = Runs(method, points)
    return found


def against(runs: Runs, base: Runs) -> Against:
    """`runs` minus `base`, paired by seed."""
    return Against(
        paired(base.values(base.best()), runs.values(runs.best())),
        paired(base.values(base.best(), PASS), runs.values(runs.best(), PASS)),
        paired(base.over_grid(runs.points), runs.over_grid(base.points)),
        {
            point: found
            for point in runs.points
            if (found := paired(base.values(point), runs.values(point))) is not None
        },
    )


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


def verdict(difference: Estimate) -> str:
    """win, tie or loss; nothing inside the noise is a gain, and two seeds may agree by chance.

    >>> verdict(Estimate(0.02, 0.03, 5)), verdict(Estimate(-0.05, 0.03, 5))
    ('tie', 'loss')
    """
    if difference.count < 3:
        return "few seeds"
    if math.isnan(difference.half) or difference.low <= 0 <= difference.high:
        return "tie"
    return "win" if difference.mean > 0 else "loss"


def curve(points: Mapping[Cell, Sequence[Row]], runs: Runs, column: str) -> dict[int, list[float]]:
    """A column of curves.csv at the method's best point: rollout → values over seeds."""
    found: dict[int, list[float]] = {}
    for seed in runs.points[runs.best()]:
        for row in points.get(Cell(runs.method.name, runs.best(), seed), ()):
            value = number(row, column)
            if not math.isnan(value):
                found.setdefault(int(row["rollout"]), []).append(value)
    return found


def _mean(values: Mapping[int, float]) -> float:
    return math.fsum(values.values()) / len(values) if values else -math.inf
