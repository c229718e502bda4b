"""Ledger → pictures: shares by band, by entropy, ρ against r, and the 2×2."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes

from erclip.diagnostics import what_if
from erclip.diagnostics.what_if import Decision
from erclip.pages import canvas
from erclip.pages.canvas import INK, MUTED, SERIES, Key
from erclip.pages.cards import Plot
from erclip.pages.hover import Trace, trace
from erclip.pages.ticks import Ticks
from erclip.runs.ledger import Ledger

ERC_COLOR, PPO_COLOR, BOTH_COLOR = SERIES[0], SERIES[1], SERIES[3]
_POINTS = 4_000  # of a scatter: more of them make a heavy page, and hide each other
_REACH = 20.0  # a ratio or its inverse: points beyond are drawn at the edge


def share_by_band(ledger: Ledger, band: tuple[float, float], min_entropy_change: float) -> Plot:
    """Share of tokens that a symmetric band of each width would clip, by both rules."""
    widths = np.geomspace(0.005, 1.0, 28)
    with canvas.figure() as (fig, (ax,)):
        for rule, color in zip(("paper", "directional"), (ERC_COLOR, SERIES[2]), strict=True):
            found = [what_if.erc_decision(ledger, b, b, rule, min_entropy_change) for b in widths]
            shares = [float(decision.clipped.double().mean()) for decision in found]
            trace(ax, Trace(f"{rule} rule", color, widths, shares))
            ax.plot(widths, shares, color=color, linewidth=1.8)
        for width in set(band):
            ax.axvline(width, color=INK, linestyle=(0, (4, 2)), linewidth=1.1)
        ax.set_xscale("log")
        ax.set_xticks([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
        ax.xaxis.set_major_formatter(Ticks())
        ax.xaxis.set_minor_locator(canvas.NullLocator())
        ax.set_xlabel("band β: ρ may leave 1 by this much")
        ax.set_ylabel("share of tokens clipped")
        canvas.from_zero(ax)
        canvas.percent_axis(ax)
        svg = canvas.to_svg(fig, "share of tokens clipped by width of the band")
    keys = (
        Key("paper's rule", ERC_COLOR),
        Key("directional rule", SERIES[2]),
        Key("this run's band", INK, "dashed"),
    )
    caption = "Both rules on the same tokens, with other bands than the one trained with"
    caption += f"; none clips where H moved by less than {min_entropy_change:g} nats."
    caption = caption if min_entropy_change else f"{caption.partition(';')[0]}."
    return Plot("What another band would clip", caption, svg, keys)


def by_entropy(ledger: Ledger, erc: Decision, ppo: Decision) -> Plot:
    """Clipped shares in every bin of the old entropy, and how many tokens it holds."""
    levels = what_if.by_entropy(ledger.measures["old_entropy"], erc.clipped, ppo.clipped)
    keys = (
        Key("of all tokens, in this bin", MUTED, "area"),
        Key("of the bin, clipped by ERC", ERC_COLOR, "area"),
        Key("… past the clip range", PPO_COLOR, "area"),
    )
    with canvas.figure() as (fig, (ax,)):
        series = ([lv.share for lv in levels], *zip(*(lv.clipped for lv in levels), strict=True))
        bins = [f"{level.label} nats" for level in levels]
        for place, (shares, key) in enumerate(zip(series, keys, strict=True)):
            canvas.bars(ax, 0.27 * (place - 1), shares, key.color, key.label, bins)
        entropy_bins(ax, "entropy of the old policy (nats)")
        ax.set_ylabel("share")
        canvas.percent_axis(ax)
        svg = canvas.to_svg(fig, "clipped shares by entropy")
    caption = "A ratio of two small entropies is large easily: look at the lowest bins first."
    return Plot("Clipped by entropy", caption, svg, keys)


def scatter(
    ledger: Ledger,
    erc: Decision,
    ppo: Decision,
    band: tuple[float, float],
    clip: tuple[float, float],
) -> Plot:
    """ρ against r, a token a dot, coloured by what clips it."""
    gap = ledger.measures["new_logprob"] - ledger.measures["old_logprob"]
    ratio, rho = gap.exp().numpy(), what_if.entropy_ratios(ledger).numpy()
    chosen = torch.randperm(len(ledger), generator=torch.Generator().manual_seed(0))[:_POINTS]
    outcomes = erc.clipped.int() + 2 * ppo.clipped.int()
    kinds = (("kept", MUTED), ("ERC", ERC_COLOR), ("range", PPO_COLOR), ("both", BOTH_COLOR))
    counts = [f"{name} {int((outcomes == i).sum()):,}" for i, (name, _) in enumerate(kinds)]
    with canvas.figure() as (fig, (ax,)):
        for outcome, (_, color) in enumerate(kinds):
            own = chosen[outcomes[chosen] == outcome].numpy()
            x, y = (np.clip(v[own], 1 / _REACH, _REACH) for v in (ratio, rho))
            size, alpha = (8, 0.9) if outcome > 1 else (5, 0.5)  # the rare ones on top
            ax.plot(x, y, ".", color=color, markersize=size, alpha=alpha, markeredgewidth=0)
        for line, edges in ((ax.axhline, band), (ax.axvline, clip)):
            for edge in (1 - edges[0], 1 + edges[1]):
                if edge > 0:
                    line(edge, color=INK, linestyle=(0, (4, 2)), linewidth=0.9)
        _log_from_one(ax, ratio, rho)
        ax.set_xlabel("importance ratio r of the sampled token")
        ax.set_ylabel("entropy ratio ρ")
        title = "entropy ratio against importance ratio, a token a dot"
        svg = canvas.to_svg(fig, f"{title}. Tokens: {', '.join(counts)}")
    shown = min(_POINTS, len(ledger))
    keys = tuple(Key(name, color, "dot") for name, color in kinds)
    caption = f"{shown:,} of {len(ledger):,} tokens, drawn at random. Dashed: band and clip range."
    return Plot("Entropy ratio against importance ratio", caption, svg, keys)


def quadrants(ledger: Ledger, erc: Decision, ppo: Decision) -> Plot:
    """Clipped shares by sign of A and direction of the entropy."""
    cells = what_if.quadrants(ledger, erc, ppo)
    x, labels = np.arange(len(cells)), [cell.label for cell in cells]
    kinds = (
        ("ERC clips", ERC_COLOR, [cell.erc for cell in cells]),
        ("the range clips", PPO_COLOR, [cell.ppo for cell in cells]),
        ("both clip", BOTH_COLOR, [cell.both for cell in cells]),
    )
    with canvas.figure() as (fig, (ax,)):
        for place, (name, color, shares) in enumerate(kinds):
            bars = canvas.bars(ax, 0.27 * (place - 1), shares, color, name, labels)
            ax.bar_label(bars, [f"{100 * s:.2g}" for s in shares], fontsize=8, padding=1)
        ax.set_xticks(x, [f"{c.label}\n{100 * c.share:.0f} % of tokens" for c in cells])
        ax.grid(axis="x", visible=False)
        ax.set_ylabel("share of these tokens")
        canvas.from_zero(ax)
        canvas.percent_axis(ax)
        svg = canvas.to_svg(fig, "clipped shares by advantage and direction of entropy")
    keys = tuple(Key(name, color, "area") for name, color, _ in kinds)
    caption = "Tokens whose entropy did not change, or whose advantage is 0, are left out."
    return Plot("ERC against the clip range", caption, svg, keys)


def entropy_bins(ax: Axes, label: str) -> None:
    """Let x be the bins of `what_if.by_entropy`: bin i around i, their edges as ticks."""
    edges = what_if.ENTROPY_EDGES[1:-1]
    ax.set_xticks(np.arange(len(edges)) + 0.5, [f"{edge:g}" for edge in edges])
    ax.set_xlim(-0.6, len(edges) + 0.6)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel(label)


def _log_from_one(ax, *values: np.ndarray) -> None:
    """Log axes that reach as far from 1 in both directions, with plain numbers."""
    ticks = np.array([0.05, 0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10, 20])
    for axis, ratios in zip((ax.xaxis, ax.yaxis), values, strict=True):
        far = np.exp(np.quantile(np.abs(np.log(np.clip(ratios, 1e-9, 1e9))), 0.999))
        far = float(np.clip(1.05 * far, 1.4, 1.1 * _REACH))
        axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (1 / far, far)})
        axis.set_minor_locator(canvas.NullLocator())
        shown = ticks[(ticks >= 1 / far) & (ticks <= far)]
        axis.set_ticks(shown, [f"{tick:g}" for tick in shown])
