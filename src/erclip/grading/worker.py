r"""The process that runs sympy: reads one JSON task a line, writes one JSON verdict a line.

The supervisor loads sympy once and forks a child that does the work. A child that exceeds its CPU
seconds, its wall-clock seconds or its memory dies by the kernel's hand; the supervisor reports it
and forks the next from the loaded image, which costs milliseconds instead of a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    cpu_limit_s, time_limit_s, memory_bytes = map(float, sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not garble the protocol
    try:
        from erclip.grading import tasks
    except ImportError as error:
        _send(output, {"failed": f"{type(error).__name__}: {error}"})
        return
    tasks.warm_up()
    _send(output, {"ready": os.getpid()})
    while True:
        child = _fork()
        if child == 0:
            _limit(int(memory_bytes))
            _serve(output, cpu_limit_s, time_limit_s, tasks.run)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return
        _send(output, {"died": code})


def _fork() -> int:
    """Fork; from then on, a SIGTERM to the supervisor ends and reaps the child first."""

    def stop(*_: object) -> None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    signal.signal(signal.SIGTERM, signal.SIG_DFL if child == 0 else stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return child


def _serve(output: int, cpu_limit_s: float, time_limit_s: float, run: Any) -> None:
    with os.fdopen(0, "rb", closefd=False) as tasks:
        for line in tasks:
            signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
            signal.setitimer(signal.ITIMER_REAL, time_limit_s)
            task = json.loads(line)
            reply = run(task)
            for clock in (signal.ITIMER_PROF, signal.ITIMER_REAL):
                signal.setitimer(clock, 0)
            _send(output, {**reply, "id": task["id"]})


def _limit(memory_bytes: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # macOS refuses RLIMIT_AS; the CPU and wall clocks still bound the child


def _send(output: int, message: dict[str, Any]) -> None:
    os.write(output, json.dumps(message).encode() + b"\n")
