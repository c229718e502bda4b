"""Whether the op may stand in for a model's own head: tried on eight tokens, not looked up."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from erclip.errors import UserError
from erclip.ops import layer_logprob_entropy
from erclip.training.policy.probes import unsteady
from erclip.training.policy.signature import trunk, vocabulary_size

TOLERANCE = 1e-3  # nats; a scaled or capped head that we do not know is off by far more
ROUNDED = 0.25  # the same in 16 bits
KEPT_BYTES = 256 * 2**20  # logits up to this size stay for the backward pass of an update


def keeps_logits(rows: int, vocab: int, dtype: torch.dtype) -> bool:
    """Whether keeping N × V logits pays: three products in place of four, the same bits.

    In float32 an update's head then takes 0.82 of the time at 96 MiB on a CPU and 0.92 at 384 MiB;
    in 16 bits a product is too cheap for it (docs/performance.md).
    """
    return dtype == torch.float32 and 4 * rows * vocab <= KEPT_BYTES


@torch.no_grad()
def unlike_head(model: Any) -> str | None:
    """Why this model's logits are not hidden · weight + bias, softcap included; None if they are.

    Adapters on the head (LoRA) count as part of it. Raises UserError for a model without finite
    logits, or with others at every call.
    """
    output = model.get_output_embeddings()
    if not isinstance(getattr(output, "base_layer", output), nn.Linear):
        return "it has no linear output head"
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    ids = torch.arange(8, device=model.device)[None] % vocabulary_size(model)
    expected = model(input_ids=ids, use_cache=False).logits[0].double()
    if not expected.isfinite().all():
        raise UserError(
            "The model's logits are NaN or infinite: its weights are damaged, or its training "
            "diverged; start from others."
        )
    hidden = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
    got = layer_logprob_entropy(output, hidden, ids[0], softcap=softcap)
    reference = torch.log_softmax(expected, -1).gather(1, ids[0][:, None]).squeeze(1)
    gap = (got.logprobs.double() - reference).abs().max().item()
    tolerance = TOLERANCE if hidden.dtype == torch.float32 else ROUNDED
    if gap <= tolerance:
        return None
    again = model(input_ids=ids, use_cache=False).logits[0].double()
    noise = (again.log_softmax(-1) - expected.log_softmax(-1)).abs().max().item()
    if noise > tolerance:
        raise UserError(unsteady(model, noise))
    return f"its log-probs differ by {gap:.2g} nats from the model's own"
