# ty: ignore[invalid-argument-type]
"""The epilogue of a tile as two Triton kernels; the matrix products stay with cuBLAS.

`reduce` reads a tile once and folds it into the rows' state; `gradient` reads it once and writes
the gradient in the dtype of the next product. The formulas are those of `statistics` and
`gradient`, where they are explained.

Letters: R rows and C columns of a tile; one program works on one row (reduce) or on one block of
columns of one row (gradient). A temperature or softcap is a constant of the compiled kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from erclip.ops.chunked import Epilogue
from erclip.ops.gradient import Saved, stacked
from erclip.ops.options import HeadOptions
from erclip.ops.softmax import lowest

BLOCK = 2048


@triton.jit
def _load_z(raw, bias, columns, inside, temperature: tl.constexpr, softcap: tl.constexpr):
    """z of one block of a row, −inf outside the tile."""
    z = tl.load(raw + columns, mask=inside, other=0.0)
    if bias is not None:
        z += tl.load(bias + columns, mask=inside, other=0.0)
    if softcap is not None:
        shrunk = tl.exp(-2.0 * tl.abs(z / softcap))
        tanh = (1.0 - shrunk) / (1.0 + shrunk)
        z = softcap * tl.where(z < 0, -tanh, tanh)
    return tl.where(inside, z / temperature, -float("inf"))


@triton.jit
def _fold(total, spread, block_total, block_spread, factor, gap, higher):
    """Side by side: the lower of (state, block) is moved down by `gap` and weighed by `factor`."""
    high_total = tl.where(higher, block_total, total)
    low_total = 1.0 + tl.where(higher, total, block_total)
    high_spread = tl.where(higher, block_spread, spread)
    low_spread = tl.where(higher, spread, block_spread)
    return high_total + factor * low_total, high_spread + factor * (low_spread + gap * low_total)


@triton.jit
def _reduce_kernel(
    raw,
    bias,
    targets,
    state,
    state_stride,
    width,
    start,
    floor,
    temperature: tl.constexpr,
    softcap: tl.constexpr,
    SLOPES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    raw += row * width
    state += row
    peak = tl.load(state)
    others = tl.load(state + state_stride)
    spread = tl.load(state + 2 * state_stride)
    others_sq = tl.load(state + 3 * state_stride)
    spread_sq = tl.load(state + 4 * state_stride)
    for first in range(0, width, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        z = _load_z(raw, bias, columns, columns < width, temperature, softcap)
        block_peak = tl.maximum(tl.max(z, axis=0), floor)
        at_peak = z == block_peak
        ties = tl.sum(at_peak.to(tl.float32), axis=0) - 1.0
        e = tl.where(at_peak, 0.0, tl.exp(z - block_peak))
        weighted = tl.where(e > 0, e * (block_peak - z), 0.0)
        higher = block_peak > peak
        gap = tl.abs(peak - block_peak)
        shrink = tl.exp(-gap)
        others, spread = _fold(
            others, spread, tl.sum(e, axis=0) + ties, tl.sum(weighted, axis=0), shrink, gap, higher
        )
        if SLOPES:
            block_sq = tl.sum(e * e, axis=0) + ties
            block_spread_sq = tl.sum(e * weighted, axis=0)
            others_sq, spread_sq = _fold(
                others_sq, spread_sq, block_sq, block_spread_sq, shrink * shrink, gap, higher
            )
        peak = tl.maximum(peak, block_peak)
    tl.store(state, peak)
    tl.store(state + state_stride, others)
    tl.store(state + 2 * state_stride, spread)
    tl.store(state + 3 * state_stride, others_sq)
    tl.store(state + 4 * state_stride, spread_sq)
    target = tl.load(targets + row) - start
    if (target >= 0) & (target < width):
        # Through the same arithmetic as above: a target that is the maximum has d = 0 exactly.
        column = target + tl.arange(0, 1)
        picked = _load_z(raw, bias, column, column < width, temperature, softcap)
        tl.store(state + 5 * state_stride + tl.arange(0, 1), picked)


@triton.jit
def _gradient_kernel(
    raw,
    out,
    bias,
    targets,
    rows,
    num_rows,
    width,
    start,
    temperature: tl.constexpr,
    softcap: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    z = _load_z(raw + row * width, bias, columns, inside, temperature, softcap)
    log_p = z - tl.load(rows + row)
    grad_logprob = tl.load(rows + num_rows + row)
    p = tl.exp(log_p)
    grad = grad_logprob * p
    if HAS_ENTROPY:
        entropy = tl.load(rows + 2 * num_rows + row)
        grad_entropy = tl.load(rows + 3 * num_rows + row)
        grad += tl.where(p > 0, p * (log_p + entropy) * grad_entropy, 0.0)
    target = tl.load(targets + row) - start
    grad = tl.where(columns == target, grad - grad_logprob, grad)
    if softcap is not None:
        tanh = z * temperature / softcap
        grad *= 1.0 - tanh * tanh
    tl.store(out + row * width + columns, grad.to(out.dtype.element_ty), mask=inside)


def reduce_tile(
    state: Tensor, raw: Tensor, bias: Tensor | None, targets: Tensor, start: int, opts: HeadOptions
) -> None:
    """`statistics.reduce_tile`, without overwriting the tile."""
    _reduce_kernel[(raw.shape[0],)](
        raw,
        bias,
        targets,
        state,
        state.stride(0),
        raw.shape[1],
        start,
        lowest(raw.dtype),
        temperature=opts.temperature,
        softcap=opts.softcap,
        SLOPES=opts.slopes,
        BLOCK=min(BLOCK, triton.next_power_of_2(raw.shape[1])),
    )


def gradient_tile(
    raw: Tensor,
    bias: Tensor | None,
    saved: Saved,
    start: int,
    opts: HeadOptions,
    out_dtype: torch.dtype,
) -> Tensor:
    """`gradient.gradient_tile`, written straight in the dtype of the next product."""
    rows = stacked(saved)
    out = torch.empty_like(raw, dtype=out_dtype)
    block = min(BLOCK, triton.next_power_of_2(raw.shape[1]))
    _gradient_kernel[(raw.shape[0], -(-raw.shape[1] // block))](
        raw,
        out,
        bias,
        saved.targets,
        rows,
        raw.shape[0],
        raw.shape[1],
        start,
        temperature=opts.temperature,
        softcap=opts.softcap,
        HAS_ENTROPY=saved.grad_entropies is not None,
        BLOCK=block,
    )
    return out


TRITON = Epilogue(reduce_tile, gradient_tile)
