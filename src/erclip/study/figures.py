"""The figures that answer a study's question: effect × regime × rule, and the frontiers."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from erclip.pages import canvas
from erclip.pages.canvas import SERIES, Key, Line
from erclip.pages.cards import LINES, Plot
from erclip.pages.hover import Trace, trace
from erclip.statistics import Interval
from erclip.study.design import NO_RULE
from erclip.study.findings import Findings
from erclip.study.frontier import Frontier
from erclip.study.outcomes import OUTCOMES
from erclip.study.pooled import Effect
from erclip.study.results import at_best, interval_of, over_grid
from erclip.study.texts import signed, where

# The palette in an order in which neighbours differ most, in light and in dark.
ORDER = (0, 1, 2, 6, 4, 7, 5, 3)
MARKERS = ("o", "s", "^")

Effects = Mapping[str, Mapping[str, Sequence[Interval | None]]]
"""Label of a row → rule → its difference in each panel."""


class Style(NamedTuple):
    """How a method is drawn; 24 differ."""

    color: str
    line: Line
    marker: str

    def key(self, label: str) -> Key:
        """Its entry in the legend."""
        return Key(label, self.color, self.line)


def style(index: int) -> Style:
    """The style of the method with this index: eight colours, then dashed, then dotted."""
    turn = index // len(ORDER) % len(LINES)
    return Style(SERIES[ORDER[index % len(ORDER)]], LINES[turn], MARKERS[turn])


def styles(rules: Iterable[str]) -> dict[str, Style]:
    """One for each rule, the same on all figures of a study; no rule has the first."""
    return {rule: style(i) for i, rule in enumerate(dict.fromkeys((NO_RULE, *rules)))}


def effects_plot(findings: Findings) -> dict[str, Plot]:
    """Every rule minus no rule, by regime and surrogate, and pooled over them."""
    effects = [effect for effect in findings.pooled if effect.against == NO_RULE]
    if not effects:
        return {}
    rules = [effect.rule for effect in effects]
    label = OUTCOMES[findings.study.file.outcomes[0]].label
    panels = (f"{label}, each at its best setting", f"{label}, mean over the grid")
    svg = draw_effects(_rows(effects), rules, panels)
    caption = (
        "Bars: 95 % intervals over seeds, not corrected for their number. On the line a "
        "rule changes nothing."
    )
    keys = tuple(look.key(rule) for rule, look in styles(rules).items() if rule != NO_RULE)
    return {"effects.svg": Plot("Each rule minus no rule", caption, svg, keys, wide=True)}


def _rows(effects: Sequence[Effect]) -> Effects:
    rows: dict[str, dict[str, Sequence[Interval | None]]] = {}
    for effect in effects:
        for stratum in effect.strata:
            label = ", ".join(filter(None, (stratum.regime, stratum.surrogate)))
            several = len(stratum.own.points) > 1
            own, base, lead = stratum.own, stratum.base, stratum.own.lead
            grid = interval_of(over_grid(own, base, lead)) if several else None
            best = interval_of(at_best(own, base, lead))
            rows.setdefault(label, {})[effect.rule] = (best, grid)
    if len(rows) > 1:
        lead = effects[0].strata[0].own.lead
        pooled = {e.rule: (_estimate(e.outcomes[lead]), e.over_grid) for e in effects}
        return {"all together": pooled, **rows}
    return rows


def _estimate(found: object) -> Interval | None:
    return found if isinstance(found, Interval) else None


def draw_effects(rows: Effects, rules: Sequence[str], panels: Sequence[str]) -> str:
    """Label → rule → differences, a panel for each, around a line at 0; an SVG."""
    with canvas.figure(len(panels), wide=True, share_y=True) as (fig, axes):
        fig.set_figheight(1.1 + len(rows) * max(0.4, 0.14 * len(rules)))
        for index, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            _draw_panel(ax, rows, rules, index)
            ax.set_xlabel(f"difference in {panel}")
        return canvas.to_svg(fig, "differences of the rules from no rule")


def _draw_panel(ax: Axes, rows: Effects, rules: Sequence[str], panel: int) -> None:
    ax.axvline(0.0, color=canvas.INK, linewidth=1.0)
    dots: dict[str, list[tuple[float, float, str]]] = {}
    labels, looks = list(rows), styles(rules)
    for place, found in enumerate(rows.values()):
        for index, rule in enumerate(rules):
            own = found[rule][panel] if rule in found else None
            if own is None:
                continue
            y = place + 0.7 / len(rules) * (index - (len(rules) - 1) / 2)
            half = 0.0 if math.isnan(own.half) else own.half
            look = looks[rule]
            dots.setdefault(rule, []).append((own.mean, y, f"{labels[place]}: {signed(own)}"))
            ax.errorbar(own.mean, y, xerr=half, fmt=look.marker, markersize=4, color=look.color)
    for rule, points in dots.items():
        x, y, said = zip(*points, strict=True)
        trace(ax, Trace(rule, looks[rule].color, x, y, names=said), "point")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def frontier_plots(findings: Findings) -> dict[str, Plot]:
    """A figure per regime, a panel per outcome and surrogate: what is kept over what is gained."""
    drawn = {}
    asked = findings.study.file.frontier
    for regime in asked.kept if asked else ():
        fronts = [own for own in findings.fronts if own.regime == regime]
        if not fronts:
            continue
        shown = {own.rule for own in fronts}
        rules = [effect.rule for effect in findings.pooled if effect.against == NO_RULE]
        looks = styles([*rules, *(own.rule for own in fronts)])
        panels = list(dict.fromkeys((own.outcome, own.surrogate) for own in fronts))
        with canvas.figure(len(panels), wide=len(panels) > 1) as (fig, axes):
            for ax, panel in zip(axes, panels, strict=True):
                for own in fronts:
                    if (own.outcome, own.surrogate) == panel:
                        _draw_front(ax, own, looks[own.rule])
                label = OUTCOMES[panel[0]].label
                ax.set_title(panel[1], loc="left")
                ax.set_xlabel(f"{label}, {asked.gained if asked else ''}")
                ax.set_ylabel(f"{label}, {regime}")
            svg = canvas.to_svg(fig, f"accuracy kept under {regime} over accuracy gained")
        caption = (
            "A dot per setting, means over seeds; a line per method joins those that no other "
            "setting of it beats in both. A rule helps where its lines lie above that of no rule."
        )
        keys = tuple(look.key(rule) for rule, look in looks.items() if rule in shown)
        title = f"The frontier: {regime}"
        wide = len(panels) > 1
        drawn[f"frontier-{slug(regime)}.svg"] = Plot(title, caption, svg, keys, wide)
    return drawn


def _draw_front(ax: Axes, front: Frontier, look: Style) -> None:
    chosen = sorted((s.x, s.y) for s in front.settings if s.front)
    strong = front.rule == NO_RULE
    said = [f"{where(s.point)}: {s.x:.3f}, {s.y:.3f}" for s in front.settings]
    x, y = ([own.x for own in front.settings], [own.y for own in front.settings])
    trace(ax, Trace(front.rule, look.color, x, y, names=said), "point")
    ax.scatter(
        x,
        y,
        s=[22 if s.front else 9 for s in front.settings],
        color=look.color,
        marker=look.marker,
        linewidth=0,
        alpha=0.9,
    )
    ax.plot(
        [x for x, _ in chosen],
        [y for _, y in chosen],
        color=look.color,
        linestyle=canvas.DASHES[look.line],
        linewidth=2.6 if strong else 1.4,
    )


def slug(name: str) -> str:
    """A file name in ASCII.

    >>> slug("GPPO, β 0.05")
    'gppo--beta-0-05'
    """
    plain = (c if c.isascii() else unicodedata.name(c, "-").split()[-1] for c in name)
    return "".join(c if c.isalnum() else "-" for c in "".join(plain)).strip("-").lower()
