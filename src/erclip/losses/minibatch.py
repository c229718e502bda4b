"""Statistics of a whole mini-batch: the same bits for every micro-batch size, packing and process.

Letters: N tokens of the mini-batch inside its mask, K contributions of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from erclip.losses.inputs import check_needs
from erclip.losses.parts import MiniBatchRule, name_of, needs_of
from erclip.losses.types import Gather, LossInputs, Statistics, SurrogateFn, Tokens

PRESENT = frozenset(
    {"entropies", "live_entropies", "entropy_slopes", "entropy_slope_means", "top_logprobs"}
)
"""Optional inputs that belong to the policy in training, as `logprobs` and `ratio` do."""

LIVE = frozenset({"live_entropies"})
"""What a measurement, which takes no gradient, does without."""


def alone(values: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """What one process gathers."""
    return values


@torch.no_grad()
def take_statistics(
    surrogate: SurrogateFn,
    rules: Sequence[MiniBatchRule],
    micro_batches: Sequence[LossInputs],
    gather: Gather = alone,
    previous: Statistics | None = None,
) -> dict[str, dict[str, float]]:
    """Measure and summarise for every rule, in their order.

    `gather` concatenates a vector over all processes. Raises ValueError for a rule whose
    `measure` reads the current policy and does not say so.
    """
    if not micro_batches:
        raise ValueError("there is no micro-batch to take statistics of; an empty mask will do.")
    found: dict[str, dict[str, float]] = {}
    for rule in rules:
        key = repr(rule)
        measured = [_measure(rule, surrogate, inputs, found) for inputs in micro_batches]
        names = list(measured[0])
        rows = [
            torch.stack([m[n].double()[inputs.mask] for n in names], -1)
            for m, inputs in zip(measured, micro_batches, strict=True)
        ]
        table = gather(torch.cat(rows).flatten()).view(-1, len(names))
        values = dict(zip(names, _in_order(table).unbind(-1), strict=True))
        summary = rule.summarise(values, (previous or {}).get(key, {}))
        found[key] = {name: float(value) for name, value in summary.items()}
    return found


def statistics_of(part: Any, statistics: Statistics) -> Mapping[str, float]:
    """One part's own numbers."""
    try:
        return statistics[repr(part)]
    except KeyError:
        raise ValueError(
            f"the statistics given are of another loss: they hold nothing of {part!r}."
        ) from None


def _measure(
    rule: MiniBatchRule, surrogate: SurrogateFn, inputs: LossInputs, found: Statistics
) -> Mapping[str, Tokens]:
    """What each token contributes; whoever measures the past cannot read the present by mistake."""
    current = rule.measures_current
    check_needs(name_of(rule), needs_of(rule) - (LIVE if current else PRESENT), inputs)
    if current:
        own = replace(inputs, statistics=found.get(repr(surrogate), {}))
        fired = {} if surrogate is rule else surrogate(own).clipped
        return rule.measure(replace(inputs, clipped=fired))
    unknown = torch.empty_like(inputs.old_logprobs, device="meta")
    absent: dict[str, Any] = dict.fromkeys(PRESENT)
    wrong = f"{rule!r} measures the policy in training: let its `measures_current` be True."
    try:
        found_here = rule.measure(replace(inputs, logprobs=unknown, ratio=unknown, **absent))
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(wrong) from error
    if any(values.is_meta for values in found_here.values()):
        raise ValueError(wrong)
    return found_here


def _in_order(table: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Rows sorted by their first column, then by the second, …: equal rows are alike anyway."""
    for column in reversed(range(table.shape[1])):
        table = table[table[:, column].argsort(stable=True)]
    return table
