"""Importance: a weight for every token that was drawn by another policy than the trainer's own.

An inference engine computes the same weights in another order, often in another dtype, so that its
policy is not quite the trainer's old one. The weight π_old/π_sampler corrects for that, bounded so
that one token cannot dominate. Weights carry no gradient, and a weighted token keeps its place in
the denominator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from erclip.losses.checks import above, at_least, one_of
from erclip.losses.parts import Importance
from erclip.losses.ratios import MAX_LOG_RATIO, row_sum
from erclip.losses.types import LossInputs, Tokens

Level = Literal["token", "sequence"]


@dataclass(frozen=True, repr=False)
class truncated_importance(Importance):
    """w_t = min(π_old(a_t) / π_sampler(a_t), cap): truncated importance sampling.

    With `level="sequence"` the weight of all tokens of a response is min(∏_t π_old/π_sampler, cap),
    the product over its tokens: rows must be whole responses.

    >>> logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    >>> one = torch.ones(1, 2)
    >>> loss_fn = policy_loss(ppo_clip(), importance=truncated_importance(cap=2.0))
    >>> loss_fn(logprobs=logprobs, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...         sampler_logprobs=torch.tensor([[-0.5, -3.0]])).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # e^-0.5 / 2, 2 / 2
    [-0.3033, -1.0]
    """

    cap: float = 2.0
    level: Level = "token"

    def __post_init__(self) -> None:
        _check_cap(self.cap)
        one_of(self, "level", Level)

    @property
    def needs(self) -> frozenset[str]:
        """The sampler's log-probs."""
        return frozenset({"sampler_logprobs"})

    def __call__(self, inputs: LossInputs) -> Tokens:
        """The weight, cut off at the cap."""
        log_ratio = sampler_log_ratio(inputs)
        if self.level == "sequence":
            log_ratio = row_sum(log_ratio, inputs.mask).expand_as(log_ratio)
        return _exp(log_ratio).clamp(max=self.cap)


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


@dataclass(frozen=True, repr=False)
class icepop(Importance):
    """w_t = π_old/π_sampler where it lies in [low, high], else 0.

    IcePop (2510.18855): a token on which trainer and sampler disagree too much is left out. `low`
    and `high` bound the weight itself. Published ranges are 0.5 to 2 and 0.2 to 5.
    `masked_importance(cap)` is `icepop(1 / cap, cap)`.

    >>> logprobs = torch.full((1, 3), -1.0, requires_grad=True)
    >>> one = torch.ones(1, 3)
    >>> loss_fn = policy_loss(ppo_clip(), importance=icepop(low=0.5, high=2.0))
    >>> loss_fn(logprobs=logprobs, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...         sampler_logprobs=torch.tensor([[-0.5, -3.0, -0.1]])).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # e^-0.5 / 3, above 2, below 1/2
    [-0.2022, 0.0, 0.0]
    """

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        at_least(self, 0, "low")
        above(self, self.low, "high")

    @property
    def needs(self) -> frozenset[str]:
        """The sampler's log-probs."""
        return frozenset({"sampler_logprobs"})

    def __call__(self, inputs: LossInputs) -> Tokens:
        """The weight, or nothing."""
        ratio = sampler_ratio(inputs)
        return torch.where((ratio >= self.low) & (ratio <= self.high), ratio, 0.0)


def sampler_log_ratio(inputs: LossInputs) -> Tokens:
    """log π_old − log π_sampler of the tokens, in nats."""
    assert inputs.sampler_logprobs is not None
    return inputs.old_logprobs - inputs.sampler_logprobs


def sampler_ratio(inputs: LossInputs) -> Tokens:
    """π_old/π_sampler of the tokens."""
    return _exp(sampler_log_ratio(inputs))


def _exp(log_ratio: Tokens) -> Tokens:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _check_cap(cap: float) -> None:
    if not cap >= 1:
        raise ValueError(f"cap bounds an importance weight and must be at least 1, not {cap}.")
