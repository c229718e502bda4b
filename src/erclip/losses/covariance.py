"""Rules that look for the few tokens which drive entropy down: those of high covariance.

cov_t = (A_t − mean A) (log π_t − mean log π), means over the mini-batch: to first order an update
lowers the entropy by the mean of cov ("The Entropy Mechanism", 2505.22617). Both rules measure the
policy in training: a forward pass without gradient at every update.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from erclip.losses.checks import above, at_least, share
from erclip.losses.parts import Constraint, MiniBatchRule, Term
from erclip.losses.ratios import Anchor, check_anchor, log_ratio
from erclip.losses.types import ConstraintOutput, Flags, LossInputs, Tokens


class Covariance(MiniBatchRule):
    """What both rules measure."""

    @property
    def measures_current(self) -> bool:
        """They look at log π."""
        return True

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """The two factors of the covariance."""
        return {"advantage": inputs.advantages, "logprob": inputs.logprobs.detach()}

    def means(self, values: Mapping[str, Float[Tensor, " N"]]) -> dict[str, float]:
        """Of both factors."""
        count = max(len(values["logprob"]), 1)
        return {
            "mean_advantage": float(values["advantage"].sum()) / count,
            "mean_logprob": float(values["logprob"].sum()) / count,
        }


def covariance(advantages: Tensor, logprobs: Tensor, means: Mapping[str, float]) -> Tensor:
    """cov of each token, in nats."""
    return (advantages - means["mean_advantage"]) * (logprobs - means["mean_logprob"])


@dataclass(frozen=True, repr=False)
class clip_cov(Constraint, Covariance):
    """Drop a random `fraction` of the mini-batch's tokens among those with low < cov < high.

    Clip-Cov (2505.22617). Tokens that the surrogate has clipped are not among them. max(⌊fraction ·
    N⌋, 1) tokens are dropped, or as many as there are; which ones, their `lots` say. Reported as
    `clip_cov`.

    >>> loss_fn = policy_loss(reinforce(), [clip_cov(fraction=0.5, low=0.5, high=5.0)])
    >>> x = torch.tensor([[-0.1, -2.0], [-3.0, -0.1]])
    >>> out = loss_fn(logprobs=x, old_logprobs=x, advantages=torch.tensor([1.0, -1.0]),
    ...     mask=torch.ones(2, 2).bool(), lots=torch.tensor([[0.5, 0.5], [0.4, 0.3]]))
    >>> out.clipped["clip_cov"].tolist()  # cov is 1.2, −0.7, 1.7 and −1.2
    [[True, False], [True, False]]
    """

    fraction: float = 2e-4
    low: float = 1.0
    high: float = 5.0

    def __post_init__(self) -> None:
        share(self, "fraction")
        above(self, self.low, "high")

    @property
    def needs(self) -> frozenset[str]:
        """A lot per token."""
        return frozenset({"lots"})

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """The factors, the lot, and whether the surrogate left the token alone."""
        assert inputs.lots is not None
        free = _untouched(inputs).to(inputs.logprobs.dtype)
        return {**super().measure(inputs), "lot": inputs.lots, "free": free}

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The means, and the largest lot that is drawn."""
        means = self.means(values)
        cov = covariance(values["advantage"], values["logprob"], means)
        lots = values["lot"][self._between(cov) & (values["free"] > 0)].sort().values
        count = min(max(int(self.fraction * len(cov)), 1), len(lots))
        return {**means, "largest_lot": float(lots[count - 1]) if count else -1.0}

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """The tokens that are drawn."""
        assert inputs.lots is not None
        cov = covariance(inputs.advantages, inputs.logprobs.detach(), inputs.statistics)
        drawn = inputs.lots <= inputs.statistics["largest_lot"]
        return ConstraintOutput({"clip_cov": self._between(cov) & _untouched(inputs) & drawn})

    def _between(self, cov: Tensor) -> Tensor:
        return (cov > self.low) & (cov < self.high)


@dataclass(frozen=True, repr=False)
class kl_cov(Term, Covariance):
    """+weight · |log r| for the `fraction` of the mini-batch's tokens with the highest cov.

    KL-Cov (2505.22617): the tokens that drive entropy down pay for their distance from the anchor,
    in nats. max(⌊fraction · N⌋, 1) tokens pay, more where they tie. Published weights are 1 and,
    in recipes, 0.1.

    >>> loss_fn = policy_loss(reinforce(), terms=[kl_cov(fraction=0.25, weight=1.0)])
    >>> x = torch.tensor([[-0.1, -2.0], [-3.0, -0.1]])
    >>> out = loss_fn(logprobs=x, old_logprobs=x + 0.5, advantages=torch.tensor([1.0, -1.0]),
    ...     mask=torch.ones(2, 2).bool())
    >>> out.terms["kl_cov"].tolist()
    [[0.0, 0.0], [0.5, 0.0]]
    """

    fraction: float = 2e-4
    weight: float = 1.0
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        share(self, "fraction")
        at_least(self, 0, "weight")

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The means, and the least covariance that pays."""
        means = self.means(values)
        cov = covariance(values["advantage"], values["logprob"], means)
        count = min(max(int(self.fraction * len(cov)), 1), len(cov))
        return {**means, "least": float(cov.topk(count).values[-1]) if count else 0.0}

    def __call__(self, inputs: LossInputs) -> Tokens:
        """|log r| of those who pay."""
        # in float64, as in `summarise`: the last one that pays is not lost to rounding
        factors = (inputs.advantages.double(), inputs.logprobs.detach().double())
        pays = covariance(*factors, inputs.statistics) >= inputs.statistics["least"]
        return torch.where(pays, log_ratio(inputs, self.anchor).abs(), 0.0)


def _untouched(inputs: LossInputs) -> Flags:
    """Tokens on which the surrogate's bounds did not act."""
    return ~functools.reduce(operator.or_, inputs.clipped.values(), torch.zeros_like(inputs.mask))
