"""The head tile by tile, forward and backward.

The vocabulary is the outer loop and blocks of tokens the inner one, so a tile of the weight is
read (and, on a CPU, widened to float32) once, and a tile of its gradient is rounded once.
What happens to a tile between two matrix products is the epilogue: plain torch here, or the
kernels of `triton_epilogue`. Products of 16 bits may have theirs inside, as in `triton_fused`.

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
from erclip.ops.softmax import Results, empty_state, finish, reduce_tile
from erclip.ops.tiles import Kept, spans, tile_shape


class Fused(NamedTuple):
    """Products with their epilogue: hidden and weight → the state, or a tile of the gradient."""

    state: Callable[[Tensor, Tensor, Tensor | None, Tensor, HeadOptions], Tensor]
    gradient: Callable[[Tensor, Tensor, Tensor | None, Saved, int, HeadOptions], Tensor]


class Epilogue(NamedTuple):
    """What is done to a tile of raw products: into the state, or into the gradient."""

    reduce: Callable[[Tensor, Tensor, Tensor | None, Tensor, int, HeadOptions], None]
    gradient: Callable[[Tensor, Tensor | None, Saved, int, HeadOptions, torch.dtype], Tensor]
    fused: Fused | None = None


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
    if epilogue.fused is not None and operand != dtype and not options.cache_logits:
        state = epilogue.fused.state(x, head.weight, head.bias, targets, options)
        return finish(state, options.slopes), Kept(x.new_empty(0, dtype=dtype), num_rows)
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
    return finish(state, options.slopes), kept


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
    numbers = arithmetic(head.hidden, head.weight)
    operand, dtype, exact = numbers
    wide = operand == dtype
    rows, columns = tile_shape(num_rows, vocab, head.hidden.device, options.chunk_size)
    x = head.hidden.to(operand)
    saved, factor = factor_out(saved, options.temperature, numbers)
    scaled = x if factor is None or not wide else x * factor[:, None]
    per_row = factor if factor is not None else x.new_ones(num_rows)
    later = None if wide else factor  # what a sum over rows is still to be multiplied with
    single = operand if later is None and num_rows <= rows else None
    fused = epilogue.fused if kept is None and not wide else None
    with products(exact, head.hidden.device.type):
        for v in spans(vocab, columns):
            w = head.weight[v].to(operand)
            b = None if head.bias is None else head.bias[v].to(dtype)
            tile_w = _tile_total(totals.weight, v, dtype, later, single)
            tile_b = _tile_total(totals.bias, v, dtype, later)
            for r in spans(num_rows, rows):
                if fused is not None:
                    g = fused.gradient(x[r], w, b, saved.at(r), v.start, options)
                else:
                    raw = logits_tile(x[r], w, dtype) if kept is None else kept.tile(v, r)
                    g = epilogue.gradient(raw, b, saved.at(r), v.start, options, operand)
                if tile_b is not None:
                    tile_b += g.T @ per_row[r] if wide else g.sum(0, dtype=dtype)
                if totals.hidden is not None:
                    accumulate(totals.hidden[r], g, w)
                if tile_w is not None:
                    accumulate(tile_w, g.T, scaled[r])
            for total, tile in ((totals.weight, tile_w), (totals.bias, tile_b)):
                if total is not None and tile is not None and not _summed_there(total, tile, v):
                    total[v] += tile if later is None else tile * later[0]
    if totals.hidden is not None and factor is not None:
        totals.hidden.mul_(factor[:, None])


def _tile_total(
    total: Tensor | None,
    v: slice,
    dtype: torch.dtype,
    later: Tensor | None,
    single: torch.dtype | None = None,
) -> Tensor | None:
    """Where a tile's gradient is summed: in place, if nothing is multiplied or rounded later.

    `single` is the dtype in which one product may be the whole sum, rounded once.
    """
    if total is None:
        return None
    if total.dtype == single or (later is None and total.dtype == dtype):
        return total[v]
    return torch.zeros_like(total[v], dtype=dtype)


def _summed_there(total: Tensor, tile: Tensor, v: slice) -> bool:
    return tile.data_ptr() == total[v].data_ptr()
