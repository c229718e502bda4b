r"""What is refused before any of it reaches a parser.

The limits are far above anything in a benchmark (the longest gold has a few hundred characters) and
far below what makes a LaTeX parser or big-integer arithmetic slow. What they let through is bounded
by the worker's clock and memory limit.
"""

from __future__ import annotations

import re

MAX_CHARS = 2_000
MAX_DEPTH = 24
MAX_DIGIT_RUN = 400
MAX_POWERS_CHAINED = 3
MAX_OPERATORS = 400

_BRACKETS = re.compile(r"\^\s*[{(\[]|[{(\[]|[})\]]|\^")
_CHAIN = re.compile(rf"(?:\^\s*-?\\?\w+\s*){{{MAX_POWERS_CHAINED + 1}}}")
_DIGIT_RUN = re.compile(rf"\d{{{MAX_DIGIT_RUN + 1}}}")
_OPERATOR = re.compile(r"[-+*/^_=<>!]|\\[a-zA-Z]+")
_FORBIDDEN = re.compile(r"__|[\x00-\x08\x0b-\x1f\x7f]")


class Guarded(Exception):
    """The text is refused without being parsed; the message says which limit it breaks."""


def check(text: str) -> None:
    """Raise `Guarded` if the text is too long, too deep, or a tower of powers."""
    if len(text) > MAX_CHARS:
        raise Guarded(f"{len(text)} characters, at most {MAX_CHARS}")
    if _FORBIDDEN.search(text):
        raise Guarded("control characters or double underscores")
    if _DIGIT_RUN.search(text):
        raise Guarded(f"a number of more than {MAX_DIGIT_RUN} digits")
    if len(_OPERATOR.findall(text)) > MAX_OPERATORS:
        raise Guarded(f"more than {MAX_OPERATORS} operators")
    depth, powers = nesting(text)
    if depth > MAX_DEPTH:
        raise Guarded(f"brackets nested {depth} deep, at most {MAX_DEPTH}")
    if powers > MAX_POWERS_CHAINED or _CHAIN.search(text):
        raise Guarded(f"more than {MAX_POWERS_CHAINED} powers inside powers")


def is_fair(text: str) -> bool:
    """Whether `check` lets the text through."""
    try:
        check(text)
    except Guarded:
        return False
    return True


def nesting(text: str) -> tuple[int, int]:
    r"""Deepest bracket, and how many powers stand inside one another's exponents.

    >>> nesting("5^{5^{5^5}}"), nesting("x^2+y^{2n}")
    ((2, 3), (1, 1))
    """
    deepest = most_powers = powers = 0
    exponents: list[bool] = []
    for match in _BRACKETS.finditer(text):
        mark = match.group()
        if mark in "})]":
            if exponents and exponents.pop():
                powers -= 1
        elif mark == "^":
            most_powers = max(most_powers, powers + 1)
        else:
            exponents.append(mark.startswith("^"))
            powers += exponents[-1]
            deepest = max(deepest, len(exponents))
            most_powers = max(most_powers, powers)
    return deepest, most_powers
