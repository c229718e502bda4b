"""Ctrl-C, SIGTERM, SIGHUP (a lost ssh): a run stops where it can be saved, not wherever it is.

A second signal ends the run at once, with the checkpoints that there are.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from erclip.machine.distributed import World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 25.0  # torchrun kills its processes 30 s after it has told them to stop


class Stopped(BaseException):
    """The user, or the machine, wants the run to end; not an error, so no `except Exception`."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """While it is entered, signals are remembered, and raised as `Stopped` where that is exact."""

    def __init__(self, world: World):
        self._world = world
        self._received = 0
        self._at_once = False
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in SIGNALS if n != signal.SIGHUP or not _ignored(n)]  # nohup's wish
            self._before = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # torchrun, when a process has failed, ends the others: they are about to say so themselves
        failed = kind is not None and self._world.size > 1
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if failed else handler)
        self._before = {}

    def check(self) -> None:
        """Raise `Stopped` on every process if one of them was told to stop."""
        received = max(self._world.gather(lambda: self._received))
        if received:
            raise Stopped(received)

    @contextmanager
    def at_once(self) -> Generator[None]:
        """Here nothing is lost if a signal breaks off what is going on (one process only)."""
        self._at_once = self._world.size == 1
        try:
            if self._at_once and self._received:
                raise Stopped(self._received)
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._received and self._world.size == 1:
            raise KeyboardInterrupt
        self._received = number
        if self._at_once:
            self._at_once = False
            raise Stopped(number)
        if self._world.size > 1 and self._timer is None:
            self._timer = threading.Timer(PATIENCE_S, os._exit, [128 + number])
            self._timer.daemon = True
            self._timer.start()


def _ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
