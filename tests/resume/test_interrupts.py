"""Signals are answered within a second, whatever the main thread is in, and say what comes next."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from erclip.machine.distributed import World
from erclip.machine.interrupts import Interrupts, Stopped

ROUNDS = 600_000


def deaf():
    """Work that hears no signal: Python's handlers wait until it is over."""
    hashlib.pbkdf2_hmac("sha256", b"p", b"s", ROUNDS)


def after(seconds, number=signal.SIGINT):
    timer = threading.Timer(seconds, os.kill, [os.getpid(), number])
    timer.start()
    return timer


@pytest.mark.parametrize(
    ("at_once", "words"), [(False, "finishing this batch"), (True, "drawn again later")]
)
def test_a_signal_is_answered_while_nothing_can_be_heard(at_once, words):
    answers = []
    interrupts = Interrupts(World(), lambda text: answers.append((time.monotonic(), text)))
    sent = time.monotonic() + 0.2

    def work():
        if at_once:
            with interrupts.at_once():
                deaf()
        else:
            deaf()
            interrupts.check()

    with interrupts:
        after(0.2)
        with pytest.raises(Stopped, match="SIGINT"):
            work()
        over = time.monotonic()
    ((answered, text),) = answers
    assert words in text
    assert "press again to stop now" in text
    assert answered - sent < 1
    assert answered < over


def test_a_second_signal_ends_it_at_once():
    answers = []
    with Interrupts(World(), answers.append) as interrupts:
        after(0.05)
        after(0.3)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
        assert interrupts._received == signal.SIGINT
    assert len(answers) == 1


def test_one_operation_does_not_keep_a_process_from_stopping():
    """The second signal while the main thread is deaf for minutes: it ends with a sentence."""
    code = (
        "import hashlib, os, signal, threading\n"
        "import erclip.machine.interrupts as i\n"
        "from erclip.machine.distributed import World\n"
        "i.STUCK_S = 0.5\n"
        "def kill(): os.kill(os.getpid(), signal.SIGINT)\n"
        "for s in (0.2, 0.5): threading.Timer(s, kill).start()\n"
        "with i.Interrupts(World(), lambda t: print(t, flush=True), 'go on with: this'):\n"
        "    hashlib.pbkdf2_hmac('sha256', b'p', b's', 1_000_000_000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130
    assert done.stdout.splitlines()[-1] == "stopped in the middle of an operation; go on with: this"


def test_other_signals_and_other_processes_do_not_count(monkeypatch):
    """A timer of a user's code, a child that the terminal interrupts too: neither is a Ctrl-C."""
    answers = []
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with Interrupts(World(), answers.append) as interrupts:
            os.kill(os.getpid(), signal.SIGUSR1)
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGINT)
                os._exit(0)
            os.waitpid(child, 0)
            time.sleep(0.2)
            assert answers == []
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            with pytest.raises(Stopped):
                interrupts.check()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [text.split(",")[0] for text in answers] == ["finishing this batch"]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(World()):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
    assert signal.set_wakeup_fd(-1) == -1
