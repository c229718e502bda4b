"""`Run` → arrays to draw. Missing values are NaN, so that a curve has a gap and not a lie.

Legend: R rollouts, U updates of a run, N points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from erclip.runs import names
from erclip.runs.columns import Row, Rows
from erclip.runs.read import Run

DRAWN = 2000  # points of one curve; a picture is not a thousand of them wide


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


def column(rows: Sequence[Row], name: str) -> Float[np.ndarray, " N"]:
    """Return one metric of many lines."""
    if isinstance(rows, Rows):
        values = rows.column(name)
        return np.where(np.isfinite(values), values, math.nan)
    return np.array([number(row, name) for row in rows], dtype=np.float64)


def straight_line(runs: Sequence[Run], x: str, y: str) -> tuple[float, float] | None:
    """Return slope and start if one metric of the rollouts is the same line of another in all runs.

    None where it is not, or where x hardly moves, so that nothing is known of a slope.
    """
    a = np.concatenate([column(run.rollouts, x) for run in runs])
    b = np.concatenate([column(run.rollouts, y) for run in runs])
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2 or np.isfinite(a).sum() != np.isfinite(b).sum() or np.ptp(a[known]) < 1e-9:
        return None
    slope, start = np.polyfit(a[known], b[known], 1)
    if np.abs(slope * a[known] + start - b[known]).max() > 1e-6 * max(1.0, abs(slope)):
        return None
    return round(float(slope), 6), round(float(start), 6)


def thinned(curve: Curve, points: int = DRAWN) -> Curve:
    """Return at most so many points: of each stretch its ends, its extremes, and one gap if any.

    >>> spike = np.zeros(100_000); spike[77] = 9.0
    >>> thin = thinned(Curve(np.arange(100_000.0), spike))
    >>> len(thin.x) <= DRAWN, thin.x[thin.y == 9.0].tolist()
    (True, [77.0])
    """
    if len(curve.x) <= points:
        return curve
    stretches = points // 5
    edges = np.linspace(0, len(curve.x), stretches + 1).astype(int)
    kept: list[int] = []
    for start, end in pairwise(edges.tolist()):
        part = curve.y[start:end]
        known = np.flatnonzero(np.isfinite(part))
        gaps = np.flatnonzero(~np.isfinite(part))
        places = {0, len(part) - 1, *gaps[:1].tolist()}
        if len(known):
            places |= {int(known[part[known].argmin()]), int(known[part[known].argmax()])}
        kept += sorted(start + place for place in places)
    return Curve(curve.x[kept], curve.y[kept])


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
    steps = column(run.updates, "update_in_rollout")
    return int(max(np.nanmax(steps, initial=1.0), 1.0))


def by_update(run: Run, name: str) -> Curve:
    """Return a metric that is measured at every update, spread around its rollout's number.

    x = rollout − 1/2 + (update − 1/2) / K, so the K updates of rollout r fill [r − 1/2, r + 1/2].
    """
    steps = column(run.updates, "update_in_rollout")
    x = column(run.updates, "rollout") - 0.5 + (steps - 0.5) / updates_per_rollout(run)
    return Curve(x, column(run.updates, name))


def median_by_rollout(run: Run, name: str) -> Curve:
    """Return the median over each rollout's updates."""
    return _grouped(run, name, "rollout", _medians)


def share_by_rollout(run: Run, name: str) -> Curve:
    """Return a share of tokens, pooled over each rollout's updates: Σ share · tokens / Σ tokens.

    An update without a token count weighs as one token, so a run without counts has plain means.
    """
    rollouts, place = np.unique(column(run.updates, "rollout"), return_inverse=True)
    shares, tokens = column(run.updates, name), _weights(run, name)
    total = np.bincount(place, tokens, len(rollouts))
    hits = np.bincount(place, np.nan_to_num(shares) * tokens, len(rollouts))
    found = np.divide(hits, total, out=np.full(len(rollouts), math.nan), where=total > 0)
    return Curve(rollouts, found)


def share(run: Run, name: str) -> float:
    """Return a share of tokens pooled over all updates of a run, NaN where it was not measured."""
    shares, tokens = column(run.updates, name), _weights(run, name)
    total = float(tokens.sum())
    return float((np.nan_to_num(shares) * tokens).sum()) / total if total else math.nan


def rules(run: Run) -> dict[str, tuple[str, ...]]:
    """Return the metrics of every rule that a run measured: of the whole, then of its two sides.

    A rule is whatever a part of the loss reported: `clip/<rule>_frac`.
    """
    columns = _names(run.updates)
    own = {m[1] for name in columns if (m := names.CLIP.fullmatch(name))}
    found = {}
    for rule in (m[1] for name in columns if (m := names.CLIP.fullmatch(name))):
        stem, _, side = rule.rpartition("_")
        if not (side in ("low", "high") and stem in own):
            pair = [f"{rule}_{side}" for side in ("low", "high") if f"{rule}_{side}" in own]
            found[rule] = tuple(f"clip/{name}_frac" for name in (rule, *pair))
    return found


def largest_by_rollout(run: Run, name: str) -> Curve:
    """Return the largest of each rollout's updates."""
    return _grouped(run, name, "rollout", _largest)


def median_by_step(run: Run, name: str) -> Curve:
    """Return the median over rollouts for the first, second, … update within a rollout."""
    return _grouped(run, name, "update_in_rollout", _medians)


def evaluations(run: Run) -> dict[tuple[str, int], list[Evaluation]]:
    """Return avg@k of every held-out set over the run, by (set, k)."""
    found: dict[tuple[str, int], list[Evaluation]] = {}
    rollouts = column(run.evals, "rollout").astype(int).tolist()
    for name in _names(run.evals):
        key = names.avg_at(name)
        if key is None:
            continue
        parts = (name, f"{name}_low", f"{name}_high", names.pass_at(*key))
        columns = zip(rollouts, *(column(run.evals, part).tolist() for part in parts), strict=True)
        points = [
            Evaluation(rollout, value, *(_known(part) for part in rest))
            for rollout, value, *rest in columns
            if value == value
        ]
        if points:
            found[key] = points
    return found


def total(rows: Sequence[Row], name: str) -> float | None:
    """Return the sum of a metric over lines, None where no line has it."""
    values = column(rows, name)
    return float(np.nansum(values)) if np.isfinite(values).any() else None


def elapsed_s(run: Run) -> float | None:
    """Return the seconds from the start of the run to its last line."""
    kinds = (run.rollouts, run.updates, run.evals)
    values = np.concatenate([column(rows, names.ELAPSED) for rows in kinds])
    return float(np.nanmax(values)) if np.isfinite(values).any() else None


def _grouped(
    run: Run, name: str, by: str, reduce: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Curve:
    """Reduce the finite values of the updates that have the same `by`."""
    groups, values = column(run.updates, by), column(run.updates, name)
    groups, values = groups[np.isfinite(groups)], values[np.isfinite(groups)]
    keys, place = np.unique(groups, return_inverse=True)
    known = np.isfinite(values)
    order = np.lexsort((values[known], place[known]))
    place, values = place[known][order], values[known][order]
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    reduced = np.full(len(keys), math.nan)
    reduced[place[starts]] = reduce(values, np.append(starts, len(values)))
    return Curve(keys, reduced)


def _medians(values: Float[np.ndarray, " N"], edges: np.ndarray) -> Float[np.ndarray, " G"]:
    """Of each sorted stretch between two edges."""
    sizes = np.diff(edges)
    low, high = edges[:-1] + (sizes - 1) // 2, edges[:-1] + sizes // 2
    return (values[low] + values[high]) / 2


def _largest(values: Float[np.ndarray, " N"], edges: np.ndarray) -> Float[np.ndarray, " G"]:
    return values[edges[1:] - 1]


def _weights(run: Run, name: str) -> Float[np.ndarray, " U"]:
    """Tokens of each update that has this share; 1 where they were not counted."""
    tokens = column(run.updates, names.TOKENS)
    return np.where(np.isfinite(tokens), tokens, 1.0) * np.isfinite(column(run.updates, name))


def _names(rows: Sequence[Row]) -> list[str]:
    if isinstance(rows, Rows):
        return list(rows.columns)
    return list(dict.fromkeys(name for row in rows for name in row))


def _known(value: float) -> float | None:
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
