"""TRL's micro-batch → the arguments of a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from erclip.integrations.hf.head import Scored

Batch = dict[str, Any]


def loss_mask(batch: Batch) -> Tensor:
    """The completion's own tokens."""
    mask = batch["completion_mask"]
    return (mask * batch["tool_mask"] if "tool_mask" in batch else mask).bool()


def loss_tensors(batch: Batch, new: Scored | None, old: Scored | None = None) -> dict[str, Any]:
    """A micro-batch as the loss's arguments: `new` are the current policy's scores, if asked for.

    `old` stands in for the scores in the batch, in evaluation, where old and new are one policy.
    """
    old_logprobs, old_entropies = batch.get("old_per_token_logps"), batch.get("old_entropies")
    if old is not None:
        old_logprobs, old_entropies = old.logprobs.detach(), old.entropies.detach()
    advantages = batch["advantages"]
    if "importance_sampling_ratio" in batch:  # every surrogate is linear in A, and this is ≥ 0
        advantages = advantages.view(len(advantages), -1) * batch["importance_sampling_ratio"]
    tensors = {
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "mask": loss_mask(batch),
        "old_entropies": old_entropies,
        "sampler_logprobs": _sampler_logprobs(batch, old_logprobs),
        "reference_logprobs": batch.get("ref_per_token_logps"),
        "lots": batch.get("lots"),
    }
    if new is None:
        return tensors
    own = {"logprobs": new.logprobs, "entropies": new.entropies, "entropy_slopes": new.slopes}
    return {**tensors, **own}


def _sampler_logprobs(batch: Batch, old: Tensor | None) -> Tensor | None:
    """An engine's log-probs; where there are none, TRL's sampler was the old policy."""
    sampled = batch.get("sampling_per_token_logps")
    if sampled is None or old is None:
        return old
    return torch.where(sampled.isnan(), old, sampled)
