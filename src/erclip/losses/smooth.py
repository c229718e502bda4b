"""Surrogates without a hard edge: the gradient of a token fades, or is weighted, as r leaves 1.

r = π/μ, π the current policy's probability of the sampled token and μ its anchor's. "Weight" is
d objective / d log π divided by A.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from erclip.losses.checks import above, at_least
from erclip.losses.parts import Surrogate
from erclip.losses.ratios import Anchor, anchor_logprobs, check_anchor, ratio_to
from erclip.losses.types import LossInputs, SurrogateOutput, Tokens


@dataclass(frozen=True, repr=False)
class spo(Surrogate):
    """r A − |A| (r − 1)² / (2 epsilon): the weight is 0 at |r − 1| = epsilon and turns back beyond.

    Simple Policy Optimization (2401.16025): a parabola in the place of PPO's clip, the steeper the
    smaller `epsilon`, which is a distance from 1.

    >>> logprobs = torch.full((1, 1), 1.2).log().requires_grad_()
    >>> one = torch.ones(1, 1)
    >>> policy_loss(spo(epsilon=0.2))(logprobs=logprobs, old_logprobs=one * 0, advantages=one,
    ...     mask=one.bool()).loss.backward()
    >>> abs(logprobs.grad.item()) < 1e-6
    True
    """

    epsilon: float = 0.2
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        above(self, 0, "epsilon")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The objective under its parabola."""
        ratio = ratio_to(inputs, self.anchor)
        return SurrogateOutput(_parabola(ratio, inputs.advantages, self.epsilon))


@dataclass(frozen=True, repr=False)
class drpo(Surrogate):
    """r A − |A| μ (r − 1)² / (2 epsilon): the weight is 0 at |π − μ| = epsilon.

    Beyond that it turns back. DRPO (2606.09821): SPO's parabola in probabilities instead of ratios,
    so that a rare token may move by a large factor. Its geometry is that of DPPO-TV, without an
    edge. `epsilon` is a difference of probabilities: from 1 on it never turns the gradient round,
    and 12.5, the public code's, takes at most 8 % of it away.

    >>> logprobs = torch.full((1, 1), 0.7).log().requires_grad_()
    >>> one = torch.ones(1, 1)
    >>> policy_loss(drpo(epsilon=0.2))(logprobs=logprobs, old_logprobs=one * 0, advantages=one,
    ...     mask=one.bool(), sampler_logprobs=(one / 2).log()).loss.backward()
    >>> abs(logprobs.grad.item()) < 1e-6
    True
    """

    epsilon: float = 12.5
    _: KW_ONLY
    anchor: Anchor = "sampler"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        above(self, 0, "epsilon")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The objective under a parabola that is the flatter, the rarer the token."""
        ratio = ratio_to(inputs, self.anchor)
        width = self.epsilon / anchor_logprobs(inputs, self.anchor).exp()
        return SurrogateOutput(_parabola(ratio, inputs.advantages, width))


@dataclass(frozen=True, repr=False)
class truncated_reinforce(Surrogate):
    """sg(min(r, cap)) · A · log π: the policy gradient, its weight truncated.

    DPPO's objective (2602.04879, section 5.4), to stand under `dppo_tv` or `dppo_kl`. Truncated
    tokens are reported as `truncated`.

    >>> logprobs = torch.full((1, 1), 2.0, requires_grad=True)  # r = 7.4
    >>> one = torch.ones(1, 1)
    >>> policy_loss(truncated_reinforce(cap=5.0))(logprobs=logprobs, old_logprobs=one,
    ...     sampler_logprobs=one * 0, advantages=one, mask=one.bool()).loss.backward()
    >>> logprobs.grad.item()
    -5.0
    """

    cap: float = 20.0
    _: KW_ONLY
    anchor: Anchor = "sampler"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        above(self, 0, "cap")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The policy gradient with a weight that has a ceiling."""
        ratio = ratio_to(inputs, self.anchor).detach()
        objective = ratio.clamp(max=self.cap) * inputs.advantages * inputs.logprobs
        acts = (inputs.advantages != 0) & (ratio > self.cap)
        return SurrogateOutput(objective, {"truncated": acts})


@dataclass(frozen=True, repr=False)
class dgpo(Surrogate):
    """sg(w) · A · log π with a weight w that decays on both sides of [1 − low, 1 + high].

    Inside w = r, as in PPO. Where PPO would clip, with lo = 1 − low and hi = 1 + high,

        w = r · (r/lo)ⁿ        for r < lo and A < 0,
        w = hi · (r/hi)^(1−1/m)  for r > hi and A > 0,

    continuous at both bounds. DGPO (2603.14389): seen from ∇π instead of ∇ log π, w/r decays as a
    power below and as a root above, and never diverges. Reported as `ppo_low` and `ppo_high`.

    >>> logprobs = torch.tensor([[0.4, 5.0]]).log().requires_grad_()
    >>> policy_loss(dgpo(low=0.2, high=0.25))(logprobs=logprobs, old_logprobs=torch.zeros(1, 2),
    ...     advantages=torch.tensor([[-1.0, 1.0]]), mask=torch.ones(1, 2).bool()).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # 0.4 · 0.5 / 2, −1.25 · 4^½ / 2
    [0.1, -1.25]
    """

    low: float = 0.2
    high: float = 0.2
    n: float = 1.0
    m: float = 2.0
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        at_least(self, 0, "low", "high", "n")
        at_least(self, 1, "m")
        if not self.low < 1:
            raise ValueError(
                f"low of dgpo must be below 1, where r/(1 − low) ends, not {self.low}."
            )

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The policy gradient with a weight that decays past the bounds."""
        ratio = ratio_to(inputs, self.anchor).detach()
        lowest, highest = 1 - self.low, 1 + self.high
        ppo_low = (inputs.advantages < 0) & (ratio < lowest)
        ppo_high = (inputs.advantages > 0) & (ratio > highest)
        weight = torch.where(ppo_low, ratio * (ratio / lowest) ** self.n, ratio)
        root = highest * (ratio / highest) ** (1 - 1 / self.m)
        weight = torch.where(ppo_high, root, weight)
        objective = weight * inputs.advantages * inputs.logprobs
        return SurrogateOutput(objective, {"ppo_low": ppo_low, "ppo_high": ppo_high})


@dataclass(frozen=True, repr=False)
class aspo(Surrogate):
    """sg(w) · A · log π, w = min(1/r, cap) for A > 0 and r for A ≤ 0; nothing where PPO clips.

    ASPO (2510.06062): a rising token's weight is turned over, so that the rarer it has become the
    more it learns, as the falling ones do; `cap` is its soft dual clip, which keeps the gradient.
    A token beyond PPO's bounds (r > 1 + high and A > 0, r < 1 − low and A < 0) has none. Reported
    as `ppo_low`, `ppo_high` and, where the cap acts, `truncated`.

    >>> logprobs = torch.tensor([[0.5, 0.1]]).log().requires_grad_()
    >>> one = torch.ones(1, 2)
    >>> policy_loss(aspo(cap=3.0))(logprobs=logprobs, old_logprobs=one * 0, advantages=one,
    ...     mask=one.bool()).loss.backward()
    >>> [round(x, 4) for x in logprobs.grad[0].tolist()]  # (1/0.5) / 2 and the cap / 2
    [-1.0, -1.5]
    """

    low: float = 0.2
    high: float = 0.28
    cap: float = 3.0
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        at_least(self, 0, "low", "high")
        at_least(self, 1, "cap")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The policy gradient with the rising tokens' weight turned over."""
        ratio, advantages = ratio_to(inputs, self.anchor).detach(), inputs.advantages
        rising = advantages > 0
        ppo_low = (advantages < 0) & (ratio < 1 - self.low)
        ppo_high = rising & (ratio > 1 + self.high)
        weight = torch.where(rising, (1 / ratio).clamp(max=self.cap), ratio)
        objective = weight * advantages * inputs.logprobs
        objective = torch.where(ppo_low | ppo_high, objective.detach(), objective)
        capped = rising & (1 / ratio > self.cap)
        clipped = {"ppo_low": ppo_low, "ppo_high": ppo_high, "truncated": capped}
        return SurrogateOutput(objective, clipped)


def _parabola(ratio: Tokens, advantages: Tokens, width: Tokens | float) -> Tokens:
    """r A − |A| (r − 1)² / (2 width)."""
    return ratio * advantages - advantages.abs() * (ratio - 1) ** 2 / (2 * width)
