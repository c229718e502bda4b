"""A sampler of lower precision than the trainer, made of the trainer's own weights.

Inference engines serve rounded copies of the weights that are trained. Here the rounded values
stand in the place of the weights while it samples, so the responses and their log-probs are those
of another, slightly different policy. Products stay in the model's own dtype: what this shows is
the error of the weights, not that of low-precision arithmetic, and it saves no memory or time.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

Rounding = Literal["model", "bfloat16", "int8"]


@contextmanager
def rounded_weights(model: Any, to: Rounding) -> Generator[None]:
    """Let every weight be its nearest value in `to` until the block is left; "model" changes none.

    int8: round(w / s) · s with s = max|w| / 127 of each row, matrices only, as engines do.
    """
    kept: list[tuple[torch.nn.Parameter, Tensor]] = []
    try:
        for weight in model.parameters() if to != "model" else ():
            kept.append((weight, weight.data))
            weight.data = _rounded(weight.data, to)
        yield
    finally:
        for weight, data in kept:
            weight.data = data


def _rounded(weight: Tensor, to: Rounding) -> Tensor:
    if to == "bfloat16":
        return weight.bfloat16().to(weight.dtype)
    if weight.dim() < 2:
        return weight
    scale = weight.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / 127
    return (weight / scale).round() * scale
