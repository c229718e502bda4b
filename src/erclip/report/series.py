"""`Run` → arrays to draw. Missing values are NaN, so that a curve has a gap and not a lie.

Legend: R rollouts, U updates of a run, N points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from erclip.report import names
from erclip.report.read import Row, Run


class Curve(NamedTuple):
    """Points to draw; `x` counts rollouts."""

    x: Float[np.ndarray, " N"]
    y: Float[np.ndarray, " N"]

    @property
    def drawn(self) -> bool:
        """Whether there is anything to see."""
        return bool(np.isfinite(self.y).any())


class Evaluation(NamedTuple):
    """Accuracy on one held-out set after `rollout` rollouts; 95 % interval where there is one."""

    rollout: int
    value: float
    low: float | None
    high: float | None
    pass_at_k: float | None


def number(row: Row, name: str) -> float:
    """Return a metric of one line, NaN where it is missing, null or not a finite number."""
    value = row.get(name)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return math.nan


def column(rows: tuple[Row, ...], name: str) -> Float[np.ndarray, " N"]:
    """Return one metric of many lines."""
    return np.array([number(row, name) for row in rows], dtype=np.float64)


def by_rollout(run: Run, name: str) -> Curve:
    """Return a metric that is measured once per rollout."""
    return Curve(column(run.rollouts, "rollout"), column(run.rollouts, name))


def noise_floor(run: Run) -> Curve:
    """Return what ERC clips where the true ρ is 1: the larger of two measures, where both exist."""
    noise, rounding = by_rollout(run, names.NOISE), by_rollout(run, names.ROUNDING)
    if not rounding.drawn:
        return noise
    measured = np.isfinite(rounding.y)
    return Curve(rounding.x[measured], np.fmax(noise.y, rounding.y)[measured])


def updates_per_rollout(run: Run) -> int:
    """Return the largest number of updates that a rollout of this run had (at least 1)."""
    return max((int(row.get("update_in_rollout") or 1) for row in run.updates), default=1)


def by_update(run: Run, name: str) -> Curve:
    """Return a metric that is measured at every update, spread around its rollout's number.

    x = rollout − 1/2 + (update − 1/2) / K, so the K updates of rollout r fill [r − 1/2, r + 1/2].
    """
    steps = column(run.updates, "update_in_rollout")
    x = column(run.updates, "rollout") - 0.5 + (steps - 0.5) / updates_per_rollout(run)
    return Curve(x, column(run.updates, name))


def median_by_rollout(run: Run, name: str) -> Curve:
    """Return the median over each rollout's updates."""
    return _grouped(run, name, "rollout", np.median)


def share_by_rollout(run: Run, name: str) -> Curve:
    """Return a share of tokens, pooled over each rollout's updates: Σ share · tokens / Σ tokens.

    An update without a token count weighs as one token, so a run without counts has plain means.
    """
    tokens: dict[float, float] = {}
    hits: dict[float, float] = {}
    for row in run.updates:
        rollout, share, weight = row["rollout"], number(row, name), number(row, names.TOKENS)
        tokens.setdefault(rollout, 0.0)
        if math.isfinite(share):
            weight = weight if math.isfinite(weight) else 1.0
            tokens[rollout] += weight
            hits[rollout] = hits.get(rollout, 0.0) + share * weight
    shares = [hits[r] / tokens[r] if tokens[r] else math.nan for r in tokens]
    return Curve(np.array(list(tokens), dtype=np.float64), np.array(shares))


def share(run: Run, name: str) -> float:
    """Return a share of tokens pooled over all updates of a run, NaN where it was not measured."""
    shares, tokens = column(run.updates, name), column(run.updates, names.TOKENS)
    tokens = np.where(np.isfinite(tokens), tokens, 1.0) * np.isfinite(shares)
    total = float(tokens.sum())
    return float((np.nan_to_num(shares) * tokens).sum()) / total if total else math.nan


def largest_by_rollout(run: Run, name: str) -> Curve:
    """Return the largest of each rollout's updates."""
    return _grouped(run, name, "rollout", np.max)


def median_by_step(run: Run, name: str) -> Curve:
    """Return the median over rollouts for the first, second, … update within a rollout."""
    return _grouped(run, name, "update_in_rollout", np.median)


def evaluations(run: Run) -> dict[tuple[str, int], list[Evaluation]]:
    """Return avg@k of every held-out set over the run, by (set, k)."""
    found: dict[tuple[str, int], list[Evaluation]] = {}
    for row in run.evals:
        for name in row:
            key = names.avg_at(name)
            if key is not None and math.isfinite(number(row, name)):
                low, high = _finite(row, f"{name}_low"), _finite(row, f"{name}_high")
                passed = _finite(row, names.pass_at(*key))
                found.setdefault(key, []).append(
                    Evaluation(row["rollout"], number(row, name), low, high, passed)
                )
    return found


def total(rows: tuple[Row, ...], name: str) -> float | None:
    """Return the sum of a metric over lines, None where no line has it."""
    values = column(rows, name)
    return float(np.nansum(values)) if np.isfinite(values).any() else None


def elapsed_s(run: Run) -> float | None:
    """Return the seconds from the start of the run to its last line."""
    values = column((*run.rollouts, *run.updates, *run.evals), names.ELAPSED)
    return float(np.nanmax(values)) if np.isfinite(values).any() else None


def _grouped(run: Run, name: str, by: str, reduce: Callable[[list[float]], Any]) -> Curve:
    """Reduce the finite values of the updates that have the same `by`."""
    groups: dict[float, list[float]] = {}
    for row in run.updates:
        values = groups.setdefault(number(row, by), [])
        if math.isfinite(value := number(row, name)):
            values.append(value)
    keys = sorted(groups)
    reduced = [float(reduce(groups[key])) if groups[key] else math.nan for key in keys]
    return Curve(np.array(keys), np.array(reduced))


def _finite(row: Row, name: str) -> float | None:
    value = number(row, name)
    return value if math.isfinite(value) else None


def ends(values: Float[np.ndarray, " R"]) -> tuple[float, float]:
    """Medians of the first and the last tenth of a run, of at least three rollouts each."""
    values = finite(values)
    if not len(values):
        return math.nan, math.nan
    size = max(3, len(values) // 10)
    return float(np.median(values[:size])), float(np.median(values[-size:]))


def mean(values: Float[np.ndarray, " N"]) -> float:
    """Return the mean of the numbers among them, NaN if there are none."""
    values = finite(values)
    return float(values.mean()) if len(values) else math.nan


def median(values: Float[np.ndarray, " N"]) -> float:
    """Return the median of the numbers among them, NaN if there are none."""
    values = finite(values)
    return float(np.median(values)) if len(values) else math.nan


def finite(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " M"]:
    """Return the numbers among them."""
    return values[np.isfinite(values)]
