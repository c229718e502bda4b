"""Controls that a constraint has to beat: they take as much away, but not from the same tokens.

`random_mask` takes a fixed share, from the first update on, where ERC takes nothing because ρ is 1.
`shuffled_erc` takes what ERC would take of the very same mini-batch, and shuffles it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from erclip.losses.checks import one_of
from erclip.losses.constraints import ErcRule, entropy_ratio_clip
from erclip.losses.parts import Constraint, MiniBatchRule
from erclip.losses.types import ConstraintOutput, LossInputs, Tokens

Match = Literal["tokens", "gradient"]


@dataclass(frozen=True, repr=False)
class shuffled_erc(Constraint, MiniBatchRule):
    """ERC's clipping, handed to tokens drawn at random: the same amount in every update.

    The tokens of the mini-batch lose their gradient in the order of their `lots`, which no
    micro-batching changes. `match="tokens"` stops at as many as `entropy_ratio_clip` with these
    arguments would clip, `match="gradient"` where Σ |A| r (1 − π(a)) of those dropped is as near as
    can be to that of ERC's: |A| r (1 − π(a)) is the size of the unclipped objective's gradient at
    the sampled token's logit. What ERC would clip follows this policy's own drift, the drift of a
    run with the control; it is measured in a forward pass without gradient at every update. Dropped
    tokens are reported as `random`; tokens whose lot ties with the last one's are dropped with it.

    >>> one = torch.ones(1, 4)
    >>> loss_fn = policy_loss(ppo_clip(), constraints=[shuffled_erc()])
    >>> out = loss_fn(logprobs=-one, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...               entropies=torch.tensor([[0.5, 0.5, 1.0, 1.0]]), old_entropies=one,
    ...               lots=torch.tensor([[0.9, 0.3, 0.6, 0.1]]))
    >>> out.random.tolist(), out.erc_low.any().item()
    ([[False, True, False, True]], False)
    """

    low: float = 0.05
    high: float = 0.05
    rule: ErcRule = "paper"
    min_entropy_change: float = 0.0
    match: Match = "tokens"

    def __post_init__(self) -> None:
        one_of(self, "match", Match)
        self._erc  # noqa: B018 - refuses what ERC refuses

    @property
    def _erc(self) -> entropy_ratio_clip:
        return entropy_ratio_clip(self.low, self.high, self.rule, self.min_entropy_change)

    @property
    def needs(self) -> frozenset[str]:
        """What ERC needs, and a lot per token."""
        return self._erc.needs | {"lots"}

    @property
    def measures_current(self) -> bool:
        """ERC looks at the entropies."""
        return True

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """The lot, the size of what the token could lose, and as much of it as ERC would take."""
        assert inputs.lots is not None
        flags = self._erc(inputs).clipped
        size = torch.ones_like(inputs.ratio)
        if self.match == "gradient":
            size = inputs.advantages.abs() * inputs.ratio * -torch.expm1(inputs.logprobs)
        taken = torch.where(flags["erc_low"] | flags["erc_high"], size, 0.0)
        return {"lot": inputs.lots, "size": size, "taken": taken}

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The last lot that is dropped; −1, below all of them, if none is."""
        order = values["lot"].argsort(stable=True)
        sums = values["size"][order].cumsum(0)
        sums = torch.cat([sums.new_zeros(1), sums])  # of the first 0, 1, … N tokens
        count = int((sums - values["taken"].sum()).abs().argmin())
        return {"last_lot": float(values["lot"][order[count - 1]]) if count else -1.0}

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens up to that lot."""
        assert inputs.lots is not None
        return ConstraintOutput({"random": inputs.lots <= inputs.statistics["last_lot"]})
