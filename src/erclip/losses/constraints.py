"""Constraints: rules that take a token's gradient away, whatever the surrogate wanted with it.

Each factory returns a function `LossInputs → ConstraintOutput`. A constrained token keeps its
place in the loss value and in the denominator, as in the paper's reference code.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from erclip.losses.types import Constraint, ConstraintOutput, LossInputs, Tokens

ErcRule = Literal["paper", "directional", "directional_sampled"]
ENTROPY_FLOOR = 1e-8  # nats, added to both entropies: two one-hot distributions have ratio 1


def entropy_ratio(entropies: Tokens, old_entropies: Tokens) -> Tokens:
    """ρ_t = (H(π_θ,t) + 1e-8) / (H(π_old,t) + 1e-8), entropies in nats (2512.05591)."""
    return (entropies + ENTROPY_FLOOR) / (old_entropies + ENTROPY_FLOOR)


def entropy_ratio_clip(
    low: float = 0.05,
    high: float = 0.05,
    rule: ErcRule = "paper",
    min_entropy_change: float = 0.0,
    softness: float = 0.0,
) -> Constraint:
    """keep_t = 1[1 − low < ρ_t < 1 + high], strictly (ERC, 2512.05591).

    `rule="directional"` keeps a token outside the band when its own update would move ρ back: to
    first order dH ∝ A · ⟨∇ log π(a), ∇H⟩, and only dH away from the band is clipped. It needs
    `entropy_slopes`, which `erclip.ops.linear_logprob_entropy(slopes=True)` returns.
    `rule="directional_sampled"` takes the direction from the sampled token alone, dH ∝
    −A (log π(a) + H): it needs no slopes, and errs where Σ_j p_j S_j outweighs S_a.
    `min_entropy_change` (nats) keeps a token whose |ΔH| is below it: at low entropy a band in
    relative terms is narrower than rounding noise. With `softness` > 0 a token whose ρ is d beyond
    the band keeps the share e^(−d/softness) of its gradient; 0 is the paper's hard clip.

    The loss refuses to run without entropies: ρ is never estimated. A NaN entropy is clipped, and
    shows as both `erc_low` and `erc_high`.

    >>> one = torch.ones(1, 3)
    >>> loss_fn = policy_loss(ppo_clip(), constraints=[entropy_ratio_clip(low=0.05, high=0.05)])
    >>> out = loss_fn(logprobs=-one, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...               entropies=torch.tensor([[0.94, 1.0, 1.06]]), old_entropies=one)
    >>> out.erc_low.tolist(), out.erc_high.tolist()
    ([[True, False, False]], [[False, False, True]])
    """
    for name, distance in (
        ("low", low),
        ("high", high),
        ("min_entropy_change", min_entropy_change),
        ("softness", softness),
    ):
        if not distance >= 0:
            raise ValueError(f"{name} of entropy_ratio_clip must be at least 0, not {distance}.")
    if rule not in get_args(ErcRule):
        raise ValueError(f"rule must be one of {', '.join(get_args(ErcRule))}, not {rule!r}.")

    def constraint(inputs: LossInputs) -> ConstraintOutput:
        if inputs.entropies is None or inputs.old_entropies is None:
            raise ValueError(
                "entropy_ratio_clip needs `entropies` and `old_entropies`; compute both with "
                "erclip.ops.linear_logprob_entropy, in the same dtype and at the same temperature."
            )
        rho = entropy_ratio(inputs.entropies, inputs.old_entropies)
        erc_low, erc_high = ~(rho > 1 - low), ~(rho < 1 + high)
        if rule != "paper":
            entropy_gain = inputs.advantages * _slopes(inputs, rule)
            erc_low, erc_high = erc_low & ~(entropy_gain >= 0), erc_high & ~(entropy_gain <= 0)
        if min_entropy_change > 0:
            small = (inputs.entropies - inputs.old_entropies).abs() < min_entropy_change
            erc_low, erc_high = erc_low & ~small, erc_high & ~small
        kept = None
        if softness > 0:
            beyond = torch.maximum(1 - low - rho, rho - 1 - high).clamp(min=0)
            kept = torch.where(rho.isnan(), 0.0, (-beyond / softness).exp())
        return ConstraintOutput(erc_low=erc_low, erc_high=erc_high, kept=kept)

    return constraint


def _slopes(inputs: LossInputs, rule: ErcRule) -> Tokens:
    """⟨∇_z log π(a), ∇_z H⟩ at each token, or what its sampled token alone says of its sign."""
    assert inputs.entropies is not None
    if rule == "directional_sampled":
        return -(inputs.logprobs.detach() + inputs.entropies)
    if inputs.entropy_slopes is None:
        raise ValueError(
            'rule="directional" needs `entropy_slopes`; '
            "erclip.ops.linear_logprob_entropy(..., slopes=True) returns them."
        )
    return inputs.entropy_slopes


def random_mask(rate: float, generator: torch.Generator | None = None) -> Constraint:
    """Each token loses its gradient with probability `rate`: the control for every claim about ERC.

    Any mask removes gradient and so steadies training a little; ERC has to beat one of its rate.

    >>> one = torch.ones(1, 4)
    >>> loss_fn = policy_loss(ppo_clip(), constraints=[random_mask(1.0)])
    >>> out = loss_fn(logprobs=-one, old_logprobs=-one, advantages=one, mask=one.bool())
    >>> out.random.all().item()
    True
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a probability and must lie in [0, 1], not {rate}.")

    def constraint(inputs: LossInputs) -> ConstraintOutput:
        draw = torch.rand(inputs.mask.shape, generator=generator, device=inputs.mask.device)
        return ConstraintOutput(random=draw < rate)

    return constraint
