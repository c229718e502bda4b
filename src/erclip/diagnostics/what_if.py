"""Ledger → what a rule clips, or would have clipped, by the very functions that training uses.

Letters: N tokens of the ledger. All flags are [N]; shares are counts over N, never means of means.
B responses and T places of one update, as the rules over responses and mini-batches see them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erclip.config.rules import built_in
from erclip.losses import (
    Constraint,
    entropy_ratio,
    entropy_ratio_clip,
    policy_loss,
    ppo_clip,
    reinforce,
)
from erclip.runs import words
from erclip.runs.ledger import Ledger
from erclip.runs.metrics import sides

# nats: from the tokens that are certain to those that are wide open
ENTROPY_EDGES = (0.0, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0, float("inf"))


COLUMNS = {
    "logprobs": "new_logprob",
    "old_logprobs": "old_logprob",
    "sampler_logprobs": "sampler_logprob",
    "advantages": "advantage",
    "entropies": "new_entropy",
    "old_entropies": "old_entropy",
    "entropy_slopes": "slope",
}
"""A loss's argument → the column that holds it."""


@dataclass(frozen=True)
class Decision:
    """The tokens that one rule clips, on its low and on its high side (or all, on its only one)."""

    label: str
    low: Bool[Tensor, " N"]
    high: Bool[Tensor, " N"]
    two_sided: bool = True

    @property
    def clipped(self) -> Bool[Tensor, " N"]:
        """Both sides."""
        return self.low | self.high


class Level(NamedTuple):
    """Tokens whose old entropy lies in one bin, and the shares of them that were clipped."""

    label: str
    tokens: int
    share: float
    clipped: tuple[float, ...]


class Quadrant(NamedTuple):
    """Tokens by the sign of A and the direction in which their entropy went; shares of them.

    `own` is the share whose own update pushes the entropy that way: A · slope has the sign of ΔH.
    """

    label: str
    share: float
    erc: float
    ppo: float
    both: float
    own: float


class Word(NamedTuple):
    """One token of the vocabulary: how often it occurs, is clipped, and at which old entropy."""

    text: str
    count: int
    clipped: int
    entropy: float
    clipped_entropy: float


def entropy_ratios(ledger: Ledger) -> Float[Tensor, " N"]:
    """ρ of every token."""
    return entropy_ratio(ledger.measures["new_entropy"], ledger.measures["old_entropy"])


def erc_decision(
    ledger: Ledger, low: float, high: float, rule: str = "paper", min_entropy_change: float = 0.0
) -> Decision:
    """What `entropy_ratio_clip` with these settings clips, its slopes being the ledger's."""
    constraint = entropy_ratio_clip(low, high, rule, min_entropy_change)  # ty: ignore[invalid-argument-type]
    out = _run(ledger, ppo_clip(), [constraint])
    band = f"±{low:g}" if low == high else f"−{low:g}/+{high:g}"
    spared = f", |ΔH| ≥ {min_entropy_change:g}" if min_entropy_change else ""
    return Decision(f"ERC {band}, {rule}{spared}", out.erc_low[0], out.erc_high[0])


def ppo_decision(ledger: Ledger, low: float, high: float) -> Decision:
    """What a clip range of the importance ratio stops (PPO-clip) or bounds (GPPO)."""
    out = _run(ledger, ppo_clip(low, high), [])
    return Decision(f"clip range −{low:g}/+{high:g}", out.ppo_low[0], out.ppo_high[0])


def other_rules(ledger: Ledger) -> list[Decision]:
    """What every constraint that ships would have clipped, as its defaults make it.

    Asked are those that the ledger's columns suffice for and that leave nothing to chance, update
    by update, so that rules over a response or a mini-batch see the whole of it.
    """
    known = {argument for argument, column in COLUMNS.items() if column in ledger.measures}
    parts = []
    for name, part in built_in("Constraint").items():
        with suppress(TypeError):  # a setting without a default
            parts += [part()] if name != "entropy_ratio_clip" and part().needs <= known else []
    return [_decision(ledger, part) for part in parts]


def _decision(ledger: Ledger, part: Constraint) -> Decision:
    loss_fn = policy_loss(reinforce(), [part])
    names = next(iter(sides(sorted(loss_fn.reports)).values()))
    flags = {name: torch.zeros(len(ledger), dtype=torch.bool) for name in names}
    for places, inputs in _updates(ledger):
        out = loss_fn(**inputs)
        for name in names:
            flags[name][places] = out.flags(name)[inputs["mask"]]
    return Decision(repr(part), flags[names[0]], flags[names[-1]], len(names) > 1)


def _updates(ledger: Ledger) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Places in the ledger [M] and the loss's arguments [B, T] of one update after the other."""
    places = ledger.places
    for update in places["update"].unique():
        own = (places["update"] == update).nonzero()[:, 0]
        numbers, rows = places["response"][own].unique(return_inverse=True)
        columns = places["position"][own].long()
        order = (rows * (int(columns.max()) + 1) + columns).argsort()
        own, rows, columns = own[order], rows[order], columns[order]
        mask = torch.zeros(len(numbers), int(columns.max()) + 1, dtype=torch.bool)
        mask[rows, columns] = True
        inputs: dict[str, Any] = {"mask": mask}
        for argument, column in COLUMNS.items():
            if column in ledger.measures:
                values = ledger.measures[column]
                inputs[argument] = values.new_zeros(mask.shape)
                inputs[argument][rows, columns] = values[own]
        yield own, inputs


def as_trained(ledger: Ledger) -> dict[str, Decision]:
    """What each rule did clip during the run, by its name; ERC and the surrogate's range first."""
    labels = {"erc": "ERC", "ppo": "surrogate"}
    rules = sides(ledger.flags)
    found = {}
    for rule in sorted(rules, key=lambda rule: (*labels, rule).index(rule)):
        flags = [ledger.flags[name] for name in rules[rule]]
        label = f"{labels.get(rule, words.rule(rule))}, as trained"
        found[rule] = Decision(label, flags[0], flags[-1], len(flags) > 1)
    return found


def by_entropy(old_entropy: Float[Tensor, " N"], *clipped: Bool[Tensor, " N"]) -> list[Level]:
    """Shares clipped in every bin of the old entropy; an empty bin has NaN shares."""
    edges = torch.tensor(ENTROPY_EDGES[1:-1], dtype=old_entropy.dtype)
    bins = torch.bucketize(old_entropy, edges, right=True)
    count = len(ENTROPY_EDGES) - 1
    total = torch.bincount(bins, minlength=count)
    hits = [torch.bincount(bins[flags], minlength=count) for flags in clipped]
    return [
        Level(
            _bin_label(index),
            int(total[index]),
            _share(total[index], len(old_entropy)),
            tuple(_share(hit[index], total[index]) for hit in hits),
        )
        for index in range(count)
    ]


def quadrants(ledger: Ledger, erc: Decision, ppo: Decision) -> list[Quadrant]:
    """The 2×2 of sign of the advantage against direction of the entropy's change."""
    advantage, slope = ledger.measures["advantage"], ledger.measures["slope"]
    change = ledger.measures["new_entropy"] - ledger.measures["old_entropy"]
    own = advantage * slope * change > 0
    rows = []
    for sign, sign_text in ((1, "A > 0"), (-1, "A < 0")):
        for direction, direction_text in ((1, "H rose"), (-1, "H fell")):
            cell = (advantage * sign > 0) & (change * direction > 0)
            count = cell.sum()
            flags = (erc.clipped, ppo.clipped, erc.clipped & ppo.clipped, own)
            shares = (_share((cell & flag).sum(), count) for flag in flags)
            label = f"{sign_text}, {direction_text}"
            rows.append(Quadrant(label, _share(count, len(ledger)), *shares))
    return rows


def most_clipped(ledger: Ledger, decision: Decision, count: int = 20) -> list[Word]:
    """The vocabulary's tokens that a rule clips most often."""
    ids = ledger.places["token_id"].long()
    entropy = ledger.measures["old_entropy"].double()
    size = int(ids.max()) + 1 if len(ids) else 0
    hit = decision.clipped
    total, hits = torch.bincount(ids, minlength=size), torch.bincount(ids[hit], minlength=size)
    summed = torch.bincount(ids, weights=entropy, minlength=size)
    summed_hit = torch.bincount(ids[hit], weights=entropy[hit], minlength=size)
    best = torch.argsort(hits, descending=True, stable=True)[:count]
    best = best[hits[best] > 0].tolist()
    return [
        Word(
            ledger.texts[i],
            int(total[i]),
            int(hits[i]),
            float(summed[i] / total[i]),
            float(summed_hit[i] / hits[i]),
        )
        for i in best
    ]


def _run(ledger: Ledger, surrogate, constraints):
    found = ledger.measures
    given: dict[str, Any] = {
        name: found[column][None] for name, column in COLUMNS.items() if column in found
    }
    mask = torch.ones(1, len(ledger), dtype=torch.bool)
    return policy_loss(surrogate, constraints)(**given, mask=mask)


def _share(hits: Tensor | int, total: Tensor | int) -> float:
    return float(hits) / float(total) if float(total) else float("nan")


def _bin_label(index: int) -> str:
    low, high = ENTROPY_EDGES[index : index + 2]
    if low == 0:
        return f"< {high:g}"
    return f"≥ {low:g}" if high == float("inf") else f"{low:g} – {high:g}"
