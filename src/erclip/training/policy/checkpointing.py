"""Activation checkpointing: a layer keeps its input alone and is computed again in backward.

transformers recomputes in training mode only, which also turns on whatever else that mode does:
dropouts, router noise, dropped layers. So the layers are wrapped here and stay in evaluation mode.
"""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from erclip.errors import UserError
from erclip.training.sharding import decoder_layers


def checkpoint_layers(model: Any) -> None:
    """Recompute every decoder layer in backward passes."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers or decoder_layers(model):
        layer.forward = _recomputed(layer.forward)
    if not layers and not decoder_layers(model):
        raise UserError(
            f"{type(model).__name__} names no layers that could be computed again; "
            "set model.gradient_checkpointing = false"
        )


def _recomputed(forward: Any) -> Any:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        work = partial(forward, **kwargs)
        return checkpoint(work, *args, use_reentrant=False, preserve_rng_state=False)

    return run
