"""The head tile by tile, forward and backward.

The vocabulary is the outer loop and blocks of tokens the inner one, so a tile of the weight is
read (and, on a CPU, widened to float32) once, and a tile of its gradient is rounded once.
What happens to a tile between two matrix products is the epilogue: plain torch here, or the
kernels of `triton_epilogue`.

Letters: N tokens, D hidden size, V vocabulary, R rows and C columns of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from erclip.ops.gradient import Saved, factor_out, gradient_tile
from erclip.ops.matmul import accumulate, arithmetic, logits_tile, products
from erclip.ops.options import HeadOptions
from erclip.ops.statistics import Results, empty_state, finish, reduce_tile
from erclip.ops.tiles import Kept, spans, tile_shape


class Epilogue(NamedTuple):
    """What is done to a tile of raw products: into the state, or into the gradient."""

    reduce: Callable[[Tensor, Tensor, Tensor | None, Tensor, int, HeadOptions], None]
    gradient: Callable[[Tensor, Tensor | None, Saved, int, HeadOptions, torch.dtype], Tensor]


class Head(NamedTuple):
    """The head's inputs: hidden [N, D], weight [V, D], bias [V]."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


class Gradients(NamedTuple):
    """Gradients of the head's inputs; None where nobody asked."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


TORCH = Epilogue(reduce_tile, gradient_tile)


def forward(
    head: Head, targets: Tensor, options: HeadOptions, epilogue: Epilogue = TORCH
) -> tuple[Results, Kept]:
    """Results of all rows, and the raw products if `cache_logits` (else an empty store)."""
    num_rows, vocab = head.hidden.shape[0], head.weight.shape[0]
    operand, dtype, exact = arithmetic(head.hidden, head.weight)
    rows, columns = tile_shape(num_rows, vocab, head.hidden.device, options.chunk_size)
    x = head.hidden.to(operand)
    state = empty_state(num_rows, x, dtype)
    size = num_rows * vocab if options.cache_logits else 0
    kept = Kept(x.new_empty(size, dtype=dtype), num_rows)
    with products(exact, head.hidden.device.type):
        for v in spans(vocab, columns):
            w = head.weight[v].to(operand)
            b = None if head.bias is None else head.bias[v].to(dtype)
            for r in spans(num_rows, rows):
                raw = logits_tile(x[r], w, dtype)
                if options.cache_logits:
                    kept.columns(v)[r] = raw
                epilogue.reduce(state[:, r], raw, b, targets[r], v.start, options)
    return finish(state), kept


def backward(
    head: Head,
    saved: Saved,
    kept: Kept | None,
    options: HeadOptions,
    totals: Gradients,
    epilogue: Epilogue = TORCH,
) -> None:
    """Add the gradients of these rows to `totals`; `kept` spares the forward pass's products.

    `totals.hidden` is in the accumulation dtype. `totals.weight` and `.bias` may be narrower if
    they are still zero: a tile of them is then rounded once, after its last row.
    """
    num_rows, vocab = head.hidden.shape[0], head.weight.shape[0]
    operand, dtype, exact = arithmetic(head.hidden, head.weight)
    rows, columns = tile_shape(num_rows, vocab, head.hidden.device, options.chunk_size)
    x = head.hidden.to(operand)
    saved, factor = factor_out(saved, options.temperature, operand == dtype, exact)
    scaled = x * factor[:, None] if operand == dtype else x
    with products(exact, head.hidden.device.type):
        for v in spans(vocab, columns):
            w = head.weight[v].to(operand)
            b = None if head.bias is None else head.bias[v].to(dtype)
            tile_w, tile_b = (_tile_total(total, v, dtype, operand) for total in totals[1:])
            for r in spans(num_rows, rows):
                raw = logits_tile(x[r], w, dtype) if kept is None else kept.tile(v, r)
                g = epilogue.gradient(raw, b, saved.at(r), v.start, options, operand)
                if tile_b is not None:
                    tile_b += g.T @ factor[r] if operand == dtype else g.sum(0, dtype=dtype)
                if totals.hidden is not None:
                    accumulate(totals.hidden[r], g, w)
                if tile_w is not None:
                    accumulate(tile_w, g.T, scaled[r])
            for total, tile in ((totals.weight, tile_w), (totals.bias, tile_b)):
                if total is not None and tile is not None and not _summed_there(total, tile, v):
                    total[v] += tile if operand == dtype else tile * factor[0]
    if totals.hidden is not None:
        totals.hidden.mul_(factor[:, None])


def _tile_total(
    total: Tensor | None, v: slice, dtype: torch.dtype, operand: torch.dtype
) -> Tensor | None:
    """Where a tile's weight gradient is summed: in place if nothing is rounded on the way."""
    if total is None or total.dtype == dtype == operand:
        return None if total is None else total[v]
    return torch.zeros_like(total[v], dtype=dtype)


def _summed_there(total: Tensor, tile: Tensor, v: slice) -> bool:
    return tile.data_ptr() == total[v].data_ptr()
