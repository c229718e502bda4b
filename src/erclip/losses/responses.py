"""Surrogates that weigh a response as a whole: a row of [B, T] must be one, not packed tokens."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import torch

from erclip.losses.checks import at_least
from erclip.losses.parts import Surrogate
from erclip.losses.ratios import Anchor, check_anchor, log_ratio, row_mean, row_sum
from erclip.losses.types import LossInputs, SurrogateOutput

LEAST_LOG_WEIGHT = math.log(1e-8)
MOST_LOG_WEIGHT = 20.0


@dataclass(frozen=True, repr=False)
class gmpo(Surrogate):
    """A · s_i with s_i = exp(mean_t x_t), x_t = log r_t held at +high for A > 0, at −low for A < 0.

    Geometric-Mean Policy Optimization (2507.20673): the ratio of a response is the geometric mean
    of its tokens' ratios, each clipped in logarithms (`low` and `high` are nats) before the mean.
    Written token by token: the value of a token is A · s_i, its gradient too, and 0 where it is
    held. Summed over a response that is |o| times the paper's objective, so that the token mean
    weighs responses by length. Reported as `ppo_low` and `ppo_high`.

    >>> logprobs = torch.tensor([[0.2, 0.9]], requires_grad=True)
    >>> zero = torch.zeros(1, 2)
    >>> out = policy_loss(gmpo(0.4, 0.4))(logprobs=logprobs, old_logprobs=zero,
    ...     advantages=torch.ones(1), mask=torch.ones(1, 2).bool())
    >>> out.loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # −e^((0.2 + 0.4) / 2) / 2, held
    [-0.6749, 0.0]
    """

    low: float = 0.4
    high: float = 0.4
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        at_least(self, 0, "low", "high")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The geometric mean as every token's ratio."""
        gap = log_ratio(inputs, self.anchor)
        ppo_low = (inputs.advantages < 0) & (gap < -self.low)
        ppo_high = (inputs.advantages > 0) & (gap > self.high)
        held = torch.where(ppo_low, -self.low, torch.where(ppo_high, self.high, gap))
        ratio = row_mean(held.detach(), inputs.mask).exp() * (held - held.detach()).exp()
        return SurrogateOutput(
            ratio * inputs.advantages, {"ppo_low": ppo_low, "ppo_high": ppo_high}
        )


@dataclass(frozen=True, repr=False)
class vespo(Surrogate):
    """sg(φ(W)) · A · log π, φ(W) = e^λ Wᵏ e^(−λW), W = ∏_t r_t over the response.

    VESPO (2602.10693): φ(1) = 1, and a response whose probability has moved far in either direction
    fades out, without an edge and without dividing by its length. k and λ by the sign of A: those
    with A ≥ 0 are `k_positive` and `lambda_positive`. log W is held within [log 1e-8, 20].

    >>> logprobs = torch.tensor([[0.1, 0.2]], requires_grad=True)
    >>> zero = torch.zeros(1, 2)
    >>> policy_loss(vespo())(logprobs=logprobs, old_logprobs=zero, advantages=torch.ones(1),
    ...     mask=torch.ones(1, 2).bool()).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # −e^(3 + 2 · 0.3 − 3 e^0.3) / 2
    [-0.3189, -0.3189]
    """

    k_positive: float = 2.0
    lambda_positive: float = 3.0
    k_negative: float = 3.0
    lambda_negative: float = 2.0
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        at_least(self, 0, "k_positive", "lambda_positive", "k_negative", "lambda_negative")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The policy gradient under the response's weight."""
        log_weight = row_sum(log_ratio(inputs, self.anchor).detach(), inputs.mask)
        log_weight = log_weight.clamp(LEAST_LOG_WEIGHT, MOST_LOG_WEIGHT)
        rising = inputs.advantages >= 0
        k = torch.where(rising, self.k_positive, self.k_negative)
        decay = torch.where(rising, self.lambda_positive, self.lambda_negative)
        phi = (decay + k * log_weight - decay * log_weight.exp()).exp().to(log_weight.dtype)
        return SurrogateOutput(phi * inputs.advantages * inputs.logprobs)
