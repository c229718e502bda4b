"""Triton's kernels without a GPU: the cases of a file run in a second pytest under its interpreter.

The interpreter has to be chosen before triton is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

here = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="needs CUDA, or TRITON_INTERPRET=1 (test_cases_under_the_interpreter sets it)",
)


def under_the_interpreter(file: str):
    """A test that runs the cases of `file` which are marked `here`."""

    @pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
    @pytest.mark.skipif(INTERPRETED, reason="already under the interpreter")
    def test_cases_under_the_interpreter():
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(file))],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert " passed" in run.stdout

    return test_cases_under_the_interpreter
