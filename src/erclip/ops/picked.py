"""Logits of a few given tokens of the vocabulary at each position, without all the others.

Letters: N tokens, K given ids at each of them, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erclip.ops.matmul import accumulation_dtype
from erclip.ops.options import HeadOptions
from erclip.ops.tiles import spans

BLOCK = 1 << 24  # numbers of gathered weight at a time: 64 MiB


def picked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    logprobs: Float[Tensor, " N"],
    ids: Int[Tensor, "N K"],
    options: HeadOptions,
) -> Float[Tensor, "N K"]:
    """log π_v = z_v − z_a + log π_a: the normaliser, and its gradient, are those of `logprobs`."""
    asked = torch.cat([ids, targets[:, None]], 1).long()
    with torch.autocast(hidden.device.type, enabled=False):
        z = _Picked.apply(hidden, weight, asked)
    if bias is not None:
        z = z + bias.to(z.dtype)[asked]
    if options.softcap is not None:
        z = options.softcap * torch.tanh(z / options.softcap)
    z = z / options.temperature
    return z[:, :-1] - z[:, -1:] + logprobs[:, None]


class _Picked(torch.autograd.Function):
    """hidden_n · weight_v for the ids v of row n, a block of rows at a time, forward and back."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, ids)
        dtype = accumulation_dtype(hidden)
        out = hidden.new_empty(ids.shape, dtype=dtype)
        for rows in _blocks(hidden, ids):
            picked = weight[ids[rows]].to(dtype)
            out[rows] = torch.einsum("nkd,nd->nk", picked, hidden[rows].to(dtype))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ids = ctx.saved_tensors
        (grad,) = grads
        into_hidden, into_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if into_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=grad.dtype) if into_weight else None
        for rows in _blocks(hidden, ids):
            g, x = grad[rows], hidden[rows].to(grad.dtype)
            if grad_hidden is not None:
                picked = weight[ids[rows]].to(grad.dtype)
                grad_hidden[rows] = torch.einsum("nkd,nk->nd", picked, g).to(hidden.dtype)
            if grad_weight is not None:
                each = (g[:, :, None] * x[:, None]).flatten(0, 1)
                grad_weight.index_add_(0, ids[rows].flatten(), each)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None


def _blocks(hidden: Tensor, ids: Tensor) -> list[slice]:
    return list(spans(len(ids), max(1, BLOCK // max(1, ids.shape[1] * hidden.shape[1]))))
