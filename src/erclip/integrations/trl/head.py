"""Our head inside the model's own forward, so that DDP, FSDP, PEFT and autocast wrap it.

Letters: B responses, L prompt plus response tokens, T response tokens, N tokens inside the mask.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from erclip.ops import LogprobEntropy, LogprobEntropyHead
from erclip.training.policy.heads import unlike_head
from erclip.training.policy.signature import trunk


def add_scoring_head(model: PreTrainedModel) -> str | None:
    """Let `model(..., score=(ids, mask))` return log π and H of its last tokens, not the logits.

    The output layer is replaced by `LogprobEntropyHead`, which shares its parameters and is the
    same linear layer for generation; calling it as a module lets FSDP2 gather its weight. Returns
    None, or the reason why this model's logits are not hidden · weight + bias.
    """
    output = model.get_output_embeddings()
    if type(output) is not nn.Linear:
        return f"its output layer is a {type(output).__name__}, not a plain linear layer"
    why = unlike_head(model)
    if why is not None:
        return why
    model.set_output_embeddings(LogprobEntropyHead.from_linear(output))
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` validates its arguments against it
    def forward(
        self: PreTrainedModel,
        *args: Any,
        score: tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]] | None = None,
        options: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Any:
        if score is None:
            return original(*args, **inputs)
        ids, mask = score
        hidden = trunk(self)(*args, **inputs, use_cache=False).last_hidden_state
        return _place(self, hidden, ids, mask, softcap=softcap, **(options or {}))

    model.forward = types.MethodType(forward, model)
    return None


def _place(
    model: PreTrainedModel,
    hidden: Float[Tensor, "B L D"],
    ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    **options: Any,
) -> LogprobEntropy:
    """Score the N tokens inside the mask; zeros elsewhere, still connected to the model."""
    before = hidden[:, -ids.shape[1] - 1 : -1][mask]
    head = model.get_output_embeddings()
    with torch.autocast(hidden.device.type, enabled=False):  # it would round the logits
        out = head(before.to(head.weight.dtype), ids[mask], **options)

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    slopes = None if out.slopes is None else place(out.slopes)
    return LogprobEntropy(place(out.logprobs), place(out.entropies), slopes)
