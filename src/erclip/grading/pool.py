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
CPU_SHARE = 0.25
TRIES = 5
_CLOCKS = (-signal.SIGPROF, -signal.SIGALRM)

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


class Slot:
    """One worker process, started when first used and replaced when it hangs or ends."""

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._sent = 0

    def run(self, task: Message, stop: threading.Event | None = None) -> Message:
        """The worker's reply, or the verdict `timeout` or `guarded` if the task ended it.

        A worker that somebody else killed (SIGKILL: an operator, or the kernel short of memory)
        costs another try (unless `stop` is set), not a verdict. `stopped` marks what a clock or a
        kill decided: another machine, or another minute, may decide it otherwise.
        """
        for _ in range(TRIES):
            try:
                reply = self._exchange(task)
            except (EOFError, BrokenPipeError):
                self.close()
            except TimeoutError:
                self.close()
                break
            except BaseException:
                self.close()
                raise
            else:
                if "died" not in reply:
                    return reply
                if reply["died"] != -signal.SIGKILL:
                    is_clock = reply["died"] in _CLOCKS
                    return {"verdict": "timeout" if is_clock else "guarded", "stopped": True}
            if stop and stop.is_set():
                break
        return {"verdict": "timeout", "stopped": True}

    def _exchange(self, task: Message) -> Message:
        if self._process is not None and (
            self._process.poll() is not None or self._readable(self._process, 0.0)
        ):
            self.close()  # it ended, or has something to say that nobody asked for
        process = self._process or self._start()
        assert process.stdin is not None
        self._sent += 1
        process.stdin.write(json.dumps({**task, "id": self._sent}).encode() + b"\n")
        process.stdin.flush()
        return self._read(process, self._time_limit_s + STOP_LIMIT_S)

    def _start(self) -> subprocess.Popen[bytes]:
        """A worker that has said that it is ready; one that is killed before is started again."""
        package = str(Path(__file__).resolve().parents[1])
        limits = (self._time_limit_s * CPU_SHARE, self._time_limit_s, MEMORY_BYTES)
        for _ in range(TRIES):
            self._process = process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _START, *map(str, limits), package],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is for the parent alone
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
            self._buffer = b""
            try:
                hello = self._read(process, START_LIMIT_S)
            except TimeoutError:
                hello = {"failed": "it hangs"}
            except EOFError:
                code = process.wait()
                hello = {"failed": f"it ended with {code}", "killed": code == -signal.SIGKILL}
            if "failed" not in hello:
                return process
            self.close()
            if not hello.get("killed"):
                raise UserError(
                    f"a grading worker ({sys.executable}) did not start: {hello['failed']}"
                )
        raise UserError(
            f"Grading workers were killed {TRIES} times while starting, most likely "
            "for want of memory: free some, or use fewer workers."
        )

    @staticmethod
    def _readable(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
        poll = select.poll()
        assert process.stdout is not None
        poll.register(process.stdout.fileno(), select.POLLIN)
        return bool(poll.poll(max(timeout_s, 0.0) * 1000))

    def _read(self, process: subprocess.Popen[bytes], limit_s: float) -> Message:
        assert process.stdout is not None
        deadline = time.monotonic() + limit_s
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
