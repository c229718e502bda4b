"""Constraints that choose among the tokens of a whole mini-batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from erclip.losses.checks import at_least, one_of
from erclip.losses.parts import Constraint, MiniBatchRule
from erclip.losses.ratios import Anchor, check_anchor, log_ratio
from erclip.losses.types import ConstraintOutput, LossInputs, Tokens

Whose = Literal["old", "current"]
Scope = Literal["outward", "all"]


@dataclass(frozen=True, repr=False)
class top_entropy(Constraint, MiniBatchRule):
    """Keep the `fraction` of the mini-batch's tokens whose entropy is highest, drop the rest.

    "Beyond the 80/20 rule" (2506.01939): the few tokens at which a response may fork carry most of
    what is learned. ⌈fraction · N⌉ tokens are kept, more where entropies tie. `of` says whose
    entropy: the old policy's costs nothing; the current one's takes a forward pass without gradient
    at every update. Dropped tokens are reported as `low_entropy`.

    >>> loss_fn = policy_loss(reinforce(), [top_entropy(fraction=0.25)])
    >>> zero = torch.zeros(1, 4)
    >>> out = loss_fn(logprobs=zero, old_logprobs=zero, advantages=torch.ones(1),
    ...     mask=torch.ones(1, 4).bool(), old_entropies=torch.tensor([[0.1, 2.0, 0.3, 0.0]]))
    >>> out.clipped["low_entropy"].tolist()
    [[True, False, True, True]]
    """

    fraction: float = 0.2
    _: KW_ONLY
    of: Whose = "old"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction of the tokens must lie in (0, 1], not {self.fraction}.")
        if self.of not in get_args(Whose):
            raise ValueError(f"of must be one of {', '.join(get_args(Whose))}, not {self.of!r}.")

    @property
    def needs(self) -> frozenset[str]:
        """The entropies that are compared."""
        return frozenset({"entropies" if self.measures_current else "old_entropies"})

    @property
    def measures_current(self) -> bool:
        """Whether these are the current policy's."""
        return self.of == "current"

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """The entropy."""
        return {"entropy": self._entropies(inputs)}

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The lowest entropy that is kept."""
        entropies = values["entropy"]
        kept = math.ceil(self.fraction * len(entropies))
        return {"threshold": float(entropies.topk(kept).values[-1]) if kept else -math.inf}

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens below it."""
        low = self._entropies(inputs) < inputs.statistics["threshold"]
        return ConstraintOutput({"low_entropy": low})

    def _entropies(self, inputs: LossInputs) -> Tokens:
        entropies = inputs.entropies if self.measures_current else inputs.old_entropies
        assert entropies is not None
        return entropies


@dataclass(frozen=True, repr=False)
class m2po(Constraint, MiniBatchRule):
    """Drop the largest (log r)² of the mini-batch until the mean of the rest is ≤ threshold.

    M2PO (2510.01161): the second moment of log r, in nats², bounds the χ² distance of a whole
    mini-batch, so that a few far tokens pay for it and the many near ones are left alone.
    `scope="outward"`, the paper's, looks only at tokens that move away (A > 0 and r > 1, or A < 0
    and r < 1) and takes the mean over them; `scope="all"`, AReaL's, ignores A. Tokens that tie with
    the last one kept are kept. It measures the policy in training: a forward pass without gradient
    at every update. Reported as `m2po`.

    >>> loss_fn = policy_loss(reinforce(), [m2po(threshold=0.04)])
    >>> x = torch.tensor([[0.1, 0.2, 0.5, -0.9]])  # the last one moves back
    >>> out = loss_fn(logprobs=x - 1, old_logprobs=-torch.ones(1, 4), advantages=torch.ones(1),
    ...     mask=torch.ones(1, 4).bool(), sampler_logprobs=-torch.ones(1, 4))
    >>> out.clipped["m2po"].tolist()  # (0.01 + 0.04) / 2 ≤ 0.04 < (0.01 + 0.04 + 0.25) / 3
    [[False, False, True, False]]
    """

    threshold: float = 0.04
    scope: Scope = "outward"
    _: KW_ONLY
    anchor: Anchor = "sampler"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        at_least(self, 0, "threshold")
        one_of(self, "scope", Scope)

    @property
    def measures_current(self) -> bool:
        """It looks at the ratio."""
        return True

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """(log r)² of the tokens in scope, −1 for the others."""
        return {"moment": self._moments(inputs)}

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The largest (log r)² that is kept; −0.5, above those out of scope, if none is."""
        moments = values["moment"][values["moment"] >= 0].sort().values
        means = moments.cumsum(0) / torch.arange(1, len(moments) + 1, device=moments.device)
        kept = int((means <= self.threshold).sum())  # means of a growing sequence grow
        return {"largest": float(moments[kept - 1]) if kept else -0.5}

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens above it."""
        return ConstraintOutput({"m2po": self._moments(inputs) > inputs.statistics["largest"]})

    def _moments(self, inputs: LossInputs) -> Tokens:
        gap = log_ratio(inputs, self.anchor).detach()
        if self.scope == "all":
            return gap**2
        return torch.where(gap * inputs.advantages > 0, gap**2, -1.0)
