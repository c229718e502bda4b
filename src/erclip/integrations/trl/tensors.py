"""TRL's micro-batch → the arguments of a loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from erclip.training.policy import Scores

Batch = dict[str, Any]


def loss_mask(batch: Batch) -> Tensor:
    """The completion's own tokens."""
    mask = batch["completion_mask"]
    return (mask * batch["tool_mask"] if "tool_mask" in batch else mask).bool()


def loss_tensors(batch: Batch, new: Scores | None, old: Scores | None = None) -> dict[str, Any]:
    """A micro-batch as the loss's arguments: `new` are the current policy's scores, if asked for.

    `old` stands in for the scores in the batch, in evaluation, where old and new are one policy.
    """
    old_logprobs, old_entropies = batch.get("old_per_token_logps"), batch.get("old_entropies")
    if old is not None:
        old_logprobs, old_entropies = old.logprobs.detach(), old.entropies
    advantages = batch["advantages"]
    if "importance_sampling_ratio" in batch:  # every surrogate is linear in A, and this is ≥ 0
        advantages = advantages.view(len(advantages), -1) * batch["importance_sampling_ratio"]
    tensors = {
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "mask": loss_mask(batch),
        "old_entropies": old_entropies,
        # without vLLM the sampler is the old policy, and TRL keeps no log-probs of its own
        "sampler_logprobs": batch.get("sampling_per_token_logps", old_logprobs),
        "lots": batch.get("lots"),
    }
    if new is None:
        return tensors
    own = {"logprobs": new.logprobs, "entropies": new.entropies, "entropy_slopes": new.slopes}
    return {**tensors, **own}
