"""How far accuracy went: the last evaluation of each held-out set against the first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from erclip.runs import series
from erclip.runs.read import Run
from erclip.statistics import Interval
from erclip.text import printable


class Gain(NamedTuple):
    """Last minus first accuracy on one held-out set; without recorded intervals no ends."""

    held_out: str
    k: int
    first: float
    last: float
    change: Interval

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.change.half)

    @property
    def went(self) -> str:
        """Which way, in a word or two; nothing inside the noise is a gain."""
        if not self.known:
            return "went"
        return {"gain": "rose", "loss": "fell"}.get(self.change.outcome, self.change.outcome)

    @property
    def points(self) -> str:
        """The change in percentage points, with its interval.

        >>> change = Interval.around(0.5, 0.7).within(-1, 1)
        >>> Gain("gsm8k", 4, 0.0, 0.5, change).points
        '+50.0 points, 95 % interval −20.0 to +100.0'
        """
        mean, low, high = (f"{100 * x:+.1f}".replace("-", "−") for x in self.change[:3])
        ends = f", 95 % interval {low} to {high}" if self.known else ""
        return f"{mean} points{ends}"


def gains(run: Run) -> Iterator[Gain]:
    """Yield one for every set with two evaluations.

    Both evaluations asked the same problems, so their errors partly cancel: adding them up in
    squares, as for different problems, errs on the careful side. An accuracy changes by 1 at most.
    """
    for (held_out, k), points in series.evaluations(run).items():
        first, last = points[0], points[-1]
        if first is last:
            continue
        halves = [half for point in (first, last) if (half := _half_width(point)) is not None]
        half = math.hypot(*halves) if len(halves) == 2 else math.nan
        change = Interval.around(last.value - first.value, half).within(-1.0, 1.0)
        yield Gain(printable(held_out), k, first.value, last.value, change)


def _half_width(point: series.Evaluation) -> float | None:
    """Half of a 95 % interval; the longer half, as one end may be cut off at 0 or 1."""
    if point.low is None or point.high is None:
        return None
    return max(point.value - point.low, point.high - point.value)
