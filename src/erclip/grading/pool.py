r"""A pool of worker processes that are replaced when they get stuck.

Each slot owns one `erclip.grading.worker` process and one task at a time. Callers borrow slots, so
a pool may be used from any number of threads; it needs neither signals nor an event loop.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from erclip.errors import UserError

MEMORY_BYTES = 2 << 30
START_LIMIT_S = 60.0
STOP_LIMIT_S = 1.0
CPU_SHARE = 0.15
TRIES = 5

Message = dict[str, Any]

# Stands in for `erclip/__init__.py`, which may import torch: seconds and 300 MB for each worker.
_START = """
import sys, types
package = types.ModuleType("erclip")
package.__path__ = [sys.argv.pop()]
sys.modules["erclip"] = package
from erclip.grading.worker import main
main()
"""


class _ChildKilled(Exception):
    """Somebody killed the process that did the work; its supervisor has another one ready."""


class _KilledAtStart(EOFError):
    """Somebody killed the worker before it was ready."""


class Slot:
    """One worker process, started when first used and replaced when it is killed."""

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._sent = 0

    def run(self, task: Message, stop: threading.Event | None = None) -> Message:
        """The worker's reply, or the verdict `timeout` or `guarded` if the task killed it.

        A worker that somebody else killed (SIGKILL: an operator, or the kernel short of memory)
        costs another try (unless `stop` is set), not a verdict. `stopped` marks what a clock or a
        kill decided: another machine, or another minute, may decide it otherwise.
        """
        for tries_left in reversed(range(TRIES)):
            try:
                return self._exchange(task)
            except TimeoutError:
                if not self._stop_child():
                    self.close()
                break
            except (EOFError, BrokenPipeError, _ChildKilled) as error:
                if not isinstance(error, _ChildKilled):
                    self.close()
                if stop and stop.is_set():
                    break
                if isinstance(error, _KilledAtStart) and not tries_left:
                    raise UserError(
                        f"Grading workers were killed {TRIES} times while starting, most likely "
                        "for want of memory: free some, or use fewer workers."
                    ) from error
            except BaseException:
                self.close()
                raise
        return {"verdict": "timeout", "stopped": True}

    def _exchange(self, task: Message) -> Message:
        process = self._started()
        assert process.stdin is not None
        self._sent += 1
        process.stdin.write(json.dumps({**task, "id": self._sent}).encode() + b"\n")
        process.stdin.flush()
        deadline = time.monotonic() + self._time_limit_s
        while True:
            reply = self._read(process, deadline)
            if reply.get("died") == -signal.SIGPROF:
                return {"verdict": "timeout", "stopped": True}
            if reply.get("died") == -signal.SIGKILL:
                raise _ChildKilled
            if "died" in reply:
                return {"verdict": "guarded", "stopped": True}
            if reply.get("id") == self._sent:
                return reply

    def _stop_child(self) -> bool:
        """End the process that computes; False if its supervisor does not say so at once."""
        assert self._process is not None
        with suppress(TimeoutError, EOFError, ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
            deadline = time.monotonic() + STOP_LIMIT_S / 2
            while "died" not in self._read(self._process, deadline):
                pass  # a reply that came too late
            return True
        return False

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            if self._process.poll() is None and not self._readable(self._process, 0.0):
                return self._process
            self.close()  # it ended, or has something to say that nobody asked for
        package = str(Path(__file__).resolve().parents[1])
        arguments = [str(self._time_limit_s * CPU_SHARE), str(MEMORY_BYTES), package]
        self._process = process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", _START, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for the parent alone
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        self._buffer = b""
        hello = self._greeting(process)
        if "failed" in hello:
            self.close()
            raise UserError(f"a grading worker did not start: {hello['failed']}")
        return process

    def _greeting(self, process: subprocess.Popen[bytes]) -> Message:
        """What a new worker says first; one that is killed before is an EOF, worth another try."""
        try:
            return self._read(process, time.monotonic() + START_LIMIT_S)
        except TimeoutError as error:
            self.close()
            raise UserError(f"a grading worker ({sys.executable}) did not start") from error
        except EOFError as error:
            code = process.wait()
            self.close()
            if code == -signal.SIGKILL:
                raise _KilledAtStart from error
            raise UserError(
                f"a grading worker ({sys.executable}) ended with {code} while starting"
            ) from error

    @staticmethod
    def _readable(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
        poll = select.poll()
        assert process.stdout is not None
        poll.register(process.stdout.fileno(), select.POLLIN)
        return bool(poll.poll(max(timeout_s, 0.0) * 1000))

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> Message:
        assert process.stdout is not None
        while b"\n" not in self._buffer:
            if not self._readable(process, deadline - time.monotonic()):
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """Stop the worker, which reaps its child first: in a container, PID 1 may never do it."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGTERM)
            os.killpg(process.pid, signal.SIGCONT)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


class Pool:
    """`workers` slots, handed out most recently used first."""

    def __init__(self, workers: int, time_limit_s: float) -> None:
        slots = [Slot(time_limit_s) for _ in range(workers)]
        self._slots = slots
        self._idle: queue.LifoQueue[Slot] = queue.LifoQueue()
        for slot in slots:
            self._idle.put(slot)
        self._owner = os.getpid()
        weakref.finalize(self, _close_all, slots, self._owner)

    @property
    def was_forked(self) -> bool:
        """Whether this is a forked copy, whose workers belong to the parent process."""
        return self._owner != os.getpid()

    def run(self, tasks: Sequence[Message]) -> list[Message]:
        """All replies, in the order of the tasks."""
        stop = threading.Event()

        def work(task: Message) -> Message:
            slot = self._idle.get()
            try:
                return {} if stop.is_set() else slot.run(task, stop)
            finally:
                self._idle.put(slot)

        threads = ThreadPoolExecutor(min(len(self._slots), len(tasks)), "erclip-grading")
        try:
            return list(threads.map(work, tasks))
        finally:  # a Ctrl-C must not wait for the tasks that other threads have in hand
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Stop every worker."""
        _close_all(self._slots, self._owner)


def _close_all(slots: Iterable[Slot], owner: int) -> None:
    """Stop workers, but only those that this very process started."""
    if os.getpid() == owner:
        for slot in slots:
            slot.close()
