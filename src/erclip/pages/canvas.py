"""Figures as inline SVG that follows the page: colours are CSS variables, text is text.

matplotlib draws with stand-in colours, each of which becomes `var(--name)` in the SVG; so one
picture is legible in light and dark. Nothing here touches pyplot or its global state.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.container import BarContainer
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from erclip.pages.hover import Picture, Trace, described, panels_json, trace
from erclip.pages.ticks import Ticks
from erclip.runs.series import Curve, thinned

Line = Literal["solid", "dashed", "dotted", "thin", "dot", "area", "inner", "middle", "outer"]

SERIES = tuple(f"#00f0{index:02x}" for index in range(1, 9))  # one per run, or per part
INK, MUTED, GRID = "#00f011", "#00f012", "#00f013"
_VARIABLES = {
    **{color: f"var(--series-{index})" for index, color in enumerate(SERIES, start=1)},
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
}
DASHES = {"solid": "-", "dashed": (0, (4, 2)), "dotted": (0, (1, 1.5)), "thin": "-"}
_SWATCH = {"dashed": ' stroke-dasharray="5 2"', "dotted": ' stroke-dasharray="2 1.5"'}
_HALF_WIDTH, _FULL_WIDTH = 5.6, 11.6  # inches: a card of one column, a card of two
_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = re.compile(r"(?:@media \(prefers-color-scheme: dark\) \{\s*)?:root \{[^}]*\}(?:\s*\})?")
STEPS = (1, 2, 2.5, 5, 10)  # between ticks
HOVERED = 400  # points of a curve whose values can be asked for
_MARKERS_UP_TO = 30  # points: a curve with more of them is drawn without markers


@dataclass(frozen=True)
class Key:
    """One entry of a legend, which the page draws in HTML beside the picture."""

    label: str
    color: str
    line: Line = "solid"

    @property
    def variable(self) -> str:
        """Return the colour as the page's CSS knows it."""
        return _VARIABLES[self.color]


def run_color(index: int) -> str:
    """Return the colour of the run with this index; eight runs have one each."""
    return SERIES[index % len(SERIES)]


@contextmanager
def figure(
    panels: int = 1, wide: bool = False, stacked: bool = False, share_y: bool = False
) -> Generator[tuple[Picture, list[Axes]]]:
    """Yield a figure with this many panels, side by side (at most 3 in a row) or stacked."""
    columns = 1 if stacked else min(panels, 3)
    rows = math.ceil(panels / columns)
    height = 3.0 if stacked else 3.0 * rows
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "svg.fonttype": "none",
        "svg.hashsalt": "erclip",
        "path.simplify": True,
    }
    with mpl.rc_context(style):
        size = (_FULL_WIDTH if wide else _HALF_WIDTH, height)
        fig = Picture(figsize=size, dpi=72, layout="constrained")  # the SVG's own dpi
        FigureCanvasSVG(fig)
        grid = fig.subplots(rows, columns, squeeze=False, sharex=stacked, sharey=share_y)
        axes = list(grid.flat)
        for ax in axes:
            ax.xaxis.set_major_locator(MaxNLocator(6 if columns > 2 else 8, steps=STEPS))
            ax.xaxis.set_major_formatter(Ticks())
            ax.yaxis.set_major_formatter(Ticks())
            ax.tick_params(labelleft=True)  # of shared axes, too: a panel may stand alone
        for unused in axes[panels:]:
            unused.set_visible(False)
        yield fig, axes[:panels]


def to_svg(fig: Picture, label: str) -> str:
    """Return the figure as an `<svg>` element in the page's colours.

    It says what it shows to who cannot see it, and holds the values that the pointer asks for.
    """
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    if layout := fig.get_layout_engine():
        layout.execute(fig)
        fig.set_layout_engine(None)  # with one, savefig draws everything twice
    fig.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = _recolored(svg)
    says = escape(described(fig, label))
    values = _recolored(escape(panels_json(fig)))
    return svg.replace("<svg", f'<svg role="img" aria-label="{says}" data-panels="{values}"', 1)


def _recolored(svg: str) -> str:
    """With the page's colours in the place of the stand-ins."""
    return re.sub(r"#00f0[01][0-9a-f]", lambda match: _VARIABLES[match[0]], svg)


def standalone(svg: str, legend: Sequence[Key] = ()) -> str:
    """Return a figure as a document of its own: the page's colours, light and dark, and a legend.

    The legend stands in lines above the picture, as wide as the picture allows.
    """
    left, top, width, height = (float(n) for n in re.findall(r'viewBox="([^"]+)"', svg)[0].split())
    x, y, marks = left + 8.0, top + 12.0, []
    for key in legend:
        room = 26 + 5.6 * len(key.label)
        if x > left + 8 and x + room > left + width:
            x, y = left + 8.0, y + 14
        marks.append(
            f'<line x1="{x:g}" y1="{y - 4:g}" x2="{x + 12:g}" y2="{y - 4:g}" stroke-width="3" '
            f'stroke="{key.variable}"{_SWATCH.get(key.line, "")}/>'
            f'<text x="{x + 16:g}" y="{y:g}" font-size="9" fill="var(--ink)" '
            f'font-family="DejaVu Sans, sans-serif">{escape(key.label)}</text>'
        )
        x += room
    raised = y - top + 8 if legend else 0.0
    style = "".join(_STYLE.findall((_TEMPLATES / "style.css").read_text(encoding="utf-8")))
    box = f'viewBox="{left:g} {top:g} {width:g} {height + raised:g}"'
    inner = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {box}>'
        f"<style>{style}</style>"
        f'<rect x="{left:g}" y="{top:g}" width="100%" height="100%" fill="var(--page)"/>'
        f'{"".join(marks)}<g transform="translate(0 {raised:g})">{inner}</g></svg>\n'
    )


def draw(
    ax: Axes, curve: Curve, color: str, line: Line = "solid", label: str | None = None
) -> None:
    """Draw one curve: gaps at NaN, a dot where a point stands alone, no smoothing.

    Of many points those are drawn that the eye would see: every extreme is among them. The values
    of a curve with a label can be asked for.
    """
    if label is not None:
        trace(ax, Trace(label, color, *thinned(curve, HOVERED)))
    curve = thinned(curve)
    finite = np.isfinite(curve.y)
    beside = np.zeros_like(finite)
    beside[1:] |= finite[:-1]
    beside[:-1] |= finite[1:]
    thin = line == "thin"
    few = finite.sum() <= _MARKERS_UP_TO and not thin
    ax.plot(
        curve.x,
        curve.y,
        color=color,
        linestyle=DASHES[line],
        linewidth=0.7 if thin else 1.8,
        alpha=0.45 if thin else 1.0,
        clip_on=False,  # a dot on the edge is drawn whole
        marker="o",
        markersize=3.2 if few else 2.4,
        markevery=(finite & (few | ~beside)).nonzero()[0].tolist(),
    )


def band(
    ax: Axes,
    x: Float[np.ndarray, " N"],
    low: Float[np.ndarray, " N"],
    high: Float[np.ndarray, " N"],
    color: str,
    label: str | None = None,
) -> None:
    """Fill between two curves; bands inside each other add up (CSS: i.inner, i.middle, i.outer).

    A band with the label of a curve is its interval.
    """
    bottom, top = thinned(Curve(x, low)), thinned(Curve(x, high))
    if len(x) > len(bottom.x):  # thinned at different places
        x = np.union1d(bottom.x, top.x)
        low, high = np.interp(x, *bottom), np.interp(x, *top)
    if label is not None:
        trace(ax, Trace(label, color, x, low=low, high=high))
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def bars(
    ax: Axes,
    place: float,
    heights: Sequence[float],
    color: str,
    label: str,
    names: Sequence[str],
    width: float = 0.27,
) -> BarContainer:
    """Draw a bar at each of the places 0, 1, …, moved by `place`; `names` are those of the places.

    A height that is NaN has no bar.
    """
    x, y = np.arange(len(heights)), np.asarray(heights, dtype=np.float64)
    trace(ax, Trace(label, color, x, y, names=names))
    return ax.bar(x + place, np.nan_to_num(y), width=width, color=color)


def rollout_axis(ax: Axes, first: float, last: float, label: str | None = "rollout") -> None:
    """Let x count whole rollouts, from `first` to `last`, with half a rollout or 2 % to spare."""
    spare = max(0.5, 0.02 * (last - first))
    ax.set_xlim(first - spare, last + spare)
    ticks = MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    ax.xaxis.set_major_locator(ticks)
    if label:
        ax.set_xlabel(label)


def from_zero(ax: Axes) -> None:
    """Let y start at 0, and reach at least a little above it, so that all-zero curves show."""
    top = ax.dataLim.y1
    ax.set_ylim(0, 1.08 * top if top > 0 else 1)


def log_axis(ax: Axes) -> None:
    """Make y logarithmic, with plain numbers at its ticks; zeros are left out.

    The axis starts where the data do, but at most five decades below their top: a few values that
    are zero but for rounding would otherwise flatten everything else.
    """
    if not math.isfinite(ax.dataLim.minposy):
        return  # zeros alone: nothing of a logarithm
    ax.set_yscale("log", nonpositive="mask")
    ax.yaxis.set_major_formatter(Ticks())
    high = ax.dataLim.y1
    low = max(ax.dataLim.minposy, 1e-5 * high)
    ax.set_ylim(0.7 * low, 1.4 * high)
    steps = (1.0, 2.0, 5.0) if high < 300 * low else (1.0,)
    ax.yaxis.set_major_locator(LogLocator(subs=steps))
    ax.yaxis.set_minor_locator(NullLocator())


def percent_axis(ax: Axes) -> None:
    """Write the ticks of a share as percent."""
    ax.yaxis.set_major_formatter(Ticks(percent=True))


def short(text: str, length: int = 40) -> str:
    """Return a text that fits above a panel, cut in the middle.

    >>> short("a-very-long-name", 9)
    'a-ve…name'
    """
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
