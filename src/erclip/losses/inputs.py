"""What a caller gives → `LossInputs`: shapes and dtypes checked, padding blanked, ratio formed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from erclip.losses.ratios import MAX_LOG_RATIO
from erclip.losses.types import LossInputs

TOP = frozenset({"top_logprobs", "sampler_top_logprobs"})
"""Inputs of several tokens at each position, [B, T, K]."""

SOURCES = {
    "entropies": "erclip.ops.linear_logprob_entropy returns them beside the log-probs",
    "old_entropies": "compute both with erclip.ops.linear_logprob_entropy, in the same dtype and "
    "at the same temperature",
    "entropy_slopes": "erclip.ops.linear_logprob_entropy(..., slopes=True) returns them",
    "entropy_slope_means": "erclip.ops.linear_logprob_entropy(..., mean_slopes=True) returns them",
    "sampler_logprobs": "the log-probs of the drawn tokens from the engine that drew them, at the "
    "sampling temperature",
    "top_logprobs": "erclip.ops.linear_logprob_entropy(..., top_ids=ids) returns them",
    "sampler_top_logprobs": "the log-probs of its likeliest tokens at every position, from the "
    "engine that drew the response",
    "reference_logprobs": "the log-probs of the same tokens under the frozen reference model",
    "correct": "which responses are correct",
    "lots": "one uniform number per token, the same in `statistics` and in the loss",
    "live_entropies": "entropies that carry gradient, as erclip.ops.linear_logprob_entropy returns",
}
"""Where an optional input comes from, for whoever lacks it."""


def prepare(
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    entropies: Tensor | None = None,
    top_logprobs: Tensor | None = None,
    correct: Tensor | None = None,
    live: bool = False,
    **optional: Any,
) -> LossInputs:
    """Check shapes and dtypes, blank out what lies outside the mask, form the ratio.

    `live` keeps the entropies' gradient beside them. Raises ValueError.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, not {mask.dtype}; pass mask.bool().")
    if logprobs.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"logprobs must be float32 (or float64), not {logprobs.dtype}: "
            "rounded log-probs make ratios noise."
        )

    logprobs = _blank("logprobs", logprobs, mask)
    old_logprobs = _blank("old_logprobs", old_logprobs.detach(), mask)
    live_entropies = None
    if live and entropies is not None and entropies.requires_grad >= logprobs.requires_grad:
        live_entropies = _blank("entropies", entropies, mask)
    correct = None if correct is None else per_token(correct.bool(), mask)
    constants = {"entropies": entropies, "correct": correct, **optional}
    blanked: dict[str, Any] = {
        name: None if value is None else _blank(name, value.detach(), mask)
        for name, value in constants.items()
    }
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        ratio=(logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(),
        advantages=_blank("advantages", per_token(advantages, mask), mask),
        mask=mask,
        live_entropies=live_entropies,
        top_logprobs=None if top_logprobs is None else _blank("top_logprobs", top_logprobs, mask),
        **blanked,
    )


def _blank(name: str, tensor: Tensor, mask: Tensor) -> Tensor:
    shape, inside = tensor.shape, mask
    if name in TOP:
        shape, inside = shape[:-1], mask[..., None]
    if shape != mask.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, mask has {tuple(mask.shape)}; "
            "all token tensors of a loss share one shape."
        )
    return torch.where(inside, tensor, False if tensor.dtype == torch.bool else 0.0)


def per_token(values: Tensor, mask: Tensor) -> Tensor:
    """[B] or [B, 1] as [B, T]; anything else as it is."""
    if values.dim() == mask.dim() - 1:
        values = values.unsqueeze(-1)
    if values.dim() == mask.dim() and values.shape[-1] == 1:
        values = values.expand(*values.shape[:-1], mask.shape[-1])
    return values


def check_needs(name: str, needs: Collection[str], inputs: LossInputs) -> None:
    """Raise ValueError, in one sentence with the remedy, for the first field a part would miss."""
    needed = [field.name for field in fields(inputs) if field.name in needs]
    for field in needed:
        if getattr(inputs, field) is None:
            *first, last = (f"`{n.removeprefix('live_')}`" for n in needed)
            words = f"{', '.join(first)} and {last}" if first else last
            raise ValueError(
                f"{name} needs {words}; `{field.removeprefix('live_')}` is missing: "
                f"{SOURCES[field]}."
            )
