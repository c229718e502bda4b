"""Constraints: rules that take a token's gradient away, whatever the surrogate wanted with it.

A constrained token keeps its place in the loss value and in the denominator, as in the reference
code of the ERC paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from erclip.losses.parts import Constraint
from erclip.losses.types import ConstraintOutput, LossInputs, Tokens

ErcRule = Literal["paper", "directional", "directional_sampled"]
ENTROPY_FLOOR = 1e-8  # nats, added to both entropies: two one-hot distributions have ratio 1


def entropy_ratio(
    entropies: Float[Tensor, "*B"], old_entropies: Float[Tensor, "*B"]
) -> Float[Tensor, "*B"]:
    """ρ_t = (H(π_θ,t) + 1e-8) / (H(π_old,t) + 1e-8), entropies in nats (2512.05591)."""
    return (entropies + ENTROPY_FLOOR) / (old_entropies + ENTROPY_FLOOR)


@dataclass(frozen=True, repr=False)
class entropy_ratio_clip(Constraint):
    """keep_t = 1[1 − low < ρ_t < 1 + high], strictly (ERC, 2512.05591).

    `rule="directional"` keeps a token outside the band when its own update would move ρ back: to
    first order dH ∝ A · ⟨∇ log π(a), ∇H⟩, and only dH away from the band is clipped. It needs
    `entropy_slopes`, which `erclip.ops.linear_logprob_entropy(slopes=True)` returns.
    `rule="directional_sampled"` takes the direction from the sampled token alone, dH ∝
    −A (log π(a) + H): it needs no slopes, and errs where Σ_j p_j S_j outweighs S_a.
    `min_entropy_change` (nats) keeps a token whose |ΔH| is below it: at low entropy a band in
    relative terms is narrower than rounding noise. With `softness` > 0 a token whose ρ is d beyond
    the band keeps the share e^(−d/softness) of its gradient; 0 is the paper's hard clip.

    Reported as `erc_low` and `erc_high`, with softness also as the weight `erc`. The loss refuses
    to run without entropies: ρ is never estimated. A NaN entropy is clipped, and shows as both.

    >>> one = torch.ones(1, 3)
    >>> loss_fn = policy_loss(ppo_clip(), constraints=[entropy_ratio_clip(low=0.05, high=0.05)])
    >>> out = loss_fn(logprobs=-one, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...               entropies=torch.tensor([[0.94, 1.0, 1.06]]), old_entropies=one)
    >>> out.erc_low.tolist(), out.erc_high.tolist()
    ([[True, False, False]], [[False, False, True]])
    """

    low: float = 0.05
    high: float = 0.05
    rule: ErcRule = "paper"
    min_entropy_change: float = 0.0
    softness: float = 0.0

    def __post_init__(self) -> None:
        for name in ("low", "high", "min_entropy_change", "softness"):
            distance = getattr(self, name)
            if not distance >= 0:
                raise ValueError(
                    f"{name} of entropy_ratio_clip must be at least 0, not {distance}."
                )
        if self.rule not in get_args(ErcRule):
            known = ", ".join(get_args(ErcRule))
            raise ValueError(f"rule must be one of {known}, not {self.rule!r}.")

    @property
    def needs(self) -> frozenset[str]:
        """Both entropies; slopes for the directional rule."""
        slopes = {"entropy_slopes"} if self.rule == "directional" else set()
        return frozenset({"entropies", "old_entropies", *slopes})

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens outside the band."""
        assert inputs.entropies is not None
        assert inputs.old_entropies is not None
        rho = entropy_ratio(inputs.entropies, inputs.old_entropies)
        erc_low, erc_high = ~(rho > 1 - self.low), ~(rho < 1 + self.high)
        if self.rule != "paper":
            entropy_gain = inputs.advantages * self._slopes(inputs)
            erc_low, erc_high = erc_low & ~(entropy_gain >= 0), erc_high & ~(entropy_gain <= 0)
        if self.min_entropy_change > 0:
            small = (inputs.entropies - inputs.old_entropies).abs() < self.min_entropy_change
            erc_low, erc_high = erc_low & ~small, erc_high & ~small
        clipped = {"erc_low": erc_low, "erc_high": erc_high}
        if self.softness == 0:
            return ConstraintOutput(clipped)
        beyond = torch.maximum(1 - self.low - rho, rho - 1 - self.high).clamp(min=0)
        kept = torch.where(rho.isnan(), 0.0, (-beyond / self.softness).exp())
        return ConstraintOutput(clipped, {"erc": torch.where(erc_low | erc_high, kept, 1.0)})

    def _slopes(self, inputs: LossInputs) -> Tokens:
        """⟨∇_z log π(a), ∇_z H⟩, or what the sampled token alone says of its sign."""
        if self.rule == "directional":
            assert inputs.entropy_slopes is not None
            return inputs.entropy_slopes
        assert inputs.entropies is not None
        return -(inputs.logprobs.detach() + inputs.entropies)


@dataclass(frozen=True, repr=False)
class random_mask(Constraint):
    """Each token loses its gradient with probability `rate`: the control for every claim about ERC.

    Any mask removes gradient and so steadies training a little; ERC has to beat one of its rate.
    A token is drawn by its lot if the caller gives `lots`, which no micro-batching changes, and
    else from torch's generator or from `generator`, call by call.

    >>> one = torch.ones(1, 4)
    >>> loss_fn = policy_loss(ppo_clip(), constraints=[random_mask(1.0)])
    >>> out = loss_fn(logprobs=-one, old_logprobs=-one, advantages=one, mask=one.bool())
    >>> out.random.all().item()
    True
    """

    rate: float
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate is a probability and must lie in [0, 1], not {self.rate}.")

    @property
    def needs(self) -> frozenset[str]:
        """A lot per token, unless it draws them itself."""
        return frozenset({"lots"} if self.generator is None else ())

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens whose lot lies below the rate."""
        lots = inputs.lots
        if self.generator is not None or lots is None:
            shape, device = inputs.mask.shape, inputs.mask.device
            lots = torch.rand(shape, generator=self.generator, device=device)
        return ConstraintOutput({"random": lots < self.rate})
