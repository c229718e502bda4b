"""All tests marked `gpu` and the ops' Triton cases, less those that an earlier call passed."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rows import Rows
from step import OUT_OF_TIME, Task, told

ROOT = Path(__file__).parent.parent.parent
FILES = (
    "tests/gpu",
    "tests/ops/test_triton.py",
    "tests/ops/test_triton_fused.py",
    "tests/ops/test_matmul.py",
)


class Recorder:
    """A row per test, written when it ends."""

    def __init__(self, task: Task):
        self.task = task
        self.rows = Rows(task.out / "unit_tests.csv", ("test", "outcome"), ("seconds", "reason"))
        self.late = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            lines = str(report.longrepr or "").strip().splitlines()
            crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
            reason = "" if report.passed else (crash or (lines or [""])[-1]).splitlines()[0][:200]
            seconds = f"{report.duration:.2f}"
            self.rows.add(report.nodeid, report.outcome, seconds=seconds, reason=reason)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    def pytest_runtest_logfinish(self) -> None:
        if self.task.left() < 5:
            self.late, self.session.shouldstop = True, "out of time"


def main(task: Task) -> int:
    recorder = Recorder(task)
    options = ["-q", "-m", "gpu or not slow", "-p", "no:cacheprovider", "--timeout", "100"]
    if find_spec("xdist") is not None and not task.tiny:  # most of the time goes into compiling
        options += ["-n", str(min(8, len(os.sched_getaffinity(0))))]
    passed = [row["test"] for row in recorder.rows.found if row["outcome"] == "passed"]
    options += [option for name in passed for option in ("--deselect", name)]
    code = pytest.main([*options, "--tb=short", *(str(ROOT / f) for f in FILES)], [recorder])
    if recorder.late:
        return OUT_OF_TIME
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)


if __name__ == "__main__":
    sys.exit(main(told(__doc__)))
