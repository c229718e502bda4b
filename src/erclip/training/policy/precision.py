"""How a model rounds: float32 weights under a trunk in bfloat16, and sums in one order.

Small updates are kept, products cost half.

The head stays outside: hidden states come back as float32 and its products are float32, in the op
and in sampling alike.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from erclip.training.policy.signature import trunk


def autocast_trunk(model: Any, dtype: torch.dtype) -> None:
    """Run everything below the output head under autocast, whoever calls it.

    Some models call parts of their trunk and not the trunk itself, so the whole model opens
    autocast too, and the head closes it again. `unrounded` lifts it for a while.
    """
    below, head = trunk(model), model.get_output_embeddings()
    forward, whole, project = below.forward, model.forward, head.forward

    @wraps(forward)
    def rounded(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(model.device.type, dtype, enabled=autocast_dtype(model) is not None):
            out = forward(*args, **kwargs)
        out.last_hidden_state = out.last_hidden_state.float()
        return out

    @wraps(whole)
    def rounded_whole(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(model.device.type, dtype, enabled=autocast_dtype(model) is not None):
            return whole(*args, **kwargs)

    @wraps(project)
    def exact(hidden: Tensor) -> Tensor:
        with torch.autocast(model.device.type, enabled=False):
            return project(hidden.float())

    below.forward, model.forward, head.forward = rounded, rounded_whole, exact
    model.erclip_autocast = dtype


def autocast_dtype(model: Any) -> torch.dtype | None:
    """In which products below the head are rounded; None where they are as fine as the weights."""
    return getattr(model, "erclip_autocast", None)


@contextmanager
def unrounded(model: Any) -> Generator[None]:
    """Within it, a trunk under autocast calculates in the dtype of its weights."""
    dtype = autocast_dtype(model)
    model.erclip_autocast = None
    try:
        yield
    finally:
        model.erclip_autocast = dtype


def kept_casts(device: torch.device) -> torch.autocast:
    """Within it, a trunk under autocast rounds its weights once and not at every call.

    Only where no weight changes: autocast forgets its copies when the outermost context ends.
    """
    return torch.autocast(device.type, enabled=False)


@contextmanager
def fixed_order(device: torch.device) -> Generator[None]:
    """Within it, a CPU adds into equal rows in their order, whichever thread comes first.

    Mixtures of experts send a token to several experts and add up what comes back. On a GPU this
    would cost speed, and attention's backward pass would still add in any order.
    """
    before = torch.are_deterministic_algorithms_enabled()
    filling: Any = torch.utils.deterministic  # a module with a property, which types do not show
    filled = filling.fill_uninitialized_memory
    if device.type != "cpu" or before:
        yield
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        filling.fill_uninitialized_memory = filled
