"""Workers: killed when stuck, replaced, never left behind, and the same verdict from anywhere."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from erclip.errors import UserError
from erclip.grading import Gold, Grader, grade
from erclip.grading.pool import Pool

# Passes every guard and keeps sympy busy for minutes.
POISON = r"\int_0^1 \sin(x^{x}) \cos(e^{x^{%d}}) dx"
PAIRS = [
    (r"\boxed{\gcd(12,18)}", "6", "correct"),
    (r"\boxed{\gcd(12,18)}", "7", "wrong"),
    (r"\boxed{\sum_{k=1}^{4} k}", "10", "correct"),
    (r"\boxed{\max(3,5)}", "5", "correct"),
    (r"\boxed{\int_0^1 x^2 dx}", r"\frac{1}{2}", "wrong"),
    (r"\boxed{9^{9^9}}", "3", "guarded"),
    (r"\boxed{4}", "4", "correct"),
]


def children_of(pid):
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in listing.stdout.splitlines()]
    return {int(row[0]) for row in rows if int(row[1]) == pid and row[2] != "ps"}


def verdicts(grader, pairs=PAIRS):
    grader._cache.clear()
    return [grade.reason for grade in grader.grade_batch([(r, g) for r, g, _ in pairs])]


def test_a_stuck_worker_is_killed_in_time_and_replaced(grader):
    grader.grade(PAIRS[0][0], PAIRS[0][1])
    begin = time.monotonic()
    grade = grader.grade(rf"\boxed{{{POISON % 1}}}", "1")
    assert grade.reason == "timeout"
    assert time.monotonic() - begin < grader._time_limit_s + 0.5
    assert verdicts(grader) == [expected for _, _, expected in PAIRS]


def test_nothing_is_lost_around_poison(grader):
    pairs = []
    for i in range(30):
        pairs.append((rf"\boxed{{\max({i},{i + 2})}}", rf"{i + 2}", "correct"))
        if i % 15 == 7:
            pairs.append((rf"\boxed{{{POISON % (i + 2)}}}", "1", "timeout"))
    assert verdicts(grader, pairs) == [expected for _, _, expected in pairs]


def test_the_verdict_is_the_same_in_any_order_thread_or_loop(grader):
    expected = [verdict for _, _, verdict in PAIRS]
    assert verdicts(grader, PAIRS[::-1]) == expected[::-1]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: verdicts(grader), range(8))) == [expected] * 8

    async def in_a_loop():
        return await asyncio.gather(*(asyncio.to_thread(verdicts, grader) for _ in range(4)))

    assert asyncio.run(in_a_loop()) == [expected] * 4


def test_equal_questions_are_asked_once(grader, monkeypatch):
    asked = []
    run = Pool.run
    monkeypatch.setattr(Pool, "run", lambda self, tasks: asked.extend(tasks) or run(self, tasks))
    pair = (r"\boxed{\gcd(10,15)}", "5")
    assert [grade.correct for grade in grader.grade_batch([pair] * 8)] == [True] * 8
    assert grader.grade(*pair).correct
    assert len(asked) == 1


def test_a_worker_that_is_killed_stopped_or_closed_loses_nothing_and_leaves_nothing():
    before = children_of(os.getpid())
    grader = Grader(workers=1, time_limit_s=5.0)
    assert verdicts(grader, PAIRS[:2]) == ["correct", "wrong"]
    (worker,) = children_of(os.getpid()) - before

    os.killpg(worker, signal.SIGKILL)  # somebody else's doing: costs no verdict
    assert verdicts(grader, PAIRS[:2]) == ["correct", "wrong"]

    (worker,) = children_of(os.getpid()) - before
    family = {worker, *children_of(worker)}
    assert len(family) == 2
    os.killpg(worker, signal.SIGSTOP)  # no CPU time passes: the wall clock ends it
    grader._pool._slots[0]._time_limit_s = 0.3
    begin = time.monotonic()
    assert verdicts(grader, PAIRS[:1]) == ["timeout"]
    assert time.monotonic() - begin < 2.0
    assert children_of(os.getpid()) == before
    assert not any(alive(pid) for pid in family)
    grader.close()


def test_a_killed_child_costs_no_verdict_and_no_restart():
    """What the kernel does when memory runs out: the process that computes is gone."""
    grader = Grader(workers=1, time_limit_s=20.0)
    assert verdicts(grader, PAIRS[:1]) == ["correct"]
    slot = grader._pool._slots[0]
    supervisor = slot._process.pid
    send, kills = slot._read, []

    def killing(process, deadline):
        reply = send(process, deadline)
        if "id" in reply and len(kills) < 2:  # the reply is lost with the child that wrote it
            (child,) = children_of(supervisor)
            kills.append(child)
            os.kill(child, signal.SIGKILL)
            return send(process, deadline)
        return reply

    slot._read = killing
    assert verdicts(grader, PAIRS[1:4]) == [expected for _, _, expected in PAIRS[1:4]]
    assert len(kills) == 2
    assert slot._process.pid == supervisor
    grader.close()


def test_a_worker_that_is_always_killed_is_a_timeout_that_is_not_remembered():
    grader = Grader(workers=1, time_limit_s=20.0)
    slot = grader._pool._slots[0]
    slot._start()
    real = slot._read
    slot._read = lambda *_: {"died": -signal.SIGKILL}
    assert grader.grade(*PAIRS[0][:2]).reason == "timeout"
    assert not grader._cache
    slot._read = real
    slot.close()
    assert grader.grade(*PAIRS[0][:2]).reason == "correct"
    assert len(grader._cache) == 1
    grader.close()


def test_what_the_clock_decided_is_not_remembered(grader):
    grader._cache.clear()
    assert grader.grade(rf"\boxed{{{POISON % 77}}}", "1").reason == "timeout"
    assert not grader._cache


@pytest.mark.parametrize(
    ("killed", "verdict"), [(2, "correct"), (99, "killed 5 times while starting")]
)
def test_a_worker_killed_while_it_starts_is_started_again(killed, verdict, monkeypatch):
    popen, started = subprocess.Popen, []

    def start(arguments, **options):
        process = popen(arguments, **options)
        started.append(process)
        if len(started) <= killed:
            os.killpg(process.pid, signal.SIGKILL)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    with Grader(workers=1, time_limit_s=20.0) as grader:
        if killed < 5:
            assert grader.grade(*PAIRS[0][:2]).reason == verdict
        else:
            with pytest.raises(UserError, match=verdict):
                grader.grade(*PAIRS[0][:2])


def alive(pid):
    """Running or a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Imports erclip.grading without what `erclip/__init__.py` may import.
STUB = f"""
import sys, types
package = types.ModuleType("erclip")
package.__path__ = [{str(Path(sys.modules["erclip.grading"].__file__).parents[1])!r}]
sys.modules["erclip"] = package
"""
SCRIPT = """
import os
from erclip.grading import Grader
grader = Grader(workers=int(sys.argv[2]), time_limit_s=20.0)
grader.grade(r"\\boxed{\\gcd(4,6)}", "2")
print("ready", flush=True)
if sys.argv[1] == "interrupt":
    pairs = [(r"\\boxed{\\int_0^1 \\sin(x^{x}) \\cos(e^{x^{%d}}) dx}" % i, "1") for i in range(4)]
    try:
        grader.grade_batch(pairs)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    grader.close()
elif sys.argv[1] == "fork":
    pid = os.fork()
    if pid == 0:
        with grader:
            fine = grader.grade(r"\\boxed{\\gcd(6,9)}", "3").correct
        os._exit(0 if fine else 1)
    print(os.waitpid(pid, 0)[1], grader.grade(r"\\boxed{\\gcd(10,15)}", "5").correct)
"""


def start(mode, workers):
    return subprocess.Popen(
        [sys.executable, "-c", STUB + SCRIPT, mode, str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_reaches_only_the_parent_and_prints_no_worker_traceback():
    process = start("interrupt", 2)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)


@pytest.mark.slow
def test_a_fork_gets_workers_of_its_own_and_an_unclosed_grader_ends_quietly():
    process = start("fork", 1)
    output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == ("ready\n0 True\n", "", 0)


def test_importing_is_cheap_and_workers_do_not_load_torch():
    heavy = "[m for m in ('torch', 'numpy', 'transformers', 'sympy', 'mpmath') if m in sys.modules]"
    for module, expected in (("", "[]\n"), (".tasks", "['sympy', 'mpmath']\n")):
        code = f"{STUB}\nimport erclip.grading{module}; print({heavy})"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == expected


def test_grade_works_outside_the_main_thread(grader, monkeypatch):
    monkeypatch.setattr(sys.modules["erclip.grading.grader"], "_default_grader", lambda: grader)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(grade(r"\boxed{\gcd(14,21)}", "7").correct)
    )
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Grader(workers=0),
        lambda: Grader(time_limit_s=0.0),
        lambda: Gold(()),
        lambda: Gold((" ",)),
        lambda: Gold("12"),
        lambda: Gold(("1",), tolerance=-1.0),
        lambda: Gold(("1",), tolerance=float("nan")),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"workers|time_limit_s|gold"):
        wrong()
