"""Methods → curves: the mean over seeds, and the difference from the first, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes

from erclip.pages import canvas
from erclip.pages.canvas import INK, Key, run_color
from erclip.pages.cards import Plot
from erclip.pages.hover import Trace, trace
from erclip.runs import series
from erclip.runs.read import Run
from erclip.statistics import estimate, paired


class Runs(Protocol):
    """A method: its name, and its runs by seed."""

    @property
    def label(self) -> str: ...  # noqa: D102

    @property
    def runs(self) -> Mapping[int, Run]: ...  # noqa: D102


def curves(methods: Sequence[Runs], key: tuple[str, int]) -> Plot:
    """Held-out accuracy: the mean over seeds thick, every run thin, the interval as a band."""
    with canvas.figure() as (fig, (ax,)):
        for index, method in enumerate(methods):
            by_rollout = _by_rollout(method, key)
            x = np.array(sorted(by_rollout), dtype=np.float64)
            found = [estimate(list(by_rollout[int(r)].values())) for r in x]
            ends = np.array([e.within(0.0, 1.0)[:3] for e in found]).reshape(-1, 3)
            mean, low, high = ends.T
            color = run_color(index)
            for seed in method.runs if len(method.runs) > 1 else ():
                own = [by_rollout[int(r)].get(seed, np.nan) for r in x]
                canvas.draw(ax, series.Curve(x, np.array(own)), color, "thin")
            canvas.band(ax, x, low, high, color)
            _noted(ax, method.label, color, x, ends)
            canvas.draw(ax, series.Curve(x, mean), color)
        _axes(ax, methods, key)
        ax.set_ylabel(f"avg@{key[1]}")
        svg = canvas.to_svg(fig, f"held-out accuracy on {len(methods)} methods")
    caption = "Thick: mean over seeds; thin: each run; band: 95 % interval over seeds."
    return Plot(f"Held-out accuracy: {canvas.short(key[0])}", caption, svg, _keys(methods))


def differences(methods: Sequence[Runs], key: tuple[str, int]) -> Plot | None:
    """Each method minus the first, paired by seed; None where no two seeds are shared."""
    base = _by_rollout(methods[0], key)
    drawn = False
    with canvas.figure() as (fig, (ax,)):
        ax.axhline(0, color=INK, linewidth=1.0)
        for index, method in enumerate(methods[1:], start=1):
            own = _by_rollout(method, key)
            both = sorted(set(base) & set(own))
            points = [(r, found) for r in both if (found := paired(base[r], own[r])) is not None]
            if not points:
                continue
            drawn = True
            x = np.array([r for r, _ in points], dtype=np.float64)
            ends = np.array([e.within(-1.0, 1.0)[:3] for _, e in points])
            mean, low, high = ends.T
            canvas.band(ax, x, low, high, run_color(index))
            _noted(ax, method.label, run_color(index), x, ends)
            canvas.draw(ax, series.Curve(x, mean), run_color(index))
        if not drawn:
            return None
        _axes(ax, methods, key)
        ax.set_ylabel(f"avg@{key[1]} minus {canvas.short(methods[0].label, 20)}")
        svg = canvas.to_svg(fig, "difference in held-out accuracy")
    caption = "Differences within a seed. Where the band holds 0, no difference is shown."
    title = f"Difference from {canvas.short(methods[0].label)}: {canvas.short(key[0])}"
    return Plot(title, caption, svg, _keys(methods)[1:])


def _noted(ax: Axes, label: str, color: str, x: np.ndarray, ends: np.ndarray) -> None:
    mean, low, high = ends.T
    trace(ax, Trace(label, color, x, mean, low, high))


def _by_rollout(method: Runs, key: tuple[str, int]) -> dict[int, dict[int, float]]:
    """Accuracy by rollout and seed."""
    found: dict[int, dict[int, float]] = {}
    for seed, run in method.runs.items():
        for point in series.evaluations(run).get(key, ()):
            found.setdefault(point.rollout, {})[seed] = point.value
    return found


def _axes(ax: Axes, methods: Sequence[Runs], key: tuple[str, int]) -> None:
    rollouts = [r for method in methods for r in _by_rollout(method, key)]
    canvas.rollout_axis(ax, 0, max(rollouts, default=1), "rollouts trained")


def _keys(methods: Sequence[Runs]) -> tuple[Key, ...]:
    return tuple(Key(method.label, run_color(index)) for index, method in enumerate(methods))
