"""`erclip …` in a process of its own that imports nothing: a fork of this one, which has it all."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jaxtyping

import erclip.launch
import erclip.report  # noqa: F401 - what the command imports when it is needed
from erclip.cli import main


class Ended(NamedTuple):
    """How a command ended: negative codes are signals."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A command that runs in `folder`; what it says is kept beside it; it begins with `before`."""

    def __init__(self, *words: object, folder: Path, before: Callable[[], None] = lambda: None):
        self._said = [folder.with_suffix(f".{name}") for name in ("stdout", "stderr")]
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._live([str(word) for word in words], folder, before)

    def _live(self, words: list[str], folder: Path, before: Callable[[], None]) -> None:
        code = 1
        try:
            for number, file in enumerate(self._said, start=1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
            sys.argv = ["erclip", *words]
            jaxtyping.config.update("jaxtyping_disable", True)
            os.environ["COLUMNS"] = "120"
            os.chdir(folder)
            before()
            main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def running(self) -> bool:
        """Whether it has not ended."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is None

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for a condition: neither does the command end before, nor is it late."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.running(), self.wait()
            assert time.monotonic() < deadline, self.wait(0)
            time.sleep(0.05)

    def wait(self, seconds: float = 60) -> Ended:
        """How it ends; it is killed if it does not in time."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(0.05)
        return Ended(self._code, *(file.read_text() for file in self._said))
