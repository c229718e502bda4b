"""Rules that are no method but a question: mechanism.toml asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from erclip.losses.parts import Constraint, Term
from erclip.losses.types import ConstraintOutput, LossInputs, Tokens


@dataclass(frozen=True, repr=False)
class quarter(Constraint):
    """Tokens of one sign of A whose own update moves H one way keep the share `keep` of gradient.

    To first order a token's update moves its entropy by dH ∝ A · ⟨∇ log π(a), ∇H⟩. A > 0 and dH > 0
    is the reinforcing of a token that is unlikely where the policy is sure.
    """

    advantage: Literal["positive", "negative"]
    entropy: Literal["up", "down"]
    keep: float = 0.0

    @property
    def needs(self) -> frozenset[str]:
        """The slope of the entropy along the token's log-prob."""
        return frozenset({"entropy_slopes"})

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """The tokens of the quarter."""
        assert inputs.entropy_slopes is not None
        gain = inputs.advantages * inputs.entropy_slopes
        sign = inputs.advantages if self.advantage == "positive" else -inputs.advantages
        inside = (sign > 0) & ((gain if self.entropy == "up" else -gain) > 0)
        return ConstraintOutput(
            {"quarter": inside}, {"quarter": torch.where(inside, self.keep, 1.0)}
        )


@dataclass(frozen=True, repr=False)
class sharpening(Term):
    """weight · Σ H / N: entropy falls whatever the verdicts say, an entropy bonus turned round."""

    weight: float = 0.01

    @property
    def needs(self) -> frozenset[str]:
        """Entropies with gradient."""
        return frozenset({"entropies", "live_entropies"})

    def __call__(self, inputs: LossInputs) -> Tokens:
        """The entropy itself."""
        assert inputs.live_entropies is not None
        return inputs.live_entropies
