"""Controls that a constraint has to beat: they take as much away, but not from the same tokens.

`random_mask` takes a fixed share, from the first update on, where ERC takes nothing because ρ is 1.
`shuffled_erc` takes what ERC would take of the very same micro-batch, and shuffles it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from erclip.losses.constraints import ErcRule, entropy_ratio_clip
from erclip.losses.types import Constraint, ConstraintOutput, LossInputs

Match = Literal["tokens", "gradient"]


def shuffled_erc(
    low: float = 0.05,
    high: float = 0.05,
    rule: ErcRule = "paper",
    min_entropy_change: float = 0.0,
    match: Match = "tokens",
    generator: torch.Generator | None = None,
) -> Constraint:
    """ERC's clipping, handed to tokens drawn at random: the same amount in every update.

    `match="tokens"` drops as many tokens of the micro-batch as `entropy_ratio_clip` with these
    arguments would; `match="gradient"` drops tokens in random order until Σ |A| r (1 − π(a)) of
    those dropped is as near as can be to that of ERC's. |A| r (1 − π(a)) is the size of the
    unclipped objective's gradient at the sampled token's logit. What is clipped follows this
    policy's own drift, which is the drift of a run with the control.

    >>> one = torch.ones(1, 4)
    >>> loss_fn = policy_loss(ppo_clip(), constraints=[shuffled_erc()])
    >>> out = loss_fn(logprobs=-one, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...               entropies=torch.tensor([[0.5, 0.5, 1.0, 1.0]]), old_entropies=one)
    >>> int(out.random.sum()), int((out.erc_low | out.erc_high).sum())
    (2, 0)
    """
    if match not in get_args(Match):
        raise ValueError(f"match must be one of {', '.join(get_args(Match))}, not {match!r}.")
    erc = entropy_ratio_clip(low, high, rule, min_entropy_change)

    def constraint(inputs: LossInputs) -> ConstraintOutput:
        found = erc(inputs)
        assert found.erc_low is not None
        assert found.erc_high is not None
        clipped = (found.erc_low | found.erc_high) & inputs.mask
        tokens = inputs.mask.flatten().nonzero().squeeze(1)
        order = torch.randperm(len(tokens), generator=generator, device=tokens.device)
        taken = tokens[order[: _count(clipped, inputs, tokens[order], match)]]
        dropped = torch.zeros_like(clipped).flatten()
        dropped[taken] = True
        return ConstraintOutput(random=dropped.view_as(clipped))

    return constraint


def _count(clipped: Tensor, inputs: LossInputs, order: Tensor, match: Match) -> int:
    """How many tokens of this order to drop."""
    if match == "tokens":
        return int(clipped.sum())
    logprobs = inputs.logprobs.detach()
    mass = inputs.advantages.abs() * inputs.ratio.detach() * -torch.expm1(logprobs)
    target = torch.where(clipped, mass, 0.0).double().sum()
    sums = mass.flatten()[order].double().cumsum(0)
    sums = torch.cat([sums.new_zeros(1), sums])
    return int((sums - target).abs().argmin())
