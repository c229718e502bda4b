"""The two plots that are about clipping: the entropy ratio's spread, and what each rule removes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from erclip.pages import canvas
from erclip.pages.canvas import INK, MUTED, SERIES, Key, run_color
from erclip.pages.cards import LINES, Plot, last_rollout, run_keys
from erclip.pages.hover import Trace, trace
from erclip.runs import names, series, words
from erclip.runs.read import Run

LOG_FROM = 1.5  # an entropy ratio: where the 5–95 % band is wider than this, y is logarithmic
CUT_AT = 30.0  # an entropy ratio: y ends here at the latest


def entropy_ratio(runs: Sequence[Run]) -> Plot | None:
    """Quantiles of the entropy ratio at each update within a rollout."""
    shown = [run for run in runs if series.median_by_step(run, names.RATIO_QUANTILES[50]).drawn]
    if not shown:
        return None
    wide = len(shown) > 1
    with canvas.figure(len(shown), wide=wide, share_y=True) as (fig, axes):
        for ax, run in zip(axes, shown, strict=True):
            _draw_ratio_bands(ax, run, run_color(runs.index(run)))
            if wide:
                ax.set_title(canvas.short(run.label), loc="left")
        scale = _limit_ratio(axes[0], shown)
        axes[0].set_ylabel("entropy ratio ρ = H new / H old")
        svg = canvas.to_svg(fig, "entropy ratio quantiles by update within a rollout")
    caption = (
        "Spread of ρ over tokens at the 1st, 2nd, … update of a rollout; each quantile is the"
        " median over rollouts. Dashed: the band outside which ERC clips. At update 1 nothing has"
        " been learned since the rollout was scored, so what spread there is, is numerical noise."
    )
    caption += scale
    color = SERIES[0] if not wide else MUTED
    legend = (
        Key("median", color),
        Key("25–75 %", color, "inner"),
        Key("5–95 %", color, "middle"),
        Key("1–99 %", color, "outer"),
    )
    if any(erc_band(run) for run in shown):
        legend += (Key("ERC band", INK, "dashed"),)
    return Plot("Entropy ratio within a rollout", caption, svg, legend, wide)


def _draw_ratio_bands(ax: Axes, run: Run, color: str) -> None:
    curves = {q: series.median_by_step(run, name) for q, name in names.RATIO_QUANTILES.items()}
    x = curves[50].x
    # Half an update on both sides, so that a run with one update per rollout has bands, too.
    edges = x if len(x) > 1 else np.array([x[0] - 0.3, x[0] + 0.3])
    for low, high in ((1, 99), (5, 95), (25, 75)):
        bottom, top = (np.broadcast_to(curves[q].y, edges.shape) for q in (low, high))
        canvas.band(ax, edges, bottom, top, color)
        bottom, top = curves[low].y, curves[high].y
        trace(ax, Trace(f"{low}–{high} %", color, curves[50].x, low=bottom, high=top))
    canvas.draw(ax, curves[50], color, label="median")
    for edge in erc_band(run) or ():
        ax.axhline(edge, color=INK, linestyle=(0, (4, 2)), linewidth=1.1)
    canvas.rollout_axis(ax, 1, float(x.max()), "update within a rollout")


def _limit_ratio(ax: Axes, runs: Sequence[Run]) -> str:
    """Choose the scale and bound the axis; return a sentence for the caption where it matters.

    ρ of tokens with H near 0 has no bound, so a wide spread gets a log scale, and the tail beyond
    a factor of 30 is cut off.
    """
    low, high = _reach(runs, 5, 95)
    wide = low < 1 / LOG_FROM or high > LOG_FROM
    low, high = _reach(runs, 1, 99)
    if not wide:
        spare = 0.06 * max(high - low, 0.04)
        ax.set_ylim(min(low, 0.94) - spare, max(high, 1.06) + spare)
        return ""
    canvas.log_axis(ax)
    ax.set_ylim(max(0.9 * low, 1 / CUT_AT), min(1.1 * high, CUT_AT))
    if low >= 1 / CUT_AT and high <= CUT_AT:
        return " Log scale."
    return f" Log scale; the widest band is cut off, it spans {low:.2g} to {high:.3g}."


def _reach(runs: Sequence[Run], low: int, high: int) -> tuple[float, float]:
    """Return the smallest and largest value that these two quantiles have in any run."""
    ends = [
        series.median_by_step(run, names.RATIO_QUANTILES[q]).y for run in runs for q in (low, high)
    ]
    values = np.concatenate(ends)
    return float(np.nanmin(values, initial=1.0)), float(np.nanmax(values, initial=1.0))


def erc_band(run: Run) -> tuple[float, float] | None:
    """Return the entropy ratios between which this run's ERC keeps tokens, None without ERC."""
    erc = constraint(run, "entropy_ratio_clip")
    if erc is None or not {"low", "high"} <= set(erc):
        return None
    return 1 - float(erc["low"]), 1 + float(erc["high"])


def constraint(run: Run, kind: str) -> Mapping[str, Any] | None:
    """Return the settings of the first constraint of this kind, None where there is none."""
    constraints = run.setting("loss", "constraints")
    for settings in constraints if isinstance(constraints, list) else ():
        if isinstance(settings, Mapping) and settings.get("kind") == kind:
            return settings
    return None


@dataclass(frozen=True)
class Rule:
    """One way of clipping: its title, its metrics (all, low side, high side), where it is set."""

    title: str
    metrics: tuple[str, ...]
    noise: bool = False  # whether a noise floor is measured
    used_by: Callable[[Run], bool] = lambda run: True


_AT_RANDOM = ("random_mask", "shuffled_erc")
_SURROGATE = ("loss", "surrogate")
_EVERYWHERE = {  # in every run's metrics, whether its loss has it or not
    "erc": Rule("ERC: entropy ratio", names.ERC, True, lambda run: erc_band(run) is not None),
    "ppo": Rule("surrogate: importance ratio", names.PPO),
    "dual": Rule("dual clip", (), False, lambda run: bool(run.setting(*_SURROGATE, "dual"))),
    "random": Rule(
        "random mask",
        (),
        used_by=lambda run: any(constraint(run, kind) is not None for kind in _AT_RANDOM),
    ),
}


def rules_of(runs: Sequence[Run]) -> list[Rule]:
    """Every rule that some run measured, those of every run first."""
    metrics = {rule: found for run in runs for rule, found in series.rules(run).items()}
    ordered = sorted(metrics, key=lambda rule: (*_EVERYWHERE, rule).index(rule))
    return [
        replace(_EVERYWHERE.get(rule, Rule(words.rule(rule), ())), metrics=metrics[rule])
        for rule in ordered
    ]


def clip_fractions(runs: Sequence[Run]) -> Plot | None:
    """Share of tokens that each rule clips, one panel per rule that ever acted."""
    rules = rules_of(runs)
    acted = [rule for rule in rules if any(_largest(run, rule.metrics[0]) > 0 for run in runs)]
    if not acted:
        return None
    with canvas.figure(len(acted), wide=True) as (fig, axes):
        for ax, rule in zip(axes, acted, strict=True):
            for index, run in enumerate(runs):
                _draw_rule(ax, run, rule, run_color(index), alone=len(runs) == 1)
            ax.set_title(rule.title, loc="left")
            canvas.from_zero(ax)
            canvas.percent_axis(ax)
            canvas.rollout_axis(ax, 1, last_rollout(runs))
        axes[0].set_ylabel("share of tokens")
        svg = canvas.to_svg(fig, "clip fractions")
    idle = [rule.title for rule in rules if rule not in acted and any(map(rule.used_by, runs))]
    caption = _CLIP_CAPTION + (f" Set, but never acted: {', '.join(idle)}." if idle else "")
    return Plot("Clipped tokens", caption, svg, _clip_keys(runs), wide=True)


_CLIP_CAPTION = (
    "Share of response tokens on which each rule acts, pooled over a rollout's updates; each panel"
    " has its own scale. ERC and PPO-clip take the token's gradient away, GPPO bounds it. Noise"
    " floor: what ERC would clip of a rollout's first mini-batch for rounding alone, where the true"
    " entropy ratio is 1; clipping that does not rise above it is noise."
)


def _draw_rule(ax: Axes, run: Run, rule: Rule, color: str, alone: bool) -> None:
    """Draw one run: alone with both sides, beside others only the whole."""
    for name, line in zip(rule.metrics if alone else rule.metrics[:1], LINES, strict=False):
        own = names.side(name) if alone else run.label
        canvas.draw(ax, series.share_by_rollout(run, name), color, line, label=own)
    if rule.noise:
        floor, own = series.noise_floor(run), "noise floor" if alone else f"{run.label}, noise"
        color = SERIES[1] if alone else color
        canvas.draw(ax, floor, color, "solid" if alone else "dashed", label=own)


def _largest(run: Run, name: str) -> float:
    """Return the largest value of a share over the run, −1 where it was never measured."""
    return float(np.nanmax(series.column(run.updates, name), initial=-1.0))


def _clip_keys(runs: Sequence[Run]) -> tuple[Key, ...]:
    has_noise = any(series.noise_floor(run).drawn for run in runs)
    if len(runs) > 1:
        noise = (Key("noise floor", MUTED, "dashed"),) if has_noise else ()
        return run_keys(runs) + noise
    noise = (Key("noise floor", SERIES[1]),) if has_noise else ()
    color = SERIES[0]
    sides = (Key("below the range", color, "dashed"), Key("above the range", color, "dotted"))
    return (Key("all", color), *sides, *noise)
