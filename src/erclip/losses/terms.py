"""Terms: costs that are added to a policy loss rather than woven into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from erclip.losses.checks import above, at_least, one_of
from erclip.losses.parts import MiniBatchRule, Term
from erclip.losses.ratios import MAX_LOG_RATIO, Anchor, check_anchor, log_ratio
from erclip.losses.selection import Whose
from erclip.losses.types import LossInputs, Tokens

Estimator = Literal["k1", "k2", "k3"]
LARGEST_K3 = 10.0  # nats


@dataclass(frozen=True, repr=False)
class positive_nll(Term, MiniBatchRule):
    """−weight · Σ log π(a_t) / N₊ over the N₊ tokens of correct responses: imitate what worked.

    N₊ counts over the whole mini-batch. ERC's reference code adds 0.1 of it and does not mask it by
    ERC; the paper does not mention it.

    >>> logprobs = torch.tensor([[-0.5, -1.5], [-9.0, -9.0]])
    >>> loss_fn = policy_loss(reinforce(), terms=[positive_nll(weight=1.0)])
    >>> loss_fn(logprobs=logprobs, old_logprobs=logprobs, advantages=torch.zeros(2),
    ...         mask=torch.ones(2, 2).bool(), correct=torch.tensor([True, False])).loss.item()
    1.0
    """

    weight: float = 0.1

    def __post_init__(self) -> None:
        at_least(self, 0, "weight")

    @property
    def needs(self) -> frozenset[str]:
        """Which responses are correct."""
        return frozenset({"correct"})

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """1 for a token of a correct response."""
        assert inputs.correct is not None
        return {"correct": inputs.correct.to(inputs.old_logprobs.dtype)}

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The share N₊/N."""
        correct = values["correct"]
        return {"share": float(correct.sum()) / max(len(correct), 1)}

    def __call__(self, inputs: LossInputs) -> Tokens:
        """−log π · N/N₊ for a token of a correct response."""
        assert inputs.correct is not None
        share = inputs.statistics["share"] or 1.0
        return torch.where(inputs.correct, -inputs.logprobs, 0.0) / share


@dataclass(frozen=True, repr=False)
class kl_penalty(Term):
    """weight · Σ k(d_t) / N, d = log π − log π_ref: the distance from a reference, in nats.

    Schulman, "Approximating KL Divergence" (2020): k1 = d and k3 = e^−d − 1 + d are unbiased for
    KL(π‖π_ref) under π's own tokens, k2 = d²/2 is not but has less variance. A good value is not
    yet a good gradient. That of k1 has mean zero and penalises nothing; that of k2, d·∇log π, is
    the gradient of KL(π‖π_ref); that of k3, (1 − e^−d)·∇log π, is the gradient of KL(π_ref‖π).
    So k1 is given k2's gradient here. k3 is GRPO's penalty (2402.03300).

    Tokens of an older policy are taken as they are unless `corrected`, which multiplies k(d) by
    r = π/π_old (DeepSeek-V3.2, TRL's use_bias_correction_kl): of k3, the sum over the older
    policy's tokens is then an estimate of KL(π‖π_ref), and so is its gradient.

    k3 grows as e^−d, and so does its gradient: one token that the policy has all but given up would
    outweigh the batch. As in verl a token's k3 is cut at 10 nats, which d = −2.61 reaches: its
    gradient is 12.6 at most, and 0 beyond. For d > 0 it is below 1, and not cut.

    >>> one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    >>> [round(kl_estimate(one, zero, k).item(), 4) for k in ("k1", "k2", "k3")]
    [1.0, 0.5, 0.3679]
    """

    weight: float
    estimator: Estimator = "k3"
    _: KW_ONLY
    corrected: bool = False

    def __post_init__(self) -> None:
        at_least(self, 0, "weight")
        one_of(self, "estimator", Estimator)
        if self.corrected and self.estimator != "k3":
            raise ValueError(
                f"corrected goes with estimator = 'k3', not {self.estimator!r}: only there does "
                "π/π_old make the gradient that of KL(π‖π_ref)."
            )

    @property
    def needs(self) -> frozenset[str]:
        """The reference model's log-probs."""
        return frozenset({"reference_logprobs"})

    def __call__(self, inputs: LossInputs) -> Tokens:
        """k(d) of each token."""
        assert inputs.reference_logprobs is not None
        cost = kl_estimate(inputs.logprobs, inputs.reference_logprobs, self.estimator)
        return inputs.ratio * cost if self.corrected else cost


def kl_estimate(logprobs: Tokens, reference_logprobs: Tokens, estimator: Estimator) -> Tokens:
    """k1, k2 or k3 of each token, with the gradient that `kl_penalty` describes."""
    gap = (logprobs - reference_logprobs.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k3":
        per_token = torch.exp(-gap) - 1 + gap
        return torch.where(gap < 0, per_token.clamp(max=LARGEST_K3), per_token)
    per_token = 0.5 * gap**2
    if estimator == "k1":
        per_token = per_token + (gap - per_token).detach()
    return per_token


@dataclass(frozen=True, repr=False)
class entropy_bonus(Term):
    """−weight · Σ H_t / N: its gradient raises the entropy of every token.

    The entropies must carry gradient, as those of `erclip.ops.linear_logprob_entropy` do.

    >>> entropies = torch.tensor([[0.5, 1.5]], requires_grad=True)
    >>> zero = torch.zeros(1, 2, requires_grad=True)
    >>> loss_fn = policy_loss(reinforce(), terms=[entropy_bonus(weight=0.1)])
    >>> loss_fn(logprobs=zero, old_logprobs=zero, advantages=torch.zeros(1),
    ...         mask=torch.ones(1, 2).bool(), entropies=entropies).loss.backward()
    >>> entropies.grad.tolist()
    [[-0.05000000074505806, -0.05000000074505806]]
    """

    weight: float

    def __post_init__(self) -> None:
        at_least(self, 0, "weight")

    @property
    def needs(self) -> frozenset[str]:
        """Entropies with gradient."""
        return frozenset({"entropies", "live_entropies"})

    def __call__(self, inputs: LossInputs) -> Tokens:
        """−H of each token."""
        assert inputs.live_entropies is not None
        return -inputs.live_entropies


@dataclass(frozen=True, repr=False)
class log_ratio_penalty(Term):
    """weight · Σ (log r_t)² / N: a pull on every token back to its anchor, in nats².

    IPO's τ (prime-rl) and Kimi k1.5's regulariser (2501.12599). Its gradient is bounded by the
    distance itself: 2 log r · ∇log π.

    >>> logprobs = torch.full((1, 1), 0.5, requires_grad=True)
    >>> one = torch.ones(1, 1)
    >>> loss_fn = policy_loss(reinforce(), terms=[log_ratio_penalty(0.1, anchor="old")])
    >>> loss_fn(logprobs=logprobs, old_logprobs=one * 0, advantages=one * 0,
    ...         mask=one.bool()).loss.backward()
    >>> round(logprobs.grad.item(), 4)
    0.1
    """

    weight: float
    _: KW_ONLY
    anchor: Anchor = "sampler"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        at_least(self, 0, "weight")

    def __call__(self, inputs: LossInputs) -> Tokens:
        """(log r)² of each token."""
        return log_ratio(inputs, self.anchor) ** 2


@dataclass(frozen=True, repr=False)
class adaptive_entropy(Term, MiniBatchRule):
    """−c · Σ H_t / N where the mini-batch's mean entropy is ≤ target (nats), with a c that adapts.

    c begins at `low`. Each mini-batch moves it by +step if its mean entropy is ≤ target, else by
    −step, within [low, high]; above the target there is no bonus. TRL's and Skywork-OR1's adaptive
    entropy control (2505.22312). c is part of the loss's `statistics`: pass the last ones
    as `previous`, and keep them in a checkpoint. `of` says whose entropy is compared with the
    target: the old policy's costs nothing, the current one's a forward pass without gradient at
    every update (TRL takes that of the update before).

    >>> entropies = torch.tensor([[0.5, 1.5]], requires_grad=True)
    >>> zero = torch.zeros(1, 2)
    >>> loss_fn = policy_loss(reinforce(), terms=[adaptive_entropy(2.0, 0.1, 0.0, 1.0)])
    >>> loss_fn(logprobs=zero, old_logprobs=zero, advantages=torch.zeros(1), old_entropies=zero + 1,
    ...         mask=torch.ones(1, 2).bool(), entropies=entropies).loss.backward()
    >>> [round(x, 4) for x in entropies.grad[0].tolist()]
    [-0.05, -0.05]
    """

    target: float
    step: float
    low: float
    high: float
    _: KW_ONLY
    of: Whose = "old"

    def __post_init__(self) -> None:
        at_least(self, 0, "target", "step", "low")
        above(self, self.low, "high")
        one_of(self, "of", Whose)

    @property
    def needs(self) -> frozenset[str]:
        """Entropies with gradient, and those that are measured."""
        measured = "entropies" if self.measures_current else "old_entropies"
        return frozenset({"entropies", "live_entropies", measured})

    @property
    def measures_current(self) -> bool:
        """Whether it measures the current policy's entropy."""
        return self.of == "current"

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """The entropy."""
        entropies = inputs.entropies if self.measures_current else inputs.old_entropies
        assert entropies is not None
        return {"entropy": entropies}

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The coefficient that this mini-batch moved, and what of it acts."""
        coefficient = previous.get("coefficient", self.low)
        if not len(values["entropy"]):
            return {"coefficient": coefficient, "acting": 0.0}
        short = float(values["entropy"].mean()) <= self.target
        moved = coefficient + (self.step if short else -self.step)
        coefficient = min(max(moved, self.low), self.high)
        return {"coefficient": coefficient, "acting": coefficient if short else 0.0}

    def __call__(self, inputs: LossInputs) -> Tokens:
        """−c · H of each token."""
        assert inputs.live_entropies is not None
        return -inputs.statistics["acting"] * inputs.live_entropies
