"""Grading throughput: integers and algebra, with one poisoned answer in a hundred, nothing lost.

    python benchmarks/grading.py [--items 2000] [--repeats 5] [--out benchmarks/results/FILE.csv]

Integers; arithmetic (surds, pi, polynomials, tuples), functions (logarithms, sines, floors, lines)
and algebra (moduli, complex numbers, inequalities), which the calling process decides by value; and
sums (divisors, sums, maxima), which need a worker. All are distinct, so the cache never helps;
workers are started before the clock is.

Two kinds of poison, one answer in a hundred: a tower of powers, which a guard refuses, and an
integral that passes every guard and is stopped by the worker's clock, 0.5 CPU seconds each;
`clock 5 %` has one of those in twenty. Any verdict that is not the
expected one (`guarded` and `timeout` for poison) is counted in the row and fails the run.

On a shared machine the rate says little; `cpu_ms_per_item` is what an answer costs, in the caller
and in the workers together. A required rate allows so much of it: one core's time for what the
caller decides alone, two cores' for what workers share. `met` says whether the rate was reached by
the wall clock (`rate`), by its cost alone (`cost`), or not (`no`, which fails the run). A row that
FILE holds already is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import itertools
import math
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from erclip.grading import Grader

if TYPE_CHECKING:
    from gpu.rows import Rows

TARGETS = {"integers": 2000, "arithmetic": 150, "functions": 150, "algebra": 150, "sums": 150}
CLOCKED = 150  # with one answer in a hundred that only the clock stops, which costs 5 ms of each
CLOCK_TARGET = 40  # with one answer in twenty of those
POISON = {
    "none": None,
    "tower": (r"5^{5^{5^{5^{%d}}}}", "guarded"),
    "clock": (r"\int_0^1 \sin(x^{x}) \cos(e^{x^{%d}}) dx", "timeout"),
}
POISON["clock 5 %"] = POISON["clock"]


class Item(NamedTuple):
    """A response, its gold, and the verdict it must get."""

    response: str
    gold: str
    reason: str


def integers(random_: random.Random, count: int) -> list[Item]:
    """Responses of a few hundred words that box an integer."""
    words = "so we add the two numbers and see that the total is " * 30
    items = _drawn(random_, count, 10**6, lambda a, b, c, wrong: ((f"{a}", f"{a + wrong}"),))
    return [item._replace(response=f"{words} {item.response}") for item in items]


def arithmetic(random_: random.Random, count: int) -> list[Item]:
    """The forms of competition answers: surds, multiples of pi, powers, polynomials, tuples."""
    return _drawn(
        random_,
        count,
        200,
        lambda a, b, c, wrong: (
            (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + wrong}}}"),
            (rf"\frac{{{a}+\sqrt{{{b}}}}}{{{c}}}", rf"\frac{{\sqrt{{{b}}}+{a + wrong}}}{{{c}}}"),
            (rf"\frac{{{a}\pi}}{{{b}}}", rf"\frac{{{c * a}}}{{{c * b + wrong}}}\pi"),
            (f"(x+{a})(x-{b})", f"x^2+{a + wrong}x-{b}x-{a * b}"),
            (rf"2^{{{a}}} \cdot {b}!", rf"{b}! \cdot 2^{{{a - 1 + wrong}}} \cdot 2"),
            (
                rf"\left({a}, \frac{{\sqrt{{{b}}}}}{{{c}}}\right)",
                rf"({a}, \frac{{{b + wrong}}}{{{c}\sqrt{{{b}}}}})",
            ),
        ),
    )


def functions(random_: random.Random, count: int) -> list[Item]:
    """Logarithms, sines, floors and equations of lines."""
    return _drawn(
        random_,
        count,
        1000,
        lambda a, b, c, wrong: (
            (rf"\log {a} - \log {b}", rf"\log \frac{{{a + wrong}}}{{{b}}}"),
            (rf"{a}\sin {b}x", rf"{a + wrong}\sin({b}x)"),
            (rf"\lfloor \sqrt{{{a}}} \rfloor + {b}", rf"{math.isqrt(a) + b + wrong}"),
            (rf"y={a}x+{b}", rf"{a + wrong}x-y+{b}=0"),
        ),
    )


def algebra(random_: random.Random, count: int) -> list[Item]:
    """Moduli, complex numbers, powers of e and inequalities."""
    return _drawn(
        random_,
        count,
        1000,
        lambda a, b, c, wrong: (
            (rf"{a}|x|+{b}", rf"|{a + wrong}x|+{b}"),
            (f"{a}+{b}i", f"{b}i+{a + wrong}"),
            (rf"e^{{{a}}}+{b}", rf"{b + wrong}+e^{{{a}}}"),
            (rf"x \ge {a}-{b}y", rf"x+{b}y \ge {a + wrong}"),
        ),
    )


def sums(random_: random.Random, count: int) -> list[Item]:
    """Divisors, sums and maxima: what the calling process does not read."""
    return _drawn(
        random_,
        count,
        1000,
        lambda a, b, c, wrong: (
            (f"{math.gcd(a, b) + wrong}", rf"\gcd({a},{b})"),
            (f"{a * (a + 1) // 2 + b + wrong}", rf"\sum_{{k=1}}^{{{a}}} k + {b}"),
            (f"{max(a, b) + c + wrong}", rf"\max({a},{b})+{c}"),
        ),
    )


Forms = Callable[[int, int, int, int], Sequence[tuple[str, str]]]


def _drawn(random_: random.Random, count: int, largest: int, forms: Forms) -> list[Item]:
    """Each form (gold, boxed answer) in its turn, of three numbers; one answer in four is wrong."""
    items = []
    for i in range(count):
        numbers = (random_.randrange(2, largest) for _ in range(3))
        wrong = int(random_.random() < 0.25)
        pairs = forms(*numbers, wrong)
        gold, answer = pairs[i % len(pairs)]
        items.append(Item(rf"Hence \boxed{{{answer}}}.", gold, "wrong" if wrong else "correct"))
    return items


def poisoned(items: list[Item], kind: str) -> list[Item]:
    """Every hundredth (or twentieth) item replaced by a poisoned one."""
    poison = POISON[kind]
    if poison is None:
        return items
    text, reason = poison
    every = 20 if "5 %" in kind else 100
    return [
        Item(rf"\boxed{{{text % i}}}", "1", reason) if i % every == every // 2 else item
        for i, item in enumerate(items)
    ]


class Measurement(NamedTuple):
    """Wall-clock and CPU seconds of one batch, and the verdicts that were not the expected ones."""

    seconds: float
    cpu_s: float
    unexpected: Counter[str]


def measure(grader: Grader, items: list[Item]) -> Measurement:
    """Grade one batch with workers that have been started before."""
    begin, cpu = time.perf_counter(), family_cpu_s()
    grades = grader.grade_batch([(item.response, item.gold) for item in items])
    seconds, cpu_s = time.perf_counter() - begin, family_cpu_s() - cpu
    pairs = zip(items, grades, strict=True)
    wrong = Counter(f"{i.reason}->{g.reason}" for i, g in pairs if i.reason != g.reason)
    return Measurement(seconds, cpu_s, wrong)


def family_cpu_s() -> float:
    """CPU seconds of this process and its descendants, with those that have been reaped."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            stats[int(path.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    family, found = {os.getpid()}, True
    while found:
        found = {pid for pid, (parent, _) in stats.items() if parent in family} - family
        family |= found
    return sum(stats[pid][1] for pid in family if pid in stats) / os.sysconf("SC_CLK_TCK")


KINDS = {
    "integers": integers,
    "arithmetic": arithmetic,
    "functions": functions,
    "algebra": algebra,
    "sums": sums,
}


COLUMNS = (
    *("items", "repeats", "workers", "time_limit_s", "median_per_s", "min_per_s", "max_per_s"),
    *("cpu_ms_per_item", "target_per_s", "allowed_cpu_ms", "met", "unexpected_verdicts"),
    "load_before",
)


def run(rows: Rows, count: int, repeats: int, workers: int, time_limit_s: float) -> None:
    """Add a row for each kind of answer and of poison that has none."""
    with Grader(workers=workers, time_limit_s=time_limit_s) as grader:
        grader.grade_batch([(rf"\boxed{{\gcd({i},6)}}", "x") for i in range(2 * workers)])
        for name, poison in itertools.product(KINDS, POISON):
            if rows.has(name, poison):
                continue
            size = count if "clock" in poison or name != "integers" else count * 10
            load = os.getloadavg()[0]
            runs: list[Measurement] = []
            for repeat in range(repeats):
                random_ = random.Random(f"{name}, {poison}, {repeat}")
                runs.append(measure(grader, poisoned(KINDS[name](random_, size), poison)))
            rows.add(
                name,
                poison,
                items=size,
                repeats=repeats,
                workers=workers,
                time_limit_s=time_limit_s,
                **_summary(name, poison, size, runs, workers),
                load_before=f"{load:.1f}",
            )


def _summary(
    name: str, poison: str, size: int, runs: list[Measurement], workers: int
) -> dict[str, str]:
    """Rates, the cost of an answer, and what is required of them."""
    rates = [size / done.seconds for done in runs]
    unexpected = sum((done.unexpected for done in runs), Counter())
    cost_ms = statistics.median(done.cpu_s * 1000 / size for done in runs)
    target = {"clock": min(CLOCKED, TARGETS[name]), "clock 5 %": CLOCK_TARGET}.get(
        poison, TARGETS[name]
    )
    cores = workers if "clock" in poison or name == "sums" else 1
    allowed_ms = 1000 * cores / target
    met = "cost" if cost_ms <= allowed_ms else "no"
    return {
        "median_per_s": f"{statistics.median(rates):.0f}",
        "min_per_s": f"{min(rates):.0f}",
        "max_per_s": f"{max(rates):.0f}",
        "cpu_ms_per_item": f"{cost_ms:.2f}",
        "target_per_s": str(target),
        "allowed_cpu_ms": f"{allowed_ms:.2f}",
        "met": "rate" if statistics.median(rates) >= target else met,
        "unexpected_verdicts": str(dict(unexpected)) if unexpected else "0",
    }


def main() -> None:
    """Measure, print, and write each row as it is made."""
    from gpu.rows import Rows
    from machine import measured_on

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--time-limit-s", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path(os.devnull))
    arguments = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("sympy", "math-verify")}
    rows = Rows(arguments.out, ("answers", "poison"), COLUMNS, on=measured_on() | versions)
    run(rows, arguments.items, arguments.repeats, arguments.workers, arguments.time_limit_s)
    if any(row["unexpected_verdicts"] != "0" or row["met"] == "no" for row in rows.found):
        sys.exit("some verdicts were not the expected ones, or a required rate was not met")


if __name__ == "__main__":
    main()
