# ty: ignore[invalid-argument-type]
"""The Triton kernels behind `triton_fused`: products that are folded, or made a gradient, at once.

The formulas are those of `statistics` and `gradient`, where they are explained.

Letters: D hidden size, M and C rows and columns of a block, K of D at a time, S parts of the
vocabulary; one program works on one block of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from erclip.ops.triton_epilogue import _fold


@triton.jit
def _place(blocks, GROUP: tl.constexpr):
    """(block of rows, part of the columns) of this program: `GROUP` blocks of rows side by side."""
    parts = tl.num_programs(0) // blocks
    first = tl.program_id(0) // (GROUP * parts) * GROUP
    size = tl.minimum(blocks - first, GROUP)
    within = tl.program_id(0) % (GROUP * parts)
    return first + within % size, within // size


@triton.jit
def _product(
    x,
    w,
    row,
    column,
    num_rows,
    vocab,
    depth,
    x_stride,
    w_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    EVEN: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """x [M, D] · w [C, D]ᵀ from `row` and `column` on; what lies outside is some other number."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if DESCRIPTORS:
        for k in range(0, depth, INNER):
            total = tl.dot(x.load([row, k]), w.load([column, k]).T, total)
    else:
        rows = ((row + tl.arange(0, ROWS)) % num_rows).to(tl.int64)
        columns = ((column + tl.arange(0, COLUMNS)) % vocab).to(tl.int64)
        inner = tl.arange(0, INNER)
        x_at = x + rows[:, None] * x_stride + inner[None, :]
        w_at = w + columns[None, :] * w_stride + inner[:, None]
        for k in range(0, depth, INNER):
            if EVEN:
                x_block, w_block = tl.load(x_at), tl.load(w_at)
            else:
                inside = k + inner < depth
                x_block = tl.load(x_at, mask=inside[None, :], other=0.0)
                w_block = tl.load(w_at, mask=inside[:, None], other=0.0)
            total = tl.dot(x_block, w_block, total)
            x_at += INNER
            w_at += INNER
    return total


@triton.jit
def _to_z(raw, bias, columns, inside, temperature: tl.constexpr, softcap: tl.constexpr):
    """z of a block of products, −inf outside the vocabulary."""
    z = raw
    if bias is not None:
        z += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    if softcap is not None:
        shrunk = tl.exp(-2.0 * tl.abs(z / softcap))
        tanh = (1.0 - shrunk) / (1.0 + shrunk)
        z = softcap * tl.where(z < 0, -tanh, tanh)
    if temperature != 1.0:
        z = z / temperature
    return tl.where(inside[None, :], z, -float("inf"))


@triton.jit
def _scores_kernel(
    x,
    w,
    bias,
    targets,
    parts,
    num_rows,
    vocab,
    depth,
    x_stride,
    w_stride,
    floor,
    temperature: tl.constexpr,
    softcap: tl.constexpr,
    SLOPES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    SPAN: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    row_block, part = _place(tl.cdiv(num_rows, ROWS), GROUP)
    row = row_block * ROWS
    rows = row + tl.arange(0, ROWS)
    target = tl.load(targets + rows, mask=rows < num_rows, other=-1)
    target = tl.where(target < vocab, target, -1)  # or it would find the −inf of the last block
    peak = tl.full((ROWS,), floor, tl.float32)
    others = tl.full((ROWS,), -1.0, tl.float32)
    spread = tl.zeros((ROWS,), tl.float32)
    others_sq = tl.full((ROWS,), -1.0, tl.float32)
    spread_sq = tl.zeros((ROWS,), tl.float32)
    picked = tl.full((ROWS,), float("nan"), tl.float32)
    for block in range(SPAN):
        column = (part * SPAN + block) * COLUMNS
        if column < vocab:
            columns = column + tl.arange(0, COLUMNS)
            raw = _product(
                x, w, row, column, num_rows, vocab, depth, x_stride, w_stride,
                ROWS, COLUMNS, INNER, EVEN, DESCRIPTORS,
            )  # fmt: skip
            z = _to_z(raw, bias, columns, columns < vocab, temperature, softcap)
            found = tl.sum(tl.where(columns[None, :] == target[:, None], z, 0.0), axis=1)
            picked = tl.where((target >= column) & (target < column + COLUMNS), found, picked)
            block_peak = tl.maximum(tl.max(z, axis=1), floor)
            d = z - block_peak[:, None]
            at_peak = d == 0.0
            ties = tl.sum(at_peak.to(tl.float32), axis=1) - 1.0
            e = tl.where(at_peak, 0.0, tl.exp(d))
            weighted = tl.where(e > 0, -e * d, 0.0)
            higher = block_peak > peak
            gap = tl.abs(peak - block_peak)
            shrink = tl.exp(-gap)
            others, spread = _fold(
                others, spread, tl.sum(e, axis=1) + ties, tl.sum(weighted, axis=1),
                shrink, gap, higher,
            )  # fmt: skip
            if SLOPES:
                others_sq, spread_sq = _fold(
                    others_sq, spread_sq, tl.sum(e * e, axis=1) + ties,
                    tl.sum(e * weighted, axis=1), shrink * shrink, gap, higher,
                )  # fmt: skip
            peak = tl.maximum(peak, block_peak)
    at = parts + part.to(tl.int64) * 6 * num_rows + rows
    stored = rows < num_rows
    tl.store(at, peak, mask=stored)
    tl.store(at + num_rows, others, mask=stored)
    tl.store(at + 2 * num_rows, spread, mask=stored)
    tl.store(at + 3 * num_rows, others_sq, mask=stored)
    tl.store(at + 4 * num_rows, spread_sq, mask=stored)
    tl.store(at + 5 * num_rows, picked, mask=stored)


@triton.jit
def _side_by_side(total, spread, own, factor, gap):
    """Parts [PARTS, ROWS] that lie `gap` lower: the highest, which is `own`, keeps its own sums."""
    low = 1.0 + total
    return (
        tl.sum(tl.where(own, total, factor * low), axis=0),
        tl.sum(factor * (spread + gap * low), axis=0),
    )


@triton.jit
def _merge_kernel(
    parts,
    state,
    num_rows,
    num_parts,
    floor,
    SLOPES: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    stored = rows < num_rows
    peak = tl.full((ROWS,), floor, tl.float32)
    others = tl.full((ROWS,), -1.0, tl.float32)
    spread = tl.zeros((ROWS,), tl.float32)
    others_sq = tl.full((ROWS,), -1.0, tl.float32)
    spread_sq = tl.zeros((ROWS,), tl.float32)
    picked = tl.full((ROWS,), float("nan"), tl.float32)
    for first in range(0, num_parts, PARTS):
        part = first + tl.arange(0, PARTS)
        here = (part < num_parts)[:, None] & stored[None, :]
        at = parts + part.to(tl.int64)[:, None] * 6 * num_rows + rows[None, :]
        part_peak = tl.load(at, mask=here, other=floor)
        block_peak = tl.max(part_peak, axis=0)
        own = tl.argmax(part_peak, axis=0)[None, :] == (part - first)[:, None]
        gap = block_peak[None, :] - part_peak
        factor = tl.exp(-gap)
        block_others, block_spread = _side_by_side(
            tl.load(at + num_rows, mask=here, other=-1.0),
            tl.load(at + 2 * num_rows, mask=here, other=0.0),
            own, factor, gap,
        )  # fmt: skip
        higher = block_peak > peak
        between = tl.abs(peak - block_peak)
        shrink = tl.exp(-between)
        others, spread = _fold(others, spread, block_others, block_spread, shrink, between, higher)
        if SLOPES:
            block_sq, block_spread_sq = _side_by_side(
                tl.load(at + 3 * num_rows, mask=here, other=-1.0),
                tl.load(at + 4 * num_rows, mask=here, other=0.0),
                own, factor * factor, gap,
            )  # fmt: skip
            others_sq, spread_sq = _fold(
                others_sq, spread_sq, block_sq, block_spread_sq, shrink * shrink, between, higher
            )
        peak = tl.maximum(peak, block_peak)
        # one part at most has seen the target, the others hold NaN; −inf is a logit, too
        seen = tl.load(at + 5 * num_rows, mask=here, other=float("nan"))
        is_there = seen == seen
        found = tl.sum(tl.where(is_there, seen, 0.0), axis=0)
        picked = tl.where(tl.max(is_there.to(tl.int32), axis=0) > 0, found, picked)
    tl.store(state + rows, peak, mask=stored)
    tl.store(state + num_rows + rows, others, mask=stored)
    tl.store(state + 2 * num_rows + rows, spread, mask=stored)
    tl.store(state + 3 * num_rows + rows, others_sq, mask=stored)
    tl.store(state + 4 * num_rows + rows, spread_sq, mask=stored)
    tl.store(state + 5 * num_rows + rows, picked, mask=stored)


@triton.jit
def _gradient_kernel(
    x,
    w,
    out,
    bias,
    targets,
    saved,
    num_rows,
    vocab,
    depth,
    x_stride,
    w_stride,
    out_stride,
    start,
    temperature: tl.constexpr,
    softcap: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    row_block, column_block = _place(tl.cdiv(num_rows, ROWS), GROUP)
    row, column = row_block * ROWS, column_block * COLUMNS
    rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    stored, inside = rows < num_rows, columns < vocab
    raw = _product(
        x, w, row, column, num_rows, vocab, depth, x_stride, w_stride,
        ROWS, COLUMNS, INNER, EVEN, DESCRIPTORS,
    )  # fmt: skip
    z = _to_z(raw, bias, columns, inside, temperature, softcap)
    log_p = z - tl.load(saved + rows, mask=stored, other=0.0)[:, None]
    grad_logprob = tl.load(saved + num_rows + rows, mask=stored, other=0.0)[:, None]
    p = tl.exp(log_p)
    grad = grad_logprob * p
    if HAS_ENTROPY:
        entropy = tl.load(saved + 2 * num_rows + rows, mask=stored, other=0.0)[:, None]
        grad_entropy = tl.load(saved + 3 * num_rows + rows, mask=stored, other=0.0)[:, None]
        grad += tl.where(p > 0, p * (log_p + entropy) * grad_entropy, 0.0)
    target = tl.load(targets + rows, mask=stored, other=-1) - start
    grad = tl.where(columns[None, :] == target[:, None], grad - grad_logprob, grad)
    if softcap is not None:
        tanh = z * temperature / softcap
        grad *= 1.0 - tanh * tanh
    if DESCRIPTORS:
        out.store([row, column], grad.to(out.dtype))
    else:
        at = out + rows.to(tl.int64)[:, None] * out_stride + columns[None, :]
        tl.store(at, grad.to(out.dtype.element_ty), mask=stored[:, None] & inside[None, :])
