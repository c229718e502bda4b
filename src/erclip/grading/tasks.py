"""What a worker can be asked.

kind `ours`: our comparison; `self`: the same, but spelling alone does not count (golds against
themselves); `plain`: math-verify's own opinion (for the audit).
"""

from __future__ import annotations

from typing import Any

import math_verify

from erclip.grading.gold import Gold
from erclip.grading.scalars import plain_scalar, value_scalar
from erclip.grading.symbolic import symbolic_reason

_TYPICAL = (
    (r"\sin^2 x + \log_2 n", r"1-\cos^2 x + \frac{\ln n}{\ln 2}"),
    (r"\binom{n}{2} + \lfloor |n| \rfloor", r"\frac{n!}{2(n-2)!} + e^{i\pi} - \sqrt[3]{2}"),
    (r"2", r"\sum_{n=0}^{\infty} \frac{n}{2^n} + \int_0^1 \frac{1}{1+x^2} dx"),
    (r"\gcd(12,18) + \sum_{k=1}^{5} k + 2", r"\max(3,4) + 5"),
    (r"-2 \le x \le 7", "[-2,7]"),
    (r"(-\infty, 2) \cup (3, \infty)", "x < 2"),
)


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One task to one reply; an exception is a verdict on the text that caused it."""
    try:
        if task["kind"] == "plain":
            return {"verdict": "correct" if _plain(task) else "wrong"}
        gold = Gold.from_fields(task["gold"])
        first = value_scalar if task["kind"] == "self" else plain_scalar
        return {"verdict": symbolic_reason(gold, task["answer"], first)}
    except (MemoryError, RecursionError, OverflowError):
        return {"verdict": "guarded"}
    except Exception as error:  # whatever a LaTeX parser raises on a model's text is the text's
        return {"verdict": "parse_error", "error": f"{type(error).__name__}: {error}"[:200]}


def warm_up() -> None:
    """Load what sympy and the parser load at first use, so that no verdict's clock pays for it."""
    for gold, answer in _TYPICAL:
        symbolic_reason(Gold((gold,)), answer, value_scalar)


def _plain(task: dict[str, Any]) -> bool:
    """math-verify as its documentation shows it; the worker's clock replaces its signals."""
    gold = math_verify.parse(task["gold"], parsing_timeout=0)
    answer = math_verify.parse(task["response"], parsing_timeout=0)
    return bool(math_verify.verify(gold, answer, timeout_seconds=None))
