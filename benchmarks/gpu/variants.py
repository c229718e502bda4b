"""The fused kernels cut in several ways, and the op without them: what one call can compare."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erclip.ops import triton_epilogue, triton_fused
from erclip.ops.gradient import Saved
from erclip.ops.options import HeadOptions
from erclip.ops.triton_fused import Blocks

if TYPE_CHECKING:
    from head import Work
    from rows import Rows
    from step import Task

CUTS = (
    Blocks(),
    Blocks(128, 128, 32, 8, 4),
    Blocks(stages=4),
    Blocks(descriptors=True),
    Blocks(stages=4, descriptors=True),
    Blocks(128, 128, 64, 4, 3),
    Blocks(128, 128, 64, 4, 3, descriptors=True),
    Blocks(128, 128, 64, 8, 4),
    Blocks(128, 128, 64, 8, 4, descriptors=True),
    Blocks(128, 128, 128, 8, 3, descriptors=True),
    Blocks(64, 256, 64, 4, 4, descriptors=True),
    Blocks(span=2, descriptors=True),
    Blocks(span=32, group=16, descriptors=True),
)
TINY = (Blocks(16, 32, 16, 4, 2, 3, 2), Blocks(16, 32, 16, 4, 2, 3, 2, True))


def compare(rows: Rows, work: Work, key: tuple, task: Task) -> None:
    """Milliseconds of each cut: all scores, and the gradient of one tile of 2²⁶ elements."""
    from head import times_ms

    hidden, weight = work.hidden.detach(), work.weight.detach()
    tile = weight[: max(256, (1 << 26) // len(hidden))]
    ones = torch.ones(len(hidden), device=hidden.device)
    saved = Saved(work.targets, 10 * ones, ones, ones, None)
    options = HeadOptions()

    def scores(cut: Blocks) -> Tensor:
        return triton_fused.scores_state(hidden, weight, None, work.targets, options, cut)

    def gradient(cut: Blocks) -> Tensor:
        return triton_fused.gradient_tile(hidden, tile, None, saved, 0, options, cut)

    for cut in TINY if task.tiny else CUTS:
        for name, call in (("fused scores", scores), ("fused gradient of a tile", gradient)):
            case = " ".join(f"{field}={value}" for field, value in cut._asdict().items())
            if rows.has(*key, name, case):
                continue
            task.stop_if_late(5)
            try:
                found = times_ms(lambda do=call, c=cut: do(c), hidden.device.type, 0.05)
            except Exception as error:  # a cut that does not fit the device is a row, too
                text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                rows.add(*key, name, case, skipped=text)
                continue
            values = {"median_ms": f"{median(found):.3f}", "low_ms": f"{min(found):.3f}"}
            rows.add(*key, name, case, repeats=len(found), **values)


class Unfused:
    """While open, 16-bit products are cuBLAS's and their tiles go through device memory."""

    def __enter__(self) -> None:
        self.before = triton_fused.TRITON
        triton_fused.TRITON = triton_epilogue.TRITON

    def __exit__(self, *_: object) -> None:
        triton_fused.TRITON = self.before
