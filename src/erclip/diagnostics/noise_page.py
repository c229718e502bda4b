"""Noise floors → tables, plots and a recommendation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from erclip.diagnostics import what_if
from erclip.diagnostics.ledger_plots import entropy_bins
from erclip.diagnostics.noise_floor import Floor, Measured, Plan
from erclip.pages import canvas
from erclip.pages.canvas import MUTED, SERIES, Key
from erclip.pages.cards import Plot
from erclip.pages.sheet import Sheet, Table, percent
from erclip.student import t_quantile

TOLERATED = 0.01  # of all tokens, clipped falsely
_CHANGES = tuple(m * 10.0**e for e in range(-5, 1) for m in (1, 2, 5))  # nats
_SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
_COLORS = (*SERIES[:5], SERIES[6], SERIES[7])
_WHAT = {
    "same": "the same pass again",
    "batch": "one sequence at a time",
    "padding": "padded in front",
    "packing": "packed into one row",
    "sampler": "token by token with a cache",
    "rounding": "embeddings moved by one unit in the last place, as a run in training measures",
    "update": "weights nudged",
}


def noise_sheet(path: str, measured: Measured, plan: Plan) -> Sheet:
    """Everything that was measured about one model, and what to do about it."""
    floors = [floor for pair in _pairs(measured.floors) for floor in pair]
    tokens = len(floors[0].erc) if floors else 0
    return Sheet(
        title=f"Noise floor of {path}",
        sentences=[
            f"{tokens:,} sampled tokens, each scored twice at the same weights; band "
            f"−{plan.band[0]:g}/+{plan.band[1]:g}, clip range −{plan.clip[0]:g}/+{plan.clip[1]:g}.",
            *measured.notes,
            *recommendation(measured, plan),
        ],
        plots=[plot for pair in _pairs(floors) for plot in _plots(pair)],
        tables=[_summary(floors, measured.lengths), *_by_entropy(floors)],
    )


def recommendation(measured: Measured, plan: Plan) -> list[str]:
    """A sentence per precision: whether its noise matters, and which remedy would end it."""
    sentences = []
    pairs = _pairs(measured.floors)
    for pair in pairs:
        passes = [floor for floor in pair if floor.layout != "rounding"] or pair  # it is no pass
        worst = max(passes, key=lambda floor: _share(floor.erc))
        name = _name(pair[0])
        if _share(worst.erc) <= TOLERATED:
            rate = f"at most {percent(_share(worst.erc))} of tokens ({worst.layout})"
            rate = rate if worst.erc.any() else "no token"
            sentences.append(f"{name}: {rate} clipped falsely; no remedy needed.")
            continue
        sentence = (
            f"{name}: {_with_spread(worst.erc, measured.lengths)} of tokens clipped falsely"
            f" ({worst.layout}); a band of ±{_needed_band(worst):.2g} would hold 99 % of them"
        )
        change = _needed_change(worst)
        if change is not None:
            narrow = _share(worst.old.entropies * max(plan.band) < change)
            sentence += (
                f", or keep the band and set min_entropy_change = {change:g} (the wider of the two"
                f" for {percent(narrow, 0)} of tokens)"
            )
        sentences.append(f"{sentence}.")
    best = min(pairs, key=lambda pair: max(_share(f.erc) for f in pair), default=None)
    if best and len(pairs) > 1:
        sentences.append(f"Least noise: {_name(best[0])}.")
    return sentences


def _needed_band(floor: Floor) -> float:
    """The β outside which 1 % of the tokens lie, of those a higher precision keeps or all."""
    return float(torch.quantile((floor.rho - 1).abs().double(), 1 - TOLERATED))


def _needed_change(floor: Floor) -> float | None:
    """The smallest min_entropy_change (nats) that leaves at most 1 % clipped falsely."""
    change = (floor.new.entropies - floor.old.entropies).abs()
    for limit in _CHANGES:
        if _share(floor.erc & (change >= limit)) <= TOLERATED:
            return limit
    return None


def _pairs(floors: Sequence[Floor]) -> list[list[Floor]]:
    """The floors of each precision of trunk and head, in order."""
    groups: dict[tuple[str, str], list[Floor]] = {}
    for floor in floors:
        groups.setdefault((floor.dtype, floor.head), []).append(floor)
    return list(groups.values())


def _name(floor: Floor) -> str:
    return f"{floor.dtype} trunk, {_head_name(floor)} head"


def _head_name(floor: Floor) -> str:
    return "float32" if floor.head == "float32" else floor.dtype


def _share(flags: torch.Tensor) -> float:
    return float(flags.double().mean())


def _with_spread(flags: torch.Tensor, lengths: Sequence[int]) -> str:
    """A share of tokens with half of its 95 % interval; responses are drawn, tokens are not.

    p = Σx/Σn over responses with x of n tokens flagged, sd² = R/(R−1) · Σ(x − p·n)² / (Σn)².
    """
    share = _share(flags)
    hits = [int(part.sum()) for part in flags.split(list(lengths))]
    if not any(hits) or len(hits) < 2:
        return percent(share)
    squares = sum((x - share * n) ** 2 for x, n in zip(hits, lengths, strict=True))
    error = (len(hits) / (len(hits) - 1) * squares) ** 0.5 / sum(lengths)
    return f"{100 * share:.2f} ± {100 * t_quantile(len(hits) - 1) * error:.2f} %"


def _summary(floors: Sequence[Floor], lengths: Sequence[int]) -> Table:
    rows = [
        (
            *_words(floor),
            f"{floor.logprob_gap:.2g}",
            _with_spread(floor.erc, lengths),
            _with_spread(floor.ppo, lengths),
            percent(floor.true_erc) if floor.layout == "update" else "–",
        )
        for floor in floors
    ]
    passes = [f"{name}: {_WHAT[name]}" for name in dict.fromkeys(f.layout for f in floors)]
    return Table(
        "Clipped falsely",
        ("trunk", "head", "second pass", "|Δ log π|", "ERC", "clip range", "truly ERC"),
        rows,
        f"The first pass is the trainer's: padded at the end. The second: {'; '.join(passes)}."
        " |Δ log π|: mean, in nats. ±: half of the 95 % interval over responses. “update” keeps the"
        " layout and nudges every weight by 0.1 %, rounded to its dtype: false is what a higher"
        " precision does not clip for the same two sets of weights, “truly” what it does.",
        labels=3,
    )


def _by_entropy(floors: Sequence[Floor]) -> list[Table]:
    """One table for the band, one for the clip range; what clipped nothing is left out."""

    def table(title: str, flags: Callable[[Floor], torch.Tensor]) -> Table:
        rows = []
        for floor in floors:
            if flags(floor).any():
                levels = what_if.by_entropy(floor.old.entropies, flags(floor))
                rows.append((*_words(floor), *(percent(lv.clipped[0], 1) for lv in levels)))
        labels = [level.label for level in what_if.by_entropy(torch.zeros(0))]
        caption = (
            "Share of the tokens whose first-pass entropy (nats) lies in the column. What is not"
            " listed clipped nothing."
        )
        return Table(title, ("trunk", "head", "second pass", *labels), rows, caption, labels=3)

    tables = [
        table("False ERC clips by entropy", lambda floor: floor.erc),
        table("False clips of the importance ratio by entropy", lambda floor: floor.ppo),
    ]
    return [table for table in tables if table.rows]


def _words(floor: Floor) -> tuple[str, str, str]:
    return _SHORT[floor.dtype], _SHORT[_head_name(floor)], floor.layout


def _plots(pair: Sequence[Floor]) -> list[Plot]:
    """False clips by entropy: one card for the band, one for the clip range, where any."""
    cards = (
        ("ERC", [floor.erc for floor in pair]),
        ("clip range", [floor.ppo for floor in pair]),
    )
    return [_plot(pair, rule, flags) for rule, flags in cards if any(f.any() for f in flags)]


def _plot(pair: Sequence[Floor], rule: str, flags: Sequence[torch.Tensor]) -> Plot:
    """Bars by entropy; second passes that clip nothing are named in the caption only."""
    shown = [i for i, clipped in enumerate(flags) if clipped.any()]
    width = min(0.8 / len(shown), 0.27)
    with canvas.figure() as (fig, (ax,)):
        for place, index in enumerate(shown):
            levels = what_if.by_entropy(pair[index].old.entropies, flags[index])
            aside = (place - (len(shown) - 1) / 2) * width
            shares, bins = ([own.clipped[0] for own in levels], [f"{v.label} nats" for v in levels])
            canvas.bars(ax, aside, shares, _COLORS[index], pair[index].layout, bins, width)
        levels = what_if.by_entropy(pair[0].old.entropies)
        entropy_bins(ax, "entropy in the first pass (nats)")
        for x, level in enumerate(levels):
            style: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "color": MUTED}
            ax.text(x, 1.0, f"{level.tokens:,}", ha="center", va="bottom", fontsize=8, **style)
        ax.set_ylabel("share of the bin clipped falsely")
        canvas.from_zero(ax)
        canvas.percent_axis(ax)
        svg = canvas.to_svg(fig, f"false clips by entropy, {rule}, {_name(pair[0])}")
    keys = tuple(Key(pair[index].layout, _COLORS[index], "area") for index in shown)
    quiet = [floor.layout for i, floor in enumerate(pair) if i not in shown]
    caption = "Above the bars: tokens in the bin."
    caption += f" Clipped nothing: {', '.join(quiet)}." if quiet else ""
    return Plot(f"{rule}: {_name(pair[0])}", caption, svg, keys)
