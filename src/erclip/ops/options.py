"""What every implementation of the head is told besides its tensors."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

Impl = Literal["auto", "reference", "chunked", "triton"]


@dataclass(frozen=True)
class HeadOptions:
    """How logits become z: z = softcap · tanh((h Wᵀ + b) / softcap) / temperature.

    `chunk_size` is the number of vocabulary columns in a tile (None: chosen by the device).
    `slopes` asks for the directional term; `cache_logits` keeps z for the backward pass.
    """

    temperature: float = 1.0
    softcap: float | None = None
    chunk_size: int | None = None
    slopes: bool = False
    cache_logits: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature!r}")
        if self.softcap is not None and not (math.isfinite(self.softcap) and self.softcap > 0):
            raise ValueError(f"softcap must be positive and finite or None, got {self.softcap!r}")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 or None, got {self.chunk_size!r}")


def check_inputs(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, impl: Impl
) -> Impl:
    """Refuse what would give wrong numbers or an obscure error later; `impl` made definite."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            "hidden must be [N, D] and weight [V, D], got "
            f"{list(hidden.shape)} and {list(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1] or targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"targets must be {hidden.shape[0]} integers (int64 or int32), "
            f"got {targets.dtype} {list(targets.shape)}"
        )
    if hasattr(weight, "placements"):  # a DTensor, told by its attribute: its import is slow
        raise ValueError(
            "weight is sharded (DTensor): call the head module (LogprobEntropyHead), whose forward "
            "gathers it, or pass weight.full_tensor()"
        )
    if weight.shape[0] == 0:
        raise ValueError("weight has no rows: the vocabulary is empty")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [{weight.shape[0]}], got {list(bias.shape)}")
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name} must be a float tensor, got {tensor.dtype}")
    return _choose(impl, hidden)


def check_targets(targets: Tensor, vocab: int) -> None:
    """Refuse a target outside the vocabulary; an accelerator would have to be waited for."""
    if targets.device.type == "cpu" and targets.numel():
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= vocab:
            wrong = low if low < 0 else high
            raise ValueError(f"target {wrong} is outside the vocabulary of {vocab} tokens")


def check_ids(ids: Tensor, num_rows: int, vocab: int) -> None:
    """Refuse what is no [N, K] of ids within the vocabulary."""
    fits = ids.ndim == 2 and len(ids) == num_rows and ids.dtype in (torch.int64, torch.int32)
    if not fits:
        raise ValueError(
            f"top_ids must be [{num_rows}, K] integers (int64 or int32), "
            f"got {ids.dtype} {list(ids.shape)}"
        )
    check_targets(ids, vocab)


def _choose(impl: Impl, hidden: Tensor) -> Impl:
    """`auto` made definite: the same answer for every pass over the same device."""
    if impl not in get_args(Impl):
        raise ValueError(f"impl must be one of {', '.join(get_args(Impl))}, got {impl!r}")
    if impl == "triton" and not (hidden.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        raise ValueError(f"impl='triton' needs tensors on CUDA, got {hidden.device}")
    if impl == "triton" and hidden.dtype == torch.float64:
        raise ValueError("impl='triton' accumulates in float32; use chunked for float64")
    if impl != "auto":
        return impl
    if hidden.dtype == torch.float64:
        return "chunked"
    return "triton" if hidden.is_cuda and find_spec("triton") is not None else "chunked"
