"""Importance: a weight for every token that was drawn by another policy than the trainer's own.

An inference engine computes the same weights in another order, often in another dtype, so that its
policy is not quite the trainer's old one. The weight π_old/π_sampler corrects for that, bounded so
that one token cannot dominate. Weights carry no gradient, and a weighted token keeps its place in
the denominator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from erclip.losses.parts import Importance
from erclip.losses.ratios import MAX_LOG_RATIO
from erclip.losses.types import LossInputs, Tokens


@dataclass(frozen=True, repr=False)
class truncated_importance(Importance):
    """w_t = min(π_old(a_t) / π_sampler(a_t), cap): truncated importance sampling.

    >>> logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    >>> one = torch.ones(1, 2)
    >>> loss_fn = policy_loss(ppo_clip(), importance=truncated_importance(cap=2.0))
    >>> loss_fn(logprobs=logprobs, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...         sampler_logprobs=torch.tensor([[-0.5, -3.0]])).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # e^-0.5 / 2, 2 / 2
    [-0.3033, -1.0]
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    @property
    def needs(self) -> frozenset[str]:
        """The sampler's log-probs."""
        return frozenset({"sampler_logprobs"})

    def __call__(self, inputs: LossInputs) -> Tokens:
        """The weight, cut off at the cap."""
        return sampler_ratio(inputs).clamp(max=self.cap)


@dataclass(frozen=True, repr=False)
class masked_importance(Importance):
    """w_t = π_old/π_sampler where it lies in [1/cap, cap], else 0: such a token teaches nothing.

    >>> logprobs = torch.full((1, 3), -1.0, requires_grad=True)
    >>> one = torch.ones(1, 3)
    >>> loss_fn = policy_loss(ppo_clip(), importance=masked_importance(cap=2.0))
    >>> loss_fn(logprobs=logprobs, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...         sampler_logprobs=torch.tensor([[-0.5, -3.0, -0.1]])).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # e^-0.5 / 3, beyond 2, below 1/2
    [-0.2022, 0.0, 0.0]
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    @property
    def needs(self) -> frozenset[str]:
        """The sampler's log-probs."""
        return frozenset({"sampler_logprobs"})

    def __call__(self, inputs: LossInputs) -> Tokens:
        """The weight, or nothing."""
        ratio = sampler_ratio(inputs)
        return torch.where((ratio >= 1 / self.cap) & (ratio <= self.cap), ratio, 0.0)


def sampler_ratio(inputs: LossInputs) -> Tokens:
    """π_old/π_sampler of the tokens."""
    assert inputs.sampler_logprobs is not None
    log_ratio = inputs.old_logprobs - inputs.sampler_logprobs
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _check_cap(cap: float) -> None:
    if not cap >= 1:
        raise ValueError(f"cap bounds an importance weight and must be at least 1, not {cap}.")
