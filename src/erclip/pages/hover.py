"""What a picture knows of itself: the values under the pointer, and the words of its alt text.

A drawing function notes a `Trace` for each curve, bar or dot that has a name; the page's script
reads them from the picture's `data-panels`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from erclip.pages.ticks import Ticks, tick

_DESCRIBED = 12  # traces of one picture in its alt text; who wants more has the tables

Near = Literal["x", "point"]


@dataclass(frozen=True)
class Trace:
    """Points with a name. `names` say where a point stands if its x does not."""

    label: str
    color: str
    x: Any
    y: Any = None
    low: Any = None
    high: Any = None
    names: Sequence[str] = field(default=())


class Picture(Figure):
    """A figure that holds its traces, by panel."""

    traces: dict[Axes, list[Trace]]
    near: dict[Axes, Near]

    def __init__(self, *args: Any, **kwargs: Any):
        self.traces, self.near = {}, {}
        super().__init__(*args, **kwargs)


def trace(ax: Axes, found: Trace, near: Near = "x") -> None:
    """Note a trace; asked for by its x, or (of dots that lie anywhere) by the nearest point."""
    if isinstance(ax.figure, Picture):
        ax.figure.traces.setdefault(ax, []).append(found)
        ax.figure.near[ax] = near


def panels_json(fig: Picture) -> str:
    """Every panel's place in the picture, its scales and its values. The figure must be drawn.

    Places are points of the SVG (72 an inch, y down).
    """
    panels = []
    for ax, traces in fig.traces.items():
        whole = (ax.get_tightbbox() or ax.bbox).transformed(fig.transFigure.inverted())
        panels.append(
            {
                "box": _place(fig, ax.get_position()),
                "cell": _place(fig, whole),
                "x": [*map(float, ax.get_xlim()), ax.get_xscale() == "log"],
                "y": [*map(float, ax.get_ylim()), ax.get_yscale() == "log"],
                "percent": _percent(ax),
                "label": _words(ax, "x"),
                "near": fig.near[ax],
                "traces": [_as_json(own) for own in traces],
            }
        )
    return json.dumps(panels, separators=(",", ":"))


def _place(fig: Picture, box: Bbox) -> list[float]:
    """Left, top, right and bottom of a box that is given in shares of the figure."""
    width, height = (72 * inches for inches in fig.get_size_inches())
    ends = (width * box.x0, height * (1 - box.y1), width * box.x1, height * (1 - box.y0))
    return [round(float(end), 1) for end in ends]


def described(fig: Picture, title: str) -> str:
    """The alt text: what the picture shows, curve by curve.

    >>> fig = Picture(); ax = fig.subplots(); _ = ax.set_ylabel("reward"), ax.set_xlabel("rollout")
    >>> trace(ax, Trace("reward", "#00f001", [1, 2, 3], [0.25, 0.5, 0.4]))
    >>> described(fig, "Training reward")
    'Training reward. reward from 0.25 (rollout 1) to 0.4 (rollout 3), highest 0.5 (rollout 2).'
    """
    parts = []
    for ax, traces in fig.traces.items():
        own = [text for t in traces if (text := _line(ax, t))]
        panel = ax.get_title(loc="left") or ax.get_title() or ax.get_ylabel().replace("\n", " ")
        alone = len(own) == 1 and own[0].startswith(panel)
        parts += [text if alone or not panel else f"{panel}: {text}" for text in own]
    rest = len(parts) - _DESCRIBED
    more = f"; and {rest} more" if rest > 0 else ""
    return f"{title}. {'; '.join(parts[:_DESCRIBED])}{more}." if parts else title


def _line(ax: Axes, found: Trace) -> str:
    """One trace in words: of a few named points each, of a curve its ends and what lies beyond."""
    if found.y is None:
        low, high = (
            float(np.asarray(end, dtype=np.float64)[-1]) for end in (found.low, found.high)
        )
        return f"{found.label} {number(low)} to {number(high)} at the last"
    y = np.asarray(found.y, dtype=np.float64)
    x = np.asarray(found.x, dtype=np.float64)
    known = np.isfinite(y)
    if not known.any():
        return ""
    percent, axis = _percent(ax), _words(ax, "x")
    places = np.flatnonzero(known)

    def at(place: int) -> str:
        where = found.names[place] if found.names else f"{axis} {number(float(x[place]))}".strip()
        return f"{number(float(y[place]), percent)} ({where})"

    if found.names:
        name = at if _near(ax) == "x" else lambda place: found.names[place]
        shown = ", ".join(name(int(place)) for place in places[:_DESCRIBED])
        return f"{found.label} {shown}"
    first, last = int(places[0]), int(places[-1])
    if first == last:
        return f"{found.label} {at(first)}"
    words = f"{found.label} from {at(first)} to {at(last)}"
    for word, place in (("lowest", np.nanargmin(y)), ("highest", np.nanargmax(y))):
        if y[place] not in (y[first], y[last]):
            words += f", {word} {at(int(place))}"
    return words


def _near(ax: Axes) -> Near:
    return ax.figure.near[ax] if isinstance(ax.figure, Picture) else "x"


def number(value: float, percent: bool = False) -> str:
    """A value with three digits that count, four at most.

    >>> number(0.37654), number(0.16, percent=True), number(12345.6), number(-2e-7)
    ('0.377', '16 %', '12,346', '−2e-07')
    """
    if not math.isfinite(value):
        return "–"
    value = 100 * value if percent else value
    unit = " %" if percent else ""
    if value and abs(value) < 1e-4:
        return f"{value:.3g}".replace("-", "−", 1) + unit
    size = math.floor(math.log10(abs(value))) if value else 0
    text = tick(value, max(0, 2 - size))
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


def _as_json(found: Trace) -> dict[str, Any]:
    row: dict[str, Any] = {"label": found.label, "color": found.color}
    for name in ("x", "y", "low", "high"):
        values = getattr(found, name)
        if values is not None:
            row[name] = [_short(value) for value in np.asarray(values, dtype=np.float64).tolist()]
    if found.names:
        row["names"] = list(found.names)
    return row


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _percent(ax: Axes) -> bool:
    formatter = ax.yaxis.get_major_formatter()
    return isinstance(formatter, Ticks) and formatter.percent


def _words(ax: Axes, axis: str) -> str:
    """The label of x, which in stacked panels only the last one has."""
    label = ax.get_xlabel()
    if not label and isinstance(ax.figure, Figure):
        label = next((own.get_xlabel() for own in ax.figure.axes if own.get_xlabel()), "")
    return label
