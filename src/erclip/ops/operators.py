"""The two passes as opaque operators: loops and `nonzero` inside never reach torch.compile.

Letters: N tokens, D hidden size, V vocabulary. An operator cannot return None: a tensor without
elements stands for what was not asked for.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from erclip.ops import chunked
from erclip.ops.chunked import Epilogue, Gradients, Head
from erclip.ops.gradient import Saved
from erclip.ops.matmul import accumulation_dtype
from erclip.ops.options import HeadOptions, check_targets
from erclip.ops.tiles import Kept, tile_shape


def epilogue_of(impl: str) -> Epilogue:
    """The epilogue named by `impl`."""
    if impl == "chunked":
        return chunked.TORCH
    from erclip.ops import triton_fused  # needs triton, which is optional

    return triton_fused.TRITON


def resolve(options: HeadOptions, hidden: Tensor, weight: Tensor) -> HeadOptions:
    """Fix the columns of a tile by the rows of the forward pass: kept products lie in them."""
    shape = tile_shape(hidden.shape[0], weight.shape[0], hidden.device, options.chunk_size)
    return replace(options, chunk_size=shape[1])


def active_rows(grad_logprobs: Tensor, grad_entropies: Tensor | None) -> Tensor:
    """Rows with an upstream gradient; a NaN counts, so that it is seen."""
    active = grad_logprobs != 0
    if grad_entropies is not None:
        active |= grad_entropies != 0
    return active.nonzero()[:, 0]


@torch.library.custom_op("erclip::head_forward", mutates_args=())
def head_forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    impl: str,
    temperature: float,
    softcap: float | None,
    chunk_size: int | None,
    slopes: bool,
    cache_logits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Log-probs, entropies, slopes, log_sum [N], and the kept raw products [N · V]."""
    check_targets(targets, weight.shape[0])
    options = HeadOptions(temperature, softcap, chunk_size, slopes, cache_logits)
    options = resolve(options, hidden, weight)
    with torch.autocast(hidden.device.type, enabled=False):
        results, kept = chunked.forward(
            Head(hidden, weight, bias), targets, options, epilogue_of(impl)
        )
    slope_values = results.slopes if slopes else results.slopes.new_empty(0)
    return results.logprobs, results.entropies, slope_values, results.log_sum, kept.store


@head_forward.register_fake
def _(hidden, weight, bias, targets, impl, temperature, softcap, chunk_size, slopes, cache_logits):
    num_rows = hidden.shape[0]
    sizes = (num_rows, num_rows, num_rows if slopes else 0, num_rows)
    kept = num_rows * weight.shape[0] if cache_logits else 0
    return tuple(hidden.new_empty(n, dtype=accumulation_dtype(hidden)) for n in (*sizes, kept))


@torch.library.custom_op("erclip::head_backward", mutates_args=())
def head_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    log_sum: Tensor,
    entropies: Tensor,
    grad_logprobs: Tensor,
    grad_entropies: Tensor | None,
    kept: Tensor,
    impl: str,
    temperature: float,
    softcap: float | None,
    chunk_size: int | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; rows without an upstream gradient cost nothing."""
    options = HeadOptions(temperature, softcap, chunk_size)
    if kept.numel():  # else fewer rows may take wider tiles
        options = resolve(options, hidden, weight)
    saved = Saved(targets, log_sum, entropies, grad_logprobs, grad_entropies)
    rows = active_rows(grad_logprobs, grad_entropies)
    grad_rows = hidden.new_zeros((len(rows) * wanted[0], hidden.shape[1]), dtype=log_sum.dtype)
    grad_weight = torch.zeros_like(weight) if wanted[1] else None
    grad_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
    totals = Gradients(grad_rows if wanted[0] else None, grad_weight, grad_bias)
    if len(rows):
        store = Kept(kept, len(targets), rows) if kept.numel() else None
        head = Head(hidden[rows], weight, bias)
        with torch.autocast(hidden.device.type, enabled=False):
            chunked.backward(head, saved.at(rows), store, options, totals, epilogue_of(impl))
    grad_hidden = hidden.new_zeros(hidden.shape if wanted[0] else 0)
    if wanted[0]:
        grad_hidden[rows] = grad_rows.to(hidden.dtype)
    nothing = hidden.new_empty(0)
    return (
        grad_hidden,
        nothing if grad_weight is None else grad_weight,
        nothing.clone() if grad_bias is None else grad_bias,
    )


@head_backward.register_fake
def _(hidden, weight, bias, *rest):
    wanted = rest[-1]
    inputs = zip((hidden, weight, bias), wanted, strict=True)
    return tuple(
        torch.empty_like(x) if want and x is not None else hidden.new_empty(0) for x, want in inputs
    )
