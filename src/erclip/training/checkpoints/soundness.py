"""Whether a model is worth a checkpoint: one that gives NaN would only take a good one's place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from erclip.errors import UserError
from erclip.machine.distributed import World
from erclip.training.policy import Policy

TOKENS = 8
LARGEST = 1e6  # of a logit; float32 cannot tell two tokens apart up there


@torch.no_grad()
def model_is_sound(policy: Policy, world: World) -> bool:
    """Whether weights are numbers, and the logits of a few tokens, too; a collective."""
    model = policy.model
    finite = all(bool(torch.isfinite(_local(p)).all()) for p in model.parameters())
    if not all(world.gather(lambda: finite)):  # a forward pass could not mend it
        return False
    size = model.config.get_text_config().vocab_size
    ids = torch.arange(TOKENS, device=policy.device)[None] % size
    logits = model(input_ids=ids, use_cache=False).logits
    return all(world.gather(lambda: bool((logits.abs() <= LARGEST).all())))


def is_served(policy: Policy, world: World) -> bool:
    """Whether a run could start from this model: the probe that loading it would make."""
    if world.size > 1 or policy.head != "op":
        return model_is_sound(policy, world)
    try:
        policy._probe()
    except UserError:
        return False
    return True


def _local(parameter: Any) -> Tensor:
    to_local = getattr(parameter.detach(), "to_local", None)
    return parameter.detach() if to_local is None else to_local()
