"""The cases of Triton's kernels on a CPU: one pytest under its interpreter for all their files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from interpreter import INTERPRETED

FILES = ("test_picked.py", "test_triton.py", "test_triton_fused.py")


def test_every_file_with_such_cases_is_named():
    files = Path(__file__).parent.glob("test_*.py")
    assert {f.name for f in files if re.search("^@here$", f.read_text(), re.M)} == set(FILES)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(INTERPRETED, reason="already under the interpreter")
def test_cases_under_the_interpreter():
    files = [Path(__file__).with_name(name) for name in FILES]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for file in FILES:
        assert re.search(f"^PASSED .*{file}", run.stdout, re.M), file
