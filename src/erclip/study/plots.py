"""A study's pictures: effects and frontiers first, then every family of methods.

One drawing serves the page and an SVG of its own that a document can hold. A family is a method
and those compared with it, side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from erclip.machine.files import write_text
from erclip.pages import canvas
from erclip.pages.cards import Plot
from erclip.pages.hover import Trace, trace
from erclip.runs import series
from erclip.statistics import estimate
from erclip.study.design import NO_RULE, Cell
from erclip.study.figures import effects_plot, frontier_plots, slug, style
from erclip.study.findings import Findings
from erclip.study.outcomes import OUTCOMES, Row, number
from erclip.study.results import Point, Runs, curve, families
from erclip.study.rows import Results
from erclip.study.texts import where

BY_SETTING = (
    ("gradient norm", "grad_norm", False),
    ("KL(old‖new), nats/token", "kl_old", False),
    ("clipped by ERC", "clip_erc_frac", True),
)

BEFORE = {"final_accuracy": "first_accuracy", "final_greedy": "first_greedy"}
"""The same before training, of the outcomes that have it."""


class Pictures(NamedTuple):
    """File name → picture: those that stand before the tables, and those behind them."""

    first: dict[str, Plot]
    rest: dict[str, Plot]


def study_plots(results: Results, findings: Findings) -> Pictures:
    """The effects, a frontier per regime, and two figures per family and regime."""
    first = {**effects_plot(findings), **frontier_plots(findings)}
    curves, rest = results.curve(), breaking_plot(findings)
    for regime, methods in findings.regimes.items():
        for family in families(methods):
            rest.update(_family_plots(family, regime, curves))
    return Pictures(first, rest)


def breaking_plot(findings: Findings) -> dict[str, Plot]:
    """What each regime does to the methods without a rule, setting by setting."""
    regimes, lead = findings.regimes, findings.study.file.outcomes[0]
    bases = [m.name for m in findings.study.methods if m.rule == NO_RULE]
    drawn = {base: [own[base] for own in regimes.values() if base in own] for base in bases}
    drawn = {base: runs for base, runs in drawn.items() if len(runs) > 1}
    if not drawn:
        return {}
    with canvas.figure(len(drawn), wide=len(drawn) > 1, share_y=True) as (fig, axes):
        for ax, (base, runs) in zip(axes, drawn.items(), strict=True):
            before = BEFORE.get(lead, "")
            starts = [own.estimate(point, before) for own in runs for point in own.points]
            start = next((found.mean for found in starts if found), math.nan)
            if not math.isnan(start):
                ax.axhline(start, color=canvas.MUTED, linewidth=1.0, linestyle="--")
            _by_setting(ax, runs, lead)
            ax.set_title(base, loc="left")
            ax.set_ylabel(OUTCOMES[lead].label)
        svg = canvas.to_svg(fig, "what each regime does to the methods without a rule")
    keys = tuple(style(i).key(regime) for i, regime in enumerate(regimes))
    caption = "Means and 95 % intervals over seeds. Dashed: before training."
    return {"breaking.svg": Plot("What each regime breaks", caption, svg, keys, wide=True)}


def write_plots(plots: Mapping[str, Plot], folder: Path) -> None:
    """Every figure as an SVG of its own, legible in light and dark."""
    for name, plot in plots.items():
        write_text(folder / name, canvas.standalone(plot.svg, plot.legend))


def _family_plots(
    family: Sequence[Runs], regime: str, curves: Mapping[Cell, list[Row]]
) -> dict[str, Plot]:
    base = family[0].method.name
    named = f"{base}, {regime}" if regime else base
    points = {runs.method.name: curve(curves, runs, regime, "accuracy") for runs in family}
    drawn = {}
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
            keys = tuple(style(i).key(runs.method.name) for i, runs in enumerate(family))
            svg = canvas.to_svg(fig, f"{title} of {named} and its variants")
        drawn[f"{slug(named)}-{name}.svg"] = Plot(
            f"{named}: {title}", caption, svg, keys, wide=True
        )
    return drawn


def _accuracy(
    axes: list[Axes], family: Sequence[Runs], points: Mapping[str, Mapping[int, list[float]]]
) -> None:
    _by_setting(axes[0], family, "final_accuracy")
    axes[0].set_ylabel("final accuracy")
    for index, runs in enumerate(family):
        by_rollout, own = points[runs.method.name], style(index)
        if not by_rollout:
            continue
        x = np.array(sorted(by_rollout), dtype=np.float64)
        share = x / x.max() * 100 if x.max() else x
        values = [estimate(by_rollout[int(r)]) for r in x]
        mean, half = np.array([(e.mean, e.half) for e in values]).T
        canvas.band(axes[1], share, mean - half, mean + half, own.color)
        trace(axes[1], Trace(runs.method.name, own.color, share, mean, mean - half, mean + half))
        canvas.draw(axes[1], series.Curve(share, mean), own.color, own.line)
        ends = [
            (number(row, "final_entropy"), number(row, "final_accuracy"))
            for rows in runs.points.values()
            for row in rows.values()
        ]
        entropy, accuracy = np.array(ends).T
        trace(axes[2], Trace(runs.method.name, own.color, entropy, accuracy), "point")
        axes[2].scatter(
            entropy, accuracy, s=11, color=own.color, marker=own.marker, alpha=0.75, linewidth=0
        )
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
            own_points = [p for p in others if p in runs.points]
            found = [runs.estimate(p, column) for p in own_points]
            kept = [(p, e) for p, e in zip(own_points, found, strict=True) if e is not None]
            if not kept:
                continue
            x = np.array([_place(p, axis, points) for p, _ in kept], dtype=np.float64)
            x = x * (1 + 0.02 * (index - len(family) / 2)) if axis else x + 0.06 * index
            y = np.array([e.mean for _, e in kept])
            half = np.array([0.0 if math.isnan(e.half) else e.half for _, e in kept])
            own = style(index)
            there = np.array([_place(p, axis, points) for p, _ in kept], dtype=np.float64)
            said = () if axis else [where(p) for p, _ in kept]
            ends = np.array([e[1:3] for _, e in kept]).T
            trace(ax, Trace(runs.method.name, own.color, there, y, *ends, names=said))
            canvas.draw(ax, series.Curve(x, y), own.color, own.line)
            low = np.minimum(half, y * 0.999) if column != "final_accuracy" else half
            ax.errorbar(x, y, [low, half], fmt="none", ecolor=own.color, elinewidth=1.1)
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
        if len(values) > 1 and all(_positive(v) for v in values):
            return name
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _others(points: Sequence[Point], axis: str | None) -> Iterator[list[Point]]:
    """Points that differ in the axis only."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(p for p in point if p[0] != axis), []).append(point)
    yield from groups.values()


def _place(point: Point, axis: str | None, points: Sequence[Point]) -> float:
    return float(dict(point)[axis]) if axis else float(points.index(point))
