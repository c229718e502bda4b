"""What people write who build on erclip: every line of it must type-check."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import erclip
from erclip import (
    Constraint,
    ConstraintOutput,
    LossFn,
    LossInputs,
    LossOutput,
    Surrogate,
    SurrogateOutput,
    entropy_ratio_clip,
    policy_loss,
    ppo_clip,
)
from erclip.ops import LogprobEntropy, linear_logprob_entropy


@dataclass(frozen=True)
class rare(Constraint):
    """A rule of one's own."""

    least: float = 0.01

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        return ConstraintOutput({"rare": inputs.old_logprobs.exp() < self.least})


class plain(Surrogate):
    """A part without settings."""

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        return SurrogateOutput(inputs.advantages * inputs.logprobs)


def everything(inputs: LossInputs) -> ConstraintOutput:
    """A function in the place of a part."""
    return ConstraintOutput({"everything": inputs.mask})


def composed() -> list[LossFn]:
    """Losses under the name of what they can do."""
    anchored = ppo_clip(0.2, 0.28, anchor="sampler")
    return [
        policy_loss(ppo_clip(low=0.2, high=0.28), [entropy_ratio_clip(rule="directional")]),
        policy_loss(anchored, constraints=[rare(0.1), everything]),
        policy_loss(plain(), importance=erclip.truncated_importance(cap=2.0)),
        policy_loss(erclip.gppo_clip(), terms=[erclip.kl_penalty(0.1, estimator="k2")]),
        policy_loss(erclip.reinforce(), [erclip.sequence_mask("k2_max", high=0.1)]),
    ]


def step(loss_fn: LossFn, hidden: Tensor, head: Tensor, tokens: Tensor) -> dict[str, float]:
    """A training step with the op and a loss."""
    scores: LogprobEntropy = linear_logprob_entropy(hidden, head, tokens)
    out: LossOutput = loss_fn(
        logprobs=scores.logprobs[None],
        old_logprobs=scores.logprobs[None],
        advantages=torch.ones(1),
        mask=torch.ones(1, len(tokens), dtype=torch.bool),
        entropies=scores.entropies[None],
        old_entropies=scores.entropies[None],
    )
    out.loss.backward()
    clipped = {name: flags.double().mean().item() for name, flags in out.clipped.items()}
    return {**clipped, "low": out.erc_low.double().mean().item()}


def needed(loss_fn: policy_loss) -> frozenset[str]:
    """What a trainer has to compute, and the settings of a part as its fields."""
    surrogate = loss_fn.surrogate
    if isinstance(surrogate, ppo_clip):
        low: float = surrogate.low
        print(low)
    return loss_fn.needs
