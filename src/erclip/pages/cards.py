"""What every plot is made of: the card, and the two shapes that most plots have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erclip.pages import canvas
from erclip.pages.canvas import MUTED, Key, Line, run_color
from erclip.pages.hover import Trace, trace
from erclip.runs import series
from erclip.runs.read import Run

LINES: tuple[Line, ...] = ("solid", "dashed", "dotted")  # the first, second, third of a kind
LOG_FROM = 20  # times the median: from here on, a linear axis hides everything but the peak
NO_CURVE = series.Curve(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Plot:
    """One card of the report. `wide` takes the whole width of the page."""

    title: str
    caption: str
    svg: str
    legend: tuple[Key, ...]
    wide: bool = False


def per_update(
    runs: Sequence[Run], title: str, name: str, label: str, caption: str, per_rollout: bool = False
) -> Plot | None:
    """Draw a metric of the updates: each rollout's median (or own value) thick, extremes thin.

    Thin is every update of a single run; of several, each rollout's largest, or nothing beside a
    rollout's own value, so that the runs can be told apart.
    """
    thick = [series.by_rollout(run, name) if per_rollout else NO_CURVE for run in runs]
    medians = [series.median_by_rollout(run, name) for run in runs]
    thick = [own if own.drawn else median for own, median in zip(thick, medians, strict=True)]
    each = [series.by_update(run, name) for run in runs]
    thin = each if len(runs) == 1 else [series.largest_by_rollout(run, name) for run in runs]
    if per_rollout and len(runs) > 1:
        thin = [NO_CURVE] * len(runs)
    if not any(curve.drawn for curve in (*each, *thick)):
        return None
    with canvas.figure() as (fig, (ax,)):
        for index, (lower, upper) in enumerate(zip(thin, thick, strict=True)):
            canvas.draw(ax, lower, run_color(index), "thin")
            own = runs[index].label if len(runs) > 1 else title
            canvas.draw(ax, upper, run_color(index), label=own)
            if not per_rollout and len(runs) == 1:
                most = series.largest_by_rollout(runs[index], name)
                trace(ax, Trace("largest of the rollout", run_color(index), *most))
        values = np.concatenate([curve.y for curve in each])
        positive = values[np.isfinite(values) & (values > 0)]
        if len(positive) and positive.max() > LOG_FROM * np.median(positive):
            canvas.log_axis(ax)
            caption += f" Log scale: the largest value is over {LOG_FROM} times the median."
        else:
            canvas.from_zero(ax)
        ax.set_ylabel(label)
        canvas.rollout_axis(ax, 1, last_rollout(runs))
        svg = canvas.to_svg(fig, title)
    line = "the policy that sampled" if per_rollout else "median of a rollout's updates"
    caption += f" Line: {line}"
    if any(curve.drawn for curve in thin):
        caption += f"; thin: {'each update' if len(runs) == 1 else 'the largest'}"
    caption += "."
    return Plot(title, caption, svg, run_keys(runs))


@dataclass(frozen=True)
class Panel:
    """One of several panels above each other: metrics of the rollouts, each with its own dash."""

    label: str
    metrics: tuple[tuple[str, str], ...]  # name, words for the legend
    zero: bool = False
    percent: bool = False


def stacked(runs: Sequence[Run], title: str, panels: Sequence[Panel], caption: str) -> Plot | None:
    """Draw metrics of the rollouts, one panel above the other on one x axis."""

    def drawn(panel: Panel) -> bool:
        return any(series.by_rollout(run, name).drawn for run in runs for name, _ in panel.metrics)

    panels = [panel for panel in panels if drawn(panel)]
    if not panels:
        return None
    with canvas.figure(len(panels), stacked=True) as (fig, axes):
        for ax, panel in zip(axes, panels, strict=True):
            for index, run in enumerate(runs):
                for (name, words), line in zip(panel.metrics, LINES, strict=False):
                    own = words if len(runs) == 1 else run.label
                    own += f", {words}" if len(runs) > 1 and len(panel.metrics) > 1 else ""
                    curve = series.by_rollout(run, name)
                    canvas.draw(ax, curve, run_color(index), line, label=own)
            ax.set_ylabel(panel.label)
            if panel.percent:
                canvas.percent_axis(ax)
            if panel.zero:
                canvas.from_zero(ax)
            canvas.rollout_axis(ax, 1, last_rollout(runs), None)
        axes[-1].set_xlabel("rollout")
        fig.align_ylabels(axes)
        svg = canvas.to_svg(fig, title)
    color = MUTED if len(runs) > 1 else run_color(0)
    dashes = [
        Key(f"{words} ({panel.label})", color, line)
        for panel in panels
        if len(panel.metrics) > 1
        for (_, words), line in zip(panel.metrics, LINES, strict=False)
    ]
    return Plot(title, caption, svg, (*run_keys(runs), *dashes))


def run_keys(runs: Sequence[Run]) -> tuple[Key, ...]:
    """Return one key per run; a single run needs none."""
    keys = tuple(Key(run.label, run_color(index)) for index, run in enumerate(runs))
    return keys if len(keys) > 1 else ()


def last_rollout(runs: Sequence[Run]) -> float:
    """Return the number of the last rollout that any run reached, at least 1."""
    columns = [series.column(r, "rollout") for run in runs for r in (run.rollouts, run.updates)]
    return float(max(np.nanmax(np.concatenate(columns), initial=1.0), 1.0))
