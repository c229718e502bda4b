"""Ctrl-C, SIGTERM, SIGHUP (a lost ssh): a run stops where it can be saved, not wherever it is.

A second signal ends the run at once, with the checkpoints that there are. Signals are answered by a
thread that the kernel wakes: Python's own handlers wait until a product of matrices is done.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from erclip.machine.distributed import World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 25.0  # torchrun kills its processes 30 s after it has told them to stop
STUCK_S = 5.0  # after the second signal: one operation may take minutes


class Stopped(BaseException):
    """The user, or the machine, wants the run to end; not an error, so no `except Exception`."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """While it is entered, signals are remembered, and raised as `Stopped` where that is exact.

    `say` gets the answer to each within a second; `farewell` says how the run goes on.
    """

    def __init__(
        self, world: World, say: Callable[[str], None] = lambda text: None, farewell: str = ""
    ):
        self._world, self._say, self._farewell = world, say, farewell
        self._received = 0
        self._at_once = False
        self._broken_off = False  # what was going on was dropped
        self._ending = threading.Event()  # the second signal has reached the main thread
        self._answers: Answers | None = None
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in SIGNALS if n != signal.SIGHUP or not _ignored(n)]  # nohup's wish
            self._before = {number: signal.signal(number, self._receive) for number in heard}
            self._answers = Answers(frozenset(heard), self._answer)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._answers is not None:
            self._answers.close()
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
            self._ending.set()
            raise KeyboardInterrupt
        self._received = number
        if self._at_once:
            self._at_once, self._broken_off = False, True
            raise Stopped(number)
        if self._world.size > 1 and self._timer is None:
            self._timer = threading.Timer(PATIENCE_S, os._exit, [128 + number])
            self._timer.daemon = True
            self._timer.start()

    def _answer(self, number: int, times: int) -> None:
        """Called in a thread of its own for every signal that arrives."""
        if self._world.size > 1 and times > 1:
            return
        if times == 1 and (self._at_once or self._broken_off):
            self._say("stopping: these responses are drawn again later; press again to stop now")
        elif times == 1:
            self._say("finishing this batch, then saving; press again to stop now")
        elif times == 2 and not self._ending.wait(STUCK_S):
            self._say(f"stopped in the middle of an operation; {self._farewell}")
            os._exit(128 + number)


class Answers:
    """A thread that hears of a signal when the kernel does, whatever the main thread is at.

    `answer` is called with each of the signals `heard` and how many have come. A process that is
    forked off hears nothing: what the terminal sends to both would count twice.
    """

    def __init__(self, heard: frozenset[int], answer: Callable[[int, int], None]):
        self._heard, self._answer = heard, answer
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        _open.add(self._writing)
        self._thread = threading.Thread(target=self._listen, name="erclip-signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hear no more; in the main thread."""
        signal.set_wakeup_fd(self._before)
        _open.discard(self._writing)
        os.write(self._writing, b"\0")
        self._thread.join()
        os.close(self._reading)
        os.close(self._writing)

    def _listen(self) -> None:
        times = 0
        while (number := os.read(self._reading, 1)[0]) != 0:
            if number in self._heard:
                times += 1
                self._answer(number, times)


_open: set[int] = set()  # ends of pipes into which the kernel writes


def _forget() -> None:
    """In a process that was forked off: its signals are its own."""
    with suppress(ValueError):  # forked off by another thread than the main one
        written = signal.set_wakeup_fd(-1)
        if written != -1 and written not in _open:
            signal.set_wakeup_fd(written)


os.register_at_fork(after_in_child=_forget)


def _ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
