"""Importance: a weight for every token that was drawn by another policy than the trainer's own.

An inference engine computes the same weights in another order, often in another dtype, so that its
policy is not quite the trainer's old one. The weight π_old/π_sampler corrects for that, bounded so
that one token cannot dominate. Each factory returns a function `LossInputs → weights`; weights
carry no gradient, and a weighted token keeps its place in the denominator.
"""

from __future__ import annotations

import torch

from erclip.losses.types import Importance, LossInputs, Tokens

MAX_LOG_WEIGHT = 20.0


def truncated_importance(cap: float = 2.0) -> Importance:
    """w_t = min(π_old(a_t) / π_sampler(a_t), cap): truncated importance sampling.

    >>> logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    >>> one = torch.ones(1, 2)
    >>> loss_fn = policy_loss(ppo_clip(), importance=truncated_importance(cap=2.0))
    >>> loss_fn(logprobs=logprobs, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...         sampler_logprobs=torch.tensor([[-0.5, -3.0]])).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # e^-0.5 / 2, 2 / 2
    [-0.3033, -1.0]
    """
    _check_cap(cap)

    def importance(inputs: LossInputs) -> Tokens:
        return _ratio(inputs).clamp(max=cap)

    return importance


def masked_importance(cap: float = 2.0) -> Importance:
    """w_t = π_old/π_sampler where it lies in [1/cap, cap], else 0: such a token teaches nothing.

    >>> logprobs = torch.full((1, 3), -1.0, requires_grad=True)
    >>> one = torch.ones(1, 3)
    >>> loss_fn = policy_loss(ppo_clip(), importance=masked_importance(cap=2.0))
    >>> loss_fn(logprobs=logprobs, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...         sampler_logprobs=torch.tensor([[-0.5, -3.0, -0.1]])).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # e^-0.5 / 3, beyond 2, below 1/2
    [-0.2022, 0.0, 0.0]
    """
    _check_cap(cap)

    def importance(inputs: LossInputs) -> Tokens:
        ratio = _ratio(inputs)
        return torch.where((ratio >= 1 / cap) & (ratio <= cap), ratio, 0.0)

    return importance


def _ratio(inputs: LossInputs) -> Tokens:
    if inputs.sampler_logprobs is None:
        raise ValueError(
            "Importance weights need `sampler_logprobs`: the log-probs of the drawn tokens, from "
            "the engine that drew them, at the sampling temperature."
        )
    log_ratio = inputs.old_logprobs - inputs.sampler_logprobs
    return log_ratio.clamp(-MAX_LOG_WEIGHT, MAX_LOG_WEIGHT).exp()


def _check_cap(cap: float) -> None:
    if not cap >= 1:
        raise ValueError(f"cap bounds an importance weight and must be at least 1, not {cap}.")
