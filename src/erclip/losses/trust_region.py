"""Constraints that bound how far the probability of a sampled token may move from its anchor's.

A ratio is a poor measure where probabilities are small: 1e-4 may triple and hardly change the
policy. These rules look at probabilities instead. π is the current policy's probability of the
sampled token, μ its anchor's.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from erclip.losses.checks import at_least
from erclip.losses.parts import Constraint
from erclip.losses.ratios import Anchor, anchor_logprobs, check_anchor
from erclip.losses.types import ConstraintOutput, Flags, LossInputs, Tokens

ONE_HOT = 1e-8  # added to 1 − p, so that a probability of 1 has a logarithm on the other side


@dataclass(frozen=True, repr=False)
class Threshold(Constraint):
    """A constraint with one bound, in whatever its rule measures from the anchor."""

    threshold: float
    _: KW_ONLY
    anchor: Anchor = "sampler"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        at_least(self, 0, "threshold")


@dataclass(frozen=True, repr=False)
class dppo_tv(Constraint):
    """Drop if A > 0 and π − μ > high, or A ≤ 0 and π − μ < −low; μ is the anchor's probability.

    DPPO with the total variation of the sampled token (2602.04879): a token whose probability has
    moved far enough is not pushed further out, and is always let back. Reported as `dppo_low` and
    `dppo_high`.

    >>> p = torch.tensor([[0.5, 0.003]])  # of 0.2 and 0.001: a ratio of 3 is no distance
    >>> out = policy_loss(reinforce(), [dppo_tv(0.2, 0.2)])(
    ...     logprobs=p.log(), old_logprobs=p.log(), advantages=torch.ones(1),
    ...     mask=torch.ones(1, 2).bool(), sampler_logprobs=torch.tensor([[0.2, 0.001]]).log())
    >>> out.clipped["dppo_high"].tolist()
    [[True, False]]
    """

    low: float = 0.2
    high: float = 0.2
    _: KW_ONLY
    anchor: Anchor = "sampler"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        at_least(self, 0, "low", "high")

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens that are past their bound and would move on."""
        moved = probability_shift(inputs, self.anchor)
        return _outward(inputs, moved < -self.low, moved > self.high)


@dataclass(frozen=True, repr=False)
class dppo_kl(Threshold):
    """Drop if KL(μ‖π) > threshold, taken as Bernoulli, and the update would widen it.

    KL(μ‖π) = μ log(μ/π) + (1−μ) log((1−μ)/(1−π)) in nats; the update widens it if A > 0 and π > μ,
    or A ≤ 0 and π < μ. DPPO with the KL of the sampled token against the rest (2602.04879).
    Reported as `dppo_low` and `dppo_high`.

    >>> p = torch.tensor([[0.5, 0.5]])
    >>> out = policy_loss(reinforce(), [dppo_kl(0.05)])(
    ...     logprobs=p.log(), old_logprobs=p.log(), advantages=torch.ones(1),
    ...     mask=torch.ones(1, 2).bool(), sampler_logprobs=torch.tensor([[0.3, 0.4]]).log())
    >>> out.clipped["dppo_high"].tolist()  # 0.087 and 0.020 nats
    [[True, False]]
    """

    threshold: float = 0.05

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens that are past the threshold and would move on."""
        now, anchor = inputs.logprobs.detach(), anchor_logprobs(inputs, self.anchor)
        far = bernoulli_kl(anchor, now) > self.threshold
        return _outward(inputs, far & (now < anchor), far & (now > anchor))


@dataclass(frozen=True, repr=False)
class ipo(Threshold):
    """Drop if |π − μ| > threshold, whatever the advantage.

    The mask of prime-rl's default loss, which adds `log_ratio_penalty`. Unlike DPPO it also stops
    the updates that would bring a token back. Reported as `ipo`.

    >>> p = torch.tensor([[0.5, 0.003]])
    >>> out = policy_loss(reinforce(), [ipo(threshold=0.1)])(
    ...     logprobs=p.log(), old_logprobs=p.log(), advantages=-torch.ones(1),
    ...     mask=torch.ones(1, 2).bool(), sampler_logprobs=torch.tensor([[0.2, 0.001]]).log())
    >>> out.clipped["ipo"].tolist()
    [[True, False]]
    """

    threshold: float = 0.1

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens that are past the threshold."""
        return ConstraintOutput(
            {"ipo": probability_shift(inputs, self.anchor).abs() > self.threshold}
        )


@dataclass(frozen=True, repr=False)
class kpop(Threshold):
    """Drop if max(KL(π‖μ), KL(μ‖π)) > threshold, both taken as Bernoulli, in nats.

    AReaL's KPop: whatever the advantage, and in both directions of the divergence, so that a token
    which either policy all but excludes is dropped. Reported as `kpop`.

    >>> p = torch.tensor([[0.99, 0.5]])
    >>> out = policy_loss(reinforce(), [kpop(threshold=2.0)])(
    ...     logprobs=p.log(), old_logprobs=p.log(), advantages=torch.ones(1),
    ...     mask=torch.ones(1, 2).bool(), sampler_logprobs=torch.tensor([[0.05, 0.05]]).log())
    >>> out.clipped["kpop"].tolist()
    [[True, False]]
    """

    threshold: float = 2.0

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens that are past the threshold."""
        now, anchor = inputs.logprobs.detach(), anchor_logprobs(inputs, self.anchor)
        largest = torch.maximum(bernoulli_kl(now, anchor), bernoulli_kl(anchor, now))
        return ConstraintOutput({"kpop": largest > self.threshold})


def probability_shift(inputs: LossInputs, anchor: Anchor) -> Tokens:
    """π − μ of the sampled tokens, without gradient."""
    return inputs.logprobs.detach().exp() - anchor_logprobs(inputs, anchor).exp()


def bernoulli_kl(logprobs: Tokens, other: Tokens) -> Tokens:
    """KL(p‖q) = p log(p/q) + (1−p) log((1−p)/(1−q)) in nats, from log p and log q."""
    rest, other_rest = ((-torch.expm1(x)).clamp(min=0) + ONE_HOT for x in (logprobs, other))
    return logprobs.exp() * (logprobs - other) + rest * (rest / other_rest).log()


def _outward(inputs: LossInputs, low: Flags, high: Flags) -> ConstraintOutput:
    """Only what the sign of the advantage would push further: up if A > 0, else down."""
    rising = inputs.advantages > 0
    return ConstraintOutput({"dppo_low": ~rising & low, "dppo_high": rising & high})
