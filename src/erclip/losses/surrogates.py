"""Surrogates: the objective of one token as a function of its ratio r and its advantage A.

`low` and `high` are distances from 1. Where two surrogates share a bound they share its name in the
output, so that clip fractions mean the same thing for all of them: `ppo_high` is r > 1+high with
A > 0, `ppo_low` is r < 1−low with A < 0, `dual` is r > c with A < 0. `anchor` says which policy r
is measured against.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from erclip.losses.parts import Surrogate
from erclip.losses.ratios import (
    MAX_LOG_RATIO,
    Anchor,
    anchor_logprobs,
    check_anchor,
    ratio_to,
    row_mean,
)
from erclip.losses.types import LossInputs, SurrogateOutput, Tokens

UNREACHED = 2 * math.exp(MAX_LOG_RATIO)


@dataclass(frozen=True, repr=False)
class ppo_clip(Surrogate):
    """min(r A, clip(r, 1−low, 1+high) A): a token past its bound gets no gradient.

    PPO (1707.06347, eq. 7); unequal bounds are DAPO's clip-higher (2503.14476). `dual` is the c of
    dual-clip PPO (1912.09729), above 1 + high: for A < 0 the objective is at least c·A.

    >>> loss_fn = policy_loss(ppo_clip(low=0.2, high=0.28))
    >>> one = torch.ones(1, 1)
    >>> out = loss_fn(logprobs=one * 0.3, old_logprobs=one * 0, advantages=one, mask=one.bool())
    >>> round(out.loss.item(), 4), out.ppo_high.item()  # r = e^0.3 = 1.35 is past 1.28
    (-1.28, True)
    """

    low: float = 0.2
    high: float = 0.28
    dual: float | None = None
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high, self.dual, self.anchor)

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """PPO's value, and no gradient past its bounds."""
        ratio = ratio_to(inputs, self.anchor)
        return clip(ratio, inputs.advantages, self.low, self.high, self.dual)


@dataclass(frozen=True, repr=False)
class gppo_clip(Surrogate):
    """PPO-clip's value, but a clipped token keeps the bounded gradient (1−low)·A or (1+high)·A.

    Klear-Reasoner's gradient-preserving clipping (2508.07629): clip(r)/sg(r)·r stands where
    PPO has clip(r).

    >>> logprobs = torch.full((1, 1), 0.3, requires_grad=True)
    >>> one = torch.ones(1, 1)
    >>> loss_fn = policy_loss(gppo_clip(high=0.2))
    >>> loss_fn(logprobs=logprobs, old_logprobs=one * 0, advantages=one,
    ...         mask=one.bool()).loss.backward()
    >>> round(logprobs.grad.item(), 4)
    -1.2
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high, self.dual, self.anchor)

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """PPO's value, and the bound as gradient past it."""
        ratio = ratio_to(inputs, self.anchor)
        return clip(ratio, inputs.advantages, self.low, self.high, self.dual, keep=(1.0, 1.0))


@dataclass(frozen=True, repr=False)
class ce_gppo_clip(Surrogate):
    """GPPO with its clipped branches' gradients scaled: beta_low for A < 0, beta_high for A > 0.

    CE-GPPO (2509.20712); 0/0 has PPO-clip's gradient, 1/1 is GPPO. Published choices are 0.5/1
    (1.5B) and 0.75/1 (7B). The value stays PPO-clip's: only gradients differ.

    >>> logprobs = torch.full((1, 1), -0.5, requires_grad=True)  # r = 0.61
    >>> one = torch.ones(1, 1)
    >>> loss_fn = policy_loss(ce_gppo_clip(low=0.2, beta_low=0.5))
    >>> loss_fn(logprobs=logprobs, old_logprobs=one * 0, advantages=-one,
    ...         mask=one.bool()).loss.backward()
    >>> round(logprobs.grad.item(), 4)  # 0.5 · (1 − 0.2)
    0.4
    """

    low: float = 0.2
    high: float = 0.2
    beta_low: float = 0.5
    beta_high: float = 1.0
    dual: float | None = None
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high, self.dual, self.anchor)
        for name, beta in (("beta_low", self.beta_low), ("beta_high", self.beta_high)):
            if not beta >= 0:
                raise ValueError(f"{name} scales a gradient and must be at least 0, not {beta}.")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """PPO's value, and a share of the bound as gradient past it."""
        keep = (self.beta_low, self.beta_high)
        ratio = ratio_to(inputs, self.anchor)
        return clip(ratio, inputs.advantages, self.low, self.high, self.dual, keep)


@dataclass(frozen=True, repr=False)
class cispo_clip(Surrogate):
    """sg(clip(r, 1−low, 1+high)) · A · log π: every token learns, its weight is capped.

    MiniMax-M1's CISPO (2506.13585). The defaults leave the weight unbounded below and at
    most 5 above. `ppo_low`/`ppo_high` mark capped weights, whatever the advantage's sign.

    >>> logprobs = torch.full((1, 1), 2.0, requires_grad=True)  # r = 7.4
    >>> one = torch.ones(1, 1)
    >>> policy_loss(cispo_clip(high=4.0))(logprobs=logprobs, old_logprobs=one * 0, advantages=one,
    ...     mask=one.bool()).loss.backward()
    >>> round(logprobs.grad.item(), 4)
    -5.0
    """

    low: float = 1.0
    high: float = 4.0
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high, None, self.anchor)

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The policy gradient with a capped weight."""
        ratio = ratio_to(inputs, self.anchor).detach()
        weight = ratio.clamp(1 - self.low, 1 + self.high)
        objective = weight * inputs.advantages * inputs.logprobs
        acts = inputs.advantages != 0
        clipped = {
            "ppo_low": acts & (ratio < 1 - self.low),
            "ppo_high": acts & (ratio > 1 + self.high),
        }
        return SurrogateOutput(objective, clipped)


@dataclass(frozen=True, repr=False)
class gspo_clip(Surrogate):
    """PPO-clip on s_t = sg(s_i)·π_t/sg(π_t), s_i = exp(mean_t log r_t): clips responses whole.

    Qwen's GSPO in its token form (2507.18071), so that a constraint can act on single
    tokens; the defaults are the paper's. Rows must be whole responses, not packed tokens.

    >>> logprobs = torch.tensor([[0.01, -0.02]], requires_grad=True)  # s_i = e^−0.005
    >>> zero = torch.zeros(1, 2)
    >>> out = policy_loss(gspo_clip())(logprobs=logprobs, old_logprobs=zero, advantages=zero - 1,
    ...     mask=torch.ones(1, 2).bool())
    >>> out.ppo_low.tolist()
    [[True, True]]
    """

    low: float = 3e-4
    high: float = 4e-4
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high, None, self.anchor)

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """PPO-clip on the ratio of the whole response."""
        log_ratio = (inputs.logprobs - anchor_logprobs(inputs, self.anchor)).detach()
        mean = row_mean(log_ratio, inputs.mask)
        sequence = mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        ratio = sequence * (inputs.logprobs - inputs.logprobs.detach()).exp()
        return clip(ratio, inputs.advantages, self.low, self.high)


@dataclass(frozen=True, repr=False)
class sapo(Surrogate):
    """(4/τ)·σ(τ(r−1))·A, τ by the sign of A: a smooth gate in the place of a hard clip.

    Soft Adaptive Policy Optimization (2511.20347). At r = 1 the gradient is A; it fades on
    both sides, so nothing is ever reported as clipped.

    >>> logprobs = torch.zeros(1, 1, requires_grad=True)
    >>> one = torch.ones(1, 1)
    >>> policy_loss(sapo())(logprobs=logprobs, old_logprobs=one * 0, advantages=one,
    ...     mask=one.bool()).loss.backward()
    >>> logprobs.grad.item()
    -1.0
    """

    tau_positive: float = 1.0
    tau_negative: float = 1.05
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        for name in ("tau_positive", "tau_negative"):
            tau = getattr(self, name)
            if not tau > 0:
                raise ValueError(f"{name} is a gate's steepness and must be above 0, not {tau}.")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The gated objective."""
        ratio = ratio_to(inputs, self.anchor)
        tau = torch.where(inputs.advantages > 0, self.tau_positive, self.tau_negative)
        tau = tau.to(ratio.dtype)
        return SurrogateOutput(4 / tau * torch.sigmoid(tau * (ratio - 1)) * inputs.advantages)


@dataclass(frozen=True, repr=False)
class reinforce(Surrogate):
    """A · log π: the plain policy gradient, blind to how far the policy has drifted.

    Williams (1992). On-policy, every other surrogate has this gradient.

    >>> logprobs = torch.full((1, 1), -0.5, requires_grad=True)
    >>> one = torch.ones(1, 1)
    >>> policy_loss(reinforce())(logprobs=logprobs, old_logprobs=one * -3, advantages=one * 2,
    ...     mask=one.bool()).loss.backward()
    >>> logprobs.grad.item()
    -2.0
    """

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """The policy gradient."""
        return SurrogateOutput(inputs.advantages * inputs.logprobs)


def clip(
    ratio: Tokens,
    advantages: Tokens,
    low: float | Tokens,
    high: float | Tokens,
    dual: float | None = None,
    keep: tuple[float, float] = (0.0, 0.0),
) -> SurrogateOutput:
    """min(r A, clip(r) A): one value for the PPO family, and three gradients past the bounds.

    A clipped branch keeps `keep` times its bound as gradient, on the low and on the high side.
    """
    ppo_low = (advantages < 0) & (ratio < 1 - low)
    ppo_high = (advantages > 0) & (ratio > 1 + high)
    objective = torch.where(ppo_low, _held(ratio, 1 - low, keep[0]), ratio)
    objective = torch.where(ppo_high, _held(ratio, 1 + high, keep[1]), objective) * advantages
    clipped = {"ppo_low": ppo_low, "ppo_high": ppo_high}
    if dual is not None:
        clipped["dual"] = acts = (advantages < 0) & (ratio > dual)
        objective = torch.where(acts, dual * advantages, objective)
    return SurrogateOutput(objective, clipped)


def _held(ratio: Tokens, bound: float | Tokens, gradient: float) -> Tensor:
    """`bound`, exactly, with d/d log π equal to gradient·bound (0 for PPO-clip, 1 for GPPO).

    r/sg(r) − 1 is exactly 0 wherever r is finite and non-zero, which the clamp of log r ensures.
    A bound that no ratio reaches holds nothing, and is finite, so that its gradient is no NaN.
    """
    if not isinstance(bound, Tensor):
        bound = min(max(bound, 0.0), UNREACHED)
    return bound + gradient * bound * (ratio / ratio.detach() - 1)


def _check_clip(low: float, high: float, dual: float | None, anchor: str) -> None:
    for name, distance in (("low", low), ("high", high)):
        if not distance >= 0:
            raise ValueError(f"{name} is a distance from 1 and must be at least 0, not {distance}.")
    if dual is not None and not dual > 1 + high:
        raise ValueError(
            f"dual is the ratio c above which a negative advantage stops pushing; "
            f"it must exceed 1 + high = {1 + high:g}, not {dual}."
        )
    check_anchor(anchor)
