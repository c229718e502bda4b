"""What a run is judged by: the outcomes that a study fixes beforehand, each a number of its row.

What a row does not hold itself is worked out here from it and from its curve, so that rows of
older studies have it too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Row = Mapping[str, str]
FLAGS = ("True", "False")


class Outcome(NamedTuple):
    """How it is called, whether more of it is better (None: neither), and what it is.

    `over_grid`: compared over all settings, since at the best one there is nothing to see of it.
    """

    label: str
    better: bool | None
    value: Callable[[Row, Sequence[Row]], float]
    over_grid: bool = False


def number(row: Row, name: str) -> float:
    """A value of a row, NaN where there is none.

    >>> number({"kl_old": "0.01", "k": ""}, "kl_old"), number({"k": ""}, "k")
    (0.01, nan)
    """
    text = row.get(name) or "nan"
    return float(text == "True") if text in FLAGS else float(text)


def _column(name: str) -> Callable[[Row, Sequence[Row]], float]:
    return lambda row, curve: number(row, name)


def _fall(row: Row, curve: Sequence[Row]) -> float:
    return number(row, "best_accuracy") - number(row, "final_accuracy")


def _entropy_change(row: Row, curve: Sequence[Row]) -> float:
    return abs(number(row, "final_entropy") - number(row, "first_entropy"))


def _area(row: Row, curve: Sequence[Row]) -> float:
    """Trapezoids over rollouts, divided by their number: the mean accuracy while training."""
    points = [(float(point["rollout"]), number(point, "accuracy")) for point in curve]
    if len(points) < 2 or any(math.isnan(y) for _, y in points):
        return math.nan
    areas = [(right - left) * (a + b) / 2 for (left, a), (right, b) in itertools.pairwise(points)]
    return math.fsum(areas) / (points[-1][0] - points[0][0])


OUTCOMES: dict[str, Outcome] = {
    "final_accuracy": Outcome("final avg@k", True, _column("final_accuracy")),
    "fall": Outcome("highest − final avg@k", False, _fall),
    "area": Outcome("area under the curve", True, _area),
    "entropy_change": Outcome("|H_end − H_0|", None, _entropy_change),
    "kl_start": Outcome("KL(start‖end)", None, _column("kl_start")),
    "collapsed": Outcome("collapsed", False, _column("collapsed"), True),
    "grad_norm_max": Outcome("largest gradient norm", None, _column("grad_norm_max")),
    "final_pass_at_k": Outcome("final pass@k", True, _column("final_pass_at_k")),
    "final_greedy": Outcome("final greedy accuracy", True, _column("final_greedy")),
    "final_reward": Outcome("reward at the end", True, _column("final_reward")),
}
PRIMARY = (
    *("final_accuracy", "fall", "area", "entropy_change", "kl_start", "collapsed"),
    "grad_norm_max",
)


def with_outcomes(row: Row, curve: Sequence[Row]) -> dict[str, str]:
    """The row with every outcome that it and its curve have."""
    missing = {name: own.value(row, curve) for name, own in OUTCOMES.items() if not row.get(name)}
    return {**row, **{name: f"{v:.10g}" for name, v in missing.items() if not math.isnan(v)}}
