"""policy_loss: surrogate × importance × constraints × aggregation, as one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erclip.losses.constraints import entropy_ratio
from erclip.losses.types import (
    MAX_LOG_RATIO,
    Aggregate,
    Constraint,
    Flags,
    Importance,
    LossInputs,
    LossOutput,
    Surrogate,
    Tokens,
)


def token_mean(objective: Tokens, mask: Flags, num_tokens: float | Tensor) -> Tensor:
    """−Σ objective / N with one N for the whole mini-batch, never a mean of micro-batch means.

    N counts all response tokens, clipped ones included (DAPO, 2503.14476).

    >>> token_mean(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]]), 4).item()
    -0.75
    """
    return -torch.where(mask, objective, 0.0).sum() / num_tokens


def policy_loss(
    surrogate: Surrogate,
    constraints: Sequence[Constraint] = (),
    aggregate: Aggregate = token_mean,
    importance: Importance | None = None,
) -> Callable[..., LossOutput]:
    """L = −Σ_t keep_t · w_t · surrogate_t / N: any surrogate under any set of constraints.

    `importance` says w, the weight for tokens that another policy drew; without it w = 1.

    Returns `loss_fn(*, logprobs, old_logprobs, advantages, mask, entropies=None,
    old_entropies=None, entropy_slopes=None, sampler_logprobs=None, num_tokens=None) → LossOutput`.

    >>> erc_gppo = policy_loss(gppo_clip(0.2, 0.2), constraints=[entropy_ratio_clip(0.05, 0.05)])
    >>> one = torch.ones(1, 2)
    >>> erc_gppo(logprobs=-one, old_logprobs=-one, advantages=one, mask=one.bool(),
    ...          entropies=one, old_entropies=one).loss.item()
    -1.0
    """
    constraints = tuple(constraints)

    def loss_fn(
        *,
        logprobs: Float[Tensor, "B T"],
        old_logprobs: Float[Tensor, "B T"],
        advantages: Float[Tensor, "B T"] | Float[Tensor, "B 1"] | Float[Tensor, " B"],
        mask: Bool[Tensor, "B T"],
        entropies: Float[Tensor, "B T"] | None = None,
        old_entropies: Float[Tensor, "B T"] | None = None,
        entropy_slopes: Float[Tensor, "B T"] | None = None,
        sampler_logprobs: Float[Tensor, "B T"] | None = None,
        num_tokens: float | Tensor | None = None,
    ) -> LossOutput:
        """Loss of one (micro-)batch; `num_tokens` is the mini-batch's count, None this batch's own.

        Losses and gradients of micro-batches that share `num_tokens` add up to the mini-batch's.
        What lies outside `mask` is never read, NaN included. Raises ValueError for mismatched
        shapes, low-precision log-probs, and tensors that a part needs and does not get.
        """
        optional = {
            "entropies": entropies,
            "old_entropies": old_entropies,
            "entropy_slopes": entropy_slopes,
            "sampler_logprobs": sampler_logprobs,
        }
        inputs = _prepare(logprobs, old_logprobs, advantages, mask, optional)
        denominator = mask.sum().clamp(min=1) if num_tokens is None else num_tokens
        return _evaluate(inputs, surrogate, importance, constraints, aggregate, denominator)

    return loss_fn


def _prepare(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    optional: dict[str, Tensor | None],
) -> LossInputs:
    """Check shapes and dtypes, blank out what lies outside the mask, form the ratio."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, not {mask.dtype}; pass mask.bool().")
    if logprobs.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"logprobs must be float32 (or float64), not {logprobs.dtype}: "
            "rounded log-probs make ratios noise."
        )
    if advantages.dim() == mask.dim() - 1:
        advantages = advantages.unsqueeze(-1)
    if advantages.dim() == mask.dim():
        advantages = advantages.expand(*advantages.shape[:-1], mask.shape[-1])

    def blank(name: str, tensor: Tensor) -> Tensor:
        if tensor.shape != mask.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, mask has {tuple(mask.shape)}; "
                "all token tensors of a loss share one shape."
            )
        return torch.where(mask, tensor, 0.0)

    logprobs = blank("logprobs", logprobs)
    old_logprobs = blank("old_logprobs", old_logprobs.detach())
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        ratio=(logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(),
        advantages=blank("advantages", advantages),
        mask=mask,
        **{
            name: None if tensor is None else blank(name, tensor.detach())
            for name, tensor in optional.items()
        },
    )


def _evaluate(
    inputs: LossInputs,
    surrogate: Surrogate,
    importance: Importance | None,
    constraints: Sequence[Constraint],
    aggregate: Aggregate,
    num_tokens: float | Tensor,
) -> LossOutput:
    objective, ppo_low, ppo_high, dual = surrogate(inputs)
    if importance is not None:
        objective = importance(inputs) * objective
    none = torch.zeros_like(inputs.mask)
    fired = {"erc_low": none, "erc_high": none, "random": none}
    for constraint in constraints:
        flags = constraint(inputs)
        held = objective.detach()
        if flags.kept is not None:
            held = held + flags.kept * (objective - held)
        hit = none
        for name in fired:
            if (own := getattr(flags, name)) is not None:
                fired[name], hit = fired[name] | own, hit | own
        objective = torch.where(hit, held, objective)
    rho = None
    if inputs.entropies is not None and inputs.old_entropies is not None:
        rho = entropy_ratio(inputs.entropies, inputs.old_entropies)
    reasons = {"ppo_low": ppo_low, "ppo_high": ppo_high, "dual": dual, **fired}
    return LossOutput(
        loss=aggregate(objective, inputs.mask, num_tokens),
        ratio=inputs.ratio.detach(),
        entropy_ratio=rho,
        **{name: flag & inputs.mask for name, flag in reasons.items()},
    )
