"""Triton's kernels without a GPU: cases marked `here` run in a second pytest, interpreted.

The interpreter has to be chosen before triton is imported; tests/ops/test_interpreted.py does.
"""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

here = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="needs CUDA, or TRITON_INTERPRET=1 (tests/ops/test_interpreted.py sets it)",
)
