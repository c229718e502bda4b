"""Constraints that choose among the tokens of a whole mini-batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from erclip.losses.parts import Constraint, MiniBatchRule
from erclip.losses.types import ConstraintOutput, LossInputs, Tokens

Whose = Literal["old", "current"]


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
