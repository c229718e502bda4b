"""Our head inside the model's own forward, so that DDP, FSDP, PEFT and autocast wrap it.

Letters: B responses, L prompt plus response tokens, T response tokens, N tokens inside the mask.
"""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from erclip.errors import UserError
from erclip.ops import LogprobEntropyHead
from erclip.training.policy.heads import unlike_head
from erclip.training.policy.signature import trunk


class Scored(NamedTuple):
    """log π and H of a micro-batch's response tokens, in nats, 0 outside its mask."""

    logprobs: Float[Tensor, "B T"]
    entropies: Float[Tensor, "B T"]
    slopes: Float[Tensor, "B T"] | None = None
    router_loss: Float[Tensor, ""] | None = None


def why_no_head(model: PreTrainedModel) -> str | None:
    """The reason why this model's logits are not hidden · weight + bias; None if they are."""
    output = model.get_output_embeddings()
    if type(output) is not nn.Linear:
        return f"its output layer is a {type(output).__name__}, not a plain linear layer"
    return unlike_head(model)


ONLY_OURS = {"entropy_slopes": "rule = 'directional'", "live_entropies": "a bonus for entropy"}
"""What a loss may need that only our head gives, and which part of a loss asks for it."""


def install_head(
    model: PreTrainedModel, needs: Collection[str], blocked: str | None, name: str
) -> bool:
    """Whether our head scores this model from now on; a warning where `name`'s own has to.

    `blocked` is why ours cannot be tried. Raises UserError where the loss `needs` what only ours
    gives.
    """
    reason = blocked or why_no_head(model)
    if reason is None:
        add_scoring_head(model)
        return True
    for need, part in ONLY_OURS.items():
        if need in needs:
            raise UserError(
                f"{part} needs erclip's head, which cannot serve this model ({reason}); leave it "
                "out, or set rule = 'paper'."
            )
    warnings.warn(
        f"{name}'s own head scores this model ({reason}): entropies below 1e-4 nats lose 5 % and "
        "more there, which ERC may take for a change of the policy; see docs/noise-floor.md.",
        stacklevel=4,
    )
    return False


def add_scoring_head(model: PreTrainedModel) -> None:
    """Let `model(..., score=(ids, mask))` return `Scored` of its last tokens, not the logits.

    The output layer becomes a `LogprobEntropyHead`, the same linear layer for generation. It stays
    the module that it was, and with it FSDP2's hooks, which gather a weight where it is called.
    `router=True` adds a mixture of experts' load-balancing loss over all tokens, as the model's own
    forward pass computes it.
    """
    model.get_output_embeddings().__class__ = LogprobEntropyHead
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` validates its arguments against it
    def forward(
        self: PreTrainedModel,
        *args: Any,
        score: tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]] | None = None,
        router: bool = False,
        options: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Any:
        if score is None:
            return original(*args, **inputs)
        ids, mask = score
        inputs["use_cache"] = False
        if router:
            hidden, router_loss = _with_router_loss(self, original, *args, **inputs)
        else:
            hidden, router_loss = trunk(self)(*args, **inputs).last_hidden_state, None
        scored = _place(self, hidden, ids, mask, softcap=softcap, **(options or {}))
        return scored._replace(router_loss=router_loss)

    model.forward = types.MethodType(forward, model)


def _with_router_loss(
    model: PreTrainedModel, original: Callable[..., Any], *args: Any, **inputs: Any
) -> tuple[Float[Tensor, "B L D"], Float[Tensor, ""]]:
    """The trunk's hidden states, and what the whole model makes of its routers' logits."""
    seen: list[Any] = []
    handle = trunk(model).register_forward_hook(lambda *call: seen.append(call[-1]))
    try:  # the logits of one position are the price
        out = original(*args, **inputs, output_router_logits=True, logits_to_keep=1)
    finally:
        handle.remove()
    return seen[-1].last_hidden_state, out.aux_loss


def _place(
    model: PreTrainedModel,
    hidden: Float[Tensor, "B L D"],
    ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    **options: Any,
) -> Scored:
    """Score the N tokens inside the mask; zeros elsewhere, still connected to the model."""
    before = hidden[:, -ids.shape[1] - 1 : -1][mask]
    head = model.get_output_embeddings()
    with torch.autocast(hidden.device.type, enabled=False):  # it would round the logits
        out = head(before.to(head.weight.dtype), ids[mask], **options)

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    slopes = None if out.slopes is None else place(out.slopes)
    return Scored(place(out.logprobs), place(out.entropies), slopes)
