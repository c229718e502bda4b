"""A study's pictures: a method and those compared with it, side by side in one figure each.

One drawing serves the page and an SVG of its own that a document can hold.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from erclip.diagnostics.seeds import Estimate, estimate
from erclip.files import write_text
from erclip.report import canvas, series
from erclip.report.canvas import Key, run_color
from erclip.report.cards import Plot
from erclip.study.results import Point, Runs, curve, families, read
from erclip.study.rows import Results, Row

BY_SETTING = (
    ("gradient norm", "grad_norm", False),
    ("KL(old‖new), nats/token", "kl_old", False),
    ("clipped by ERC", "clip_erc_frac", True),
)


def study_plots(results: Results) -> dict[str, Plot]:
    """Two figures per family of methods, by file name."""
    drawn = {}
    points = results.curve()
    for family in families(read(results)):
        base = family[0].method.name
        for name, title, caption, draw in (
            (
                "accuracy",
                "held-out accuracy",
                "Left: at the end, by setting; middle: during training at each method's best "
                "setting; right: every run's end against its entropy. Bars and bands: 95 % "
                "intervals over seeds.",
                _accuracy,
            ),
            ("steadiness", "how training went", "Means over updates and seeds.", _steadiness),
        ):
            with canvas.figure(3, wide=True) as (fig, axes):
                draw(axes, family, points)
                keys = tuple(Key(r.method.name, run_color(i)) for i, r in enumerate(family))
                svg = canvas.to_svg(fig, f"{title} of {base} and its variants")
            file = f"{_slug(base)}-{name}.svg"
            drawn[file] = Plot(f"{base}: {title}", caption, svg, keys, wide=True)
    return drawn


def write_plots(plots: Mapping[str, Plot], folder: Path) -> None:
    """Every figure as an SVG of its own, legible in light and dark."""
    for name, plot in plots.items():
        write_text(folder / name, canvas.standalone(plot.svg, plot.legend))


def draw_differences(ax: Axes, rows: Mapping[str, Sequence[Estimate | None]]) -> None:
    """Label → differences with their intervals, one colour each, around a line at 0."""
    ax.axvline(0.0, color=canvas.INK, linewidth=1.0)
    for place, differences in enumerate(rows.values()):
        for index, found in enumerate(differences):
            if found is None:
                continue
            y = place + 0.22 * (index - (len(differences) - 1) / 2)
            color = run_color(index)
            half = 0.0 if math.isnan(found.half) else found.half
            ax.errorbar(found.mean, y, xerr=half, fmt="o", markersize=4, color=color)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def _accuracy(axes: list[Axes], family: Sequence[Runs], points: Mapping[Any, list[Row]]) -> None:
    _by_setting(axes[0], family, "final_accuracy")
    axes[0].set_ylabel("final accuracy")
    for index, runs in enumerate(family):
        by_rollout = curve(points, runs, "accuracy")
        if not by_rollout:
            continue
        x = np.array(sorted(by_rollout), dtype=np.float64)
        share = x / x.max() * 100 if x.max() else x
        values = [estimate(by_rollout[int(r)]) for r in x]
        mean, half = np.array([(e.mean, e.half) for e in values]).T
        canvas.band(axes[1], share, mean - half, mean + half, run_color(index))
        canvas.draw(axes[1], series.Curve(share, mean), run_color(index))
        ends = [
            (float(row["final_entropy"] or "nan"), float(row["final_accuracy"] or "nan"))
            for rows in runs.points.values()
            for row in rows.values()
        ]
        entropy, accuracy = np.array(ends).T
        axes[2].scatter(entropy, accuracy, s=11, color=run_color(index), alpha=0.75, linewidth=0)
    axes[1].set_xlabel("training done, %")
    axes[1].set_ylabel("accuracy")
    axes[2].set_xlabel("entropy at the end, nats/token")
    axes[2].set_ylabel("final accuracy")


def _steadiness(axes: list[Axes], family: Sequence[Runs], points: object) -> None:
    for ax, (label, column, share) in zip(axes, BY_SETTING, strict=True):
        _by_setting(ax, family, column)
        ax.set_ylabel(label)
        if share:
            canvas.from_zero(ax)
            canvas.percent_axis(ax)
        else:
            canvas.log_axis(ax)


def _by_setting(ax: Axes, family: Sequence[Runs], column: str) -> None:
    """A column at every point of the grid; numbers of the last key that varies stand on x."""
    points = list(dict.fromkeys(point for runs in family for point in runs.points))
    axis = _axis(points)
    for index, runs in enumerate(family):
        for others in _others(points, axis):
            own = [p for p in others if p in runs.points]
            found = [runs.estimate(p, column) for p in own]
            kept = [(p, e) for p, e in zip(own, found, strict=True) if e is not None]
            if not kept:
                continue
            x = np.array([_place(p, axis, points) for p, _ in kept], dtype=np.float64)
            x = x * (1 + 0.02 * (index - len(family) / 2)) if axis else x + 0.06 * index
            y = np.array([e.mean for _, e in kept])
            half = np.array([0.0 if math.isnan(e.half) else e.half for _, e in kept])
            canvas.draw(ax, series.Curve(x, y), run_color(index))
            low = np.minimum(half, y * 0.999) if column != "final_accuracy" else half
            ax.errorbar(x, y, [low, half], fmt="none", ecolor=run_color(index), elinewidth=1.1)
    if axis:
        ax.set_xscale("log")
        ticks = sorted({_place(p, axis, points) for p in points})
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel(axis.replace("_", " "))
    else:
        ax.set_xticks([])


def _axis(points: Sequence[Point]) -> str | None:
    """The last key with several positive numbers."""
    for name in reversed([name for name, _ in points[0]]):
        values = {dict(point)[name] for point in points}
        if len(values) > 1 and all(isinstance(v, int | float) and v > 0 for v in values):
            return name
    return None


def _others(points: Sequence[Point], axis: str | None) -> Iterator[list[Point]]:
    """Points that differ in the axis only."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(p for p in point if p[0] != axis), []).append(point)
    yield from groups.values()


def _place(point: Point, axis: str | None, points: Sequence[Point]) -> float:
    return float(dict(point)[axis]) if axis else float(points.index(point))


def _slug(name: str) -> str:
    """A file name in ASCII.

    >>> _slug("GPPO, β 0.05")
    'gppo--beta-0-05'
    """
    plain = (c if c.isascii() else unicodedata.name(c, "-").split()[-1] for c in name)
    return "".join(c if c.isalnum() else "-" for c in "".join(plain)).strip("-").lower()
