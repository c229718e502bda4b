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
from torch import Tensor

from erclip.ops import triton_epilogue
from erclip.ops.chunked import Fused
from erclip.ops.gradient import Saved, stacked
from erclip.ops.options import HeadOptions
from erclip.ops.softmax import lowest
from erclip.ops.triton_products import _gradient_kernel, _merge_kernel, _scores_kernel


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


# Of those tried on an H200 the fastest; without descriptors its gradient would spill.
HOPPER = Blocks(columns=128, warps=4, descriptors=True)
UNALIGNED = Blocks()
OLDER = Blocks(columns=128, inner=32, stages=4)  # 64 KiB of shared memory


def scores_state(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    opts: HeadOptions,
    cut: Blocks | None = None,
) -> Tensor:
    """The state [6, N] of all rows, whose parts of the vocabulary are merged at the end."""
    x, w = (t if t.stride(1) == 1 else t.contiguous() for t in (x, w))
    cut = cut or cut_for(x, w)
    num_rows, vocab = x.shape[0], w.shape[0]
    num_parts = triton.cdiv(vocab, cut.columns * cut.span)
    parts = torch.empty((num_parts, 6, num_rows), dtype=torch.float32, device=x.device)
    _scores_kernel[(triton.cdiv(num_rows, cut.rows) * num_parts,)](
        *_operands(cut, (x, cut.rows, cut.inner), (w, cut.columns, cut.inner)),
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
    """`statistics.merge` of all parts [S, 6, N]: the state [6, N]."""
    num_parts, _, num_rows = parts.shape
    state = torch.empty_like(parts[0])
    _merge_kernel[(triton.cdiv(num_rows, 16),)](
        parts, state, num_rows, num_parts, lowest(parts.dtype), SLOPES=slopes, ROWS=16, PARTS=64
    )
    return state


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
    cut = cut or cut_for(x, w)
    num_rows, vocab = x.shape[0], w.shape[0]
    # a row's length is a multiple of 16 bytes, as descriptors ask for
    out = torch.empty((num_rows, -(-vocab // 8) * 8), dtype=x.dtype, device=x.device)[:, :vocab]
    grid = triton.cdiv(num_rows, cut.rows) * triton.cdiv(vocab, cut.columns)
    _gradient_kernel[(grid,)](
        *_operands(cut, (x, cut.rows, cut.inner), (w, cut.columns, cut.inner)),
        *_operands(cut, (out, cut.rows, cut.columns)),
        bias,
        saved.targets,
        stacked(saved),
        num_rows,
        vocab,
        x.shape[1],
        x.stride(0),
        w.stride(0),
        out.stride(0),
        start,
        temperature=opts.temperature,
        softcap=opts.softcap,
        HAS_ENTROPY=saved.grad_entropies is not None,
        **_options(x, cut),
    )
    return out


def cut_for(x: Tensor, w: Tensor) -> Blocks:
    """Descriptors need Hopper, and rows that begin at multiples of 16 bytes."""
    if not x.is_cuda or torch.version.hip or torch.cuda.get_device_capability(x.device)[0] < 9:
        return OLDER
    aligned = all(t.data_ptr() % 16 == 0 and t.stride(0) % 8 == 0 for t in (x, w))
    return HOPPER if aligned else UNALIGNED


def _operands(cut: Blocks, *operands: tuple[Tensor, int, int]) -> list[object]:
    """Tensors, or descriptors of their blocks."""
    if not cut.descriptors:
        return [tensor for tensor, _, _ in operands]
    from triton.tools.tensor_descriptor import TensorDescriptor

    return [TensorDescriptor.from_tensor(t, [rows, columns]) for t, rows, columns in operands]


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
