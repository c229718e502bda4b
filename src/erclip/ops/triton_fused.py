# ty: ignore[invalid-argument-type]
"""Products of 16-bit inputs with their epilogue in one Triton kernel: no tile of logits is written.

`scores_state` folds what `statistics` explains while the products are in registers: each program
goes over some of the vocabulary for one block of rows, and the parts are merged at the end.
`gradient_tile` writes ∂L/∂z of a tile, rounded once, for the next product. For float32 inputs
cuBLAS multiplies and `triton_epilogue` does the rest, since the products are all that counts there.

Letters: N tokens, D hidden size, V vocabulary, M and C rows and columns of a block, K of D at a
time, S parts of the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from erclip.ops import triton_epilogue
from erclip.ops.chunked import Fused
from erclip.ops.gradient import Saved
from erclip.ops.options import HeadOptions
from erclip.ops.statistics import lowest
from erclip.ops.triton_epilogue import _fold, stacked


class Blocks(NamedTuple):
    """How a kernel is cut: M, C and K of a block, warps, pipeline stages."""

    rows: int = 128
    columns: int = 256
    inner: int = 64
    warps: int = 8
    stages: int = 3
    span: int = 8  # blocks of columns that one program goes over
    group: int = 32  # blocks of rows that are worked on side by side, to share columns in L2
    descriptors: bool = False  # loads by Hopper's copy engine


SCORES = Blocks()
GRADIENT = Blocks()


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
    at = out + rows.to(tl.int64)[:, None] * vocab + columns[None, :]
    tl.store(at, grad.to(out.dtype.element_ty), mask=stored[:, None] & inside[None, :])


def scores_state(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    opts: HeadOptions,
    cut: Blocks | None = None,
) -> Tensor:
    """The state [6, N] of all rows, whose parts of the vocabulary are merged at the end."""
    cut = cut or SCORES
    x, w = _rows_apart(x), _rows_apart(w)
    num_rows, vocab = x.shape[0], w.shape[0]
    num_parts = triton.cdiv(vocab, cut.columns * cut.span)
    parts = torch.empty((num_parts, 6, num_rows), dtype=torch.float32, device=x.device)
    _scores_kernel[(triton.cdiv(num_rows, cut.rows) * num_parts,)](
        *_operands(x, w, cut),
        bias,
        targets,
        parts,
        num_rows,
        vocab,
        x.shape[1],
        x.stride(0),
        w.stride(0),
        lowest(torch.float32),
        temperature=opts.temperature,
        softcap=opts.softcap,
        SLOPES=opts.slopes,
        SPAN=cut.span,
        **_options(x, cut),
    )
    return merge_parts(parts, opts.slopes)


def merge_parts(parts: Tensor, slopes: bool) -> Tensor:
    """`statistics.merge` of all parts [S, 6, N] at once: the highest keeps its own sums."""
    peak, best = parts[:, 0].max(0)
    own = torch.arange(len(parts), device=parts.device)[:, None] == best
    gap = peak - parts[:, 0]
    state = [peak]
    for i, factor in ((1, torch.exp(-gap)), (3, torch.exp(-2 * gap))):
        if i == 3 and not slopes:
            state += [parts[0, 3], parts[0, 4]]
            break
        total = 1 + parts[:, i]
        state.append(torch.where(own, parts[:, i], factor * total).sum(0))
        state.append((factor * (parts[:, i + 1] + gap * total)).sum(0))
    # at most one part has seen the target; the others hold NaN
    picked = parts[:, 5]
    seen = ~picked.isnan()
    target = torch.where(seen, picked, 0.0).sum(0).masked_fill(~seen.any(0), torch.nan)
    return torch.stack((*state, target))


def gradient_tile(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    saved: Saved,
    start: int,
    opts: HeadOptions,
    cut: Blocks | None = None,
) -> Tensor:
    """−temperature · ∂L/∂raw of the tile x [R, D] · w [C, D]ᵀ, in their dtype."""
    cut = cut or GRADIENT
    x, w = _rows_apart(x), _rows_apart(w)
    num_rows, vocab = x.shape[0], w.shape[0]
    out = torch.empty((num_rows, vocab), dtype=x.dtype, device=x.device)
    grid = triton.cdiv(num_rows, cut.rows) * triton.cdiv(vocab, cut.columns)
    _gradient_kernel[(grid,)](
        *_operands(x, w, cut),
        out,
        bias,
        saved.targets,
        stacked(saved),
        num_rows,
        vocab,
        x.shape[1],
        x.stride(0),
        w.stride(0),
        start,
        temperature=opts.temperature,
        softcap=opts.softcap,
        HAS_ENTROPY=saved.grad_entropies is not None,
        **_options(x, cut),
    )
    return out


def _rows_apart(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _operands(x: Tensor, w: Tensor, cut: Blocks) -> tuple[object, object]:
    if not cut.descriptors:
        return x, w
    from triton.tools.tensor_descriptor import TensorDescriptor

    return (
        TensorDescriptor.from_tensor(x, [cut.rows, cut.inner]),
        TensorDescriptor.from_tensor(w, [cut.columns, cut.inner]),
    )


def _options(x: Tensor, cut: Blocks) -> dict[str, object]:
    return {
        "ROWS": cut.rows,
        "COLUMNS": cut.columns,
        "INNER": cut.inner,
        "GROUP": cut.group,
        "EVEN": x.shape[1] % cut.inner == 0,
        "DESCRIPTORS": cut.descriptors,
        "num_warps": cut.warps,
        "num_stages": cut.stages,
    }


TRITON = triton_epilogue.TRITON._replace(fused=Fused(scores_state, gradient_tile))
