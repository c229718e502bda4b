"""A downstream project under pyright and mypy: right passes, every mistake is underlined."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import erclip

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"


def wrong_lines(file):
    lines = (HERE / file).read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if "# wrong" in line}


def underlined_by_mypy(file, tmp_path):
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), str(HERE / file)]
    done = subprocess.run(
        [*command, "--follow-imports=silent", "--no-error-summary", "--show-absolute-path"],
        env={"MYPYPATH": str(SOURCE), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in (0, 1), done.stderr
    own = [line for line in done.stdout.splitlines() if line.startswith(str(HERE / file))]
    return {int(re.findall(r":(\d+):", line)[0]) for line in own if " error: " in line}


def underlined_by_pyright(file, tmp_path):
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, str(HERE / file)], capture_output=True, text=True, check=False, timeout=600
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1, report
    found = report["generalDiagnostics"]
    return {item["range"]["start"]["line"] + 1 for item in found if item["severity"] == "error"}


CHECKERS = {"mypy": underlined_by_mypy, "pyright": underlined_by_pyright}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_right_passes_and_every_mistake_is_underlined(checker, tmp_path):
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed; `make test-types` has it")
    assert CHECKERS[checker]("good.py", tmp_path) == set()
    assert CHECKERS[checker]("bad.py", tmp_path) == wrong_lines("bad.py")


def test_all_names_are_visible():
    assert set(erclip.__all__) <= set(dir(erclip))
    assert all(getattr(erclip, name) is not None for name in erclip.__all__)
