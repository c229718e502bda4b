"""Ratios to the policy that a rule is measured against, and what can be said of a whole response.

Two policies may lie behind the one in training: the sampler's μ, which drew the tokens, and the
trainer's own π_old, as it was when the rollout was scored. Where sampler and trainer are one they
are the same but for rounding.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from erclip.losses.types import Flags, LossInputs, Tokens

Anchor = Literal["old", "sampler"]
MAX_LOG_RATIO = 20.0  # nats; every log ratio is clamped to ± this before it is an exponent

Rows = Float[Tensor, "B 1"]


def check_anchor(anchor: str) -> None:
    """Raise ValueError for what is no anchor."""
    if anchor not in get_args(Anchor):
        raise ValueError(f"anchor must be one of {', '.join(get_args(Anchor))}, not {anchor!r}.")


def anchor_logprobs(inputs: LossInputs, anchor: Anchor) -> Tokens:
    """log π_old or log μ of the tokens, in nats, without gradient."""
    if anchor == "old":
        return inputs.old_logprobs
    assert inputs.sampler_logprobs is not None
    return inputs.sampler_logprobs


def log_ratio(inputs: LossInputs, anchor: Anchor = "old") -> Tokens:
    """log π_θ − log π_anchor, in nats, clamped to ±20; gradient flows through π_θ."""
    gap = inputs.logprobs - anchor_logprobs(inputs, anchor)
    return gap.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def ratio_to(inputs: LossInputs, anchor: Anchor = "old") -> Tokens:
    """π_θ/π_anchor of the tokens; gradient flows through π_θ."""
    return inputs.ratio if anchor == "old" else log_ratio(inputs, anchor).exp()


def row_sum(values: Tokens, mask: Flags) -> Rows:
    """Σ over a response's tokens, added in float64 so that padding does not show in the last bit.

    Rows are whole responses, not packed tokens: a rule that uses this has to say so.
    """
    return torch.where(mask, values, 0.0).double().sum(-1, keepdim=True).to(values.dtype)


def row_mean(values: Tokens, mask: Flags) -> Rows:
    """The mean over a response's tokens; 0 where it has none.

    >>> row_mean(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])).item()
    2.0
    """
    total = torch.where(mask, values, 0.0).double().sum(-1, keepdim=True)
    return (total / mask.sum(-1, keepdim=True).clamp(min=1)).to(values.dtype)


def row_max(values: Tokens, mask: Flags) -> Rows:
    """The largest value among a response's tokens; −inf where it has none."""
    if mask.shape[-1] == 0:
        return values.new_full((*values.shape[:-1], 1), -torch.inf)
    return torch.where(mask, values, -torch.inf).amax(-1, keepdim=True)
