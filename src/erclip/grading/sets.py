r"""Sets of real numbers: intervals, unions, inequalities and set-builders as one kind of value.

`x \le 3`, `(-\infty,3]` and `\{x \mid x \le 3\}` are the same set. A set is known by its ends and
by a test of membership, so two are equal if the same ends, and the same points between them, belong
to both. Only ends without variables have an order; everything else is left to the other rules.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from functools import lru_cache, reduce
from itertools import pairwise
from typing import Any, NamedTuple

from erclip.grading.brackets import split_top
from erclip.grading.relations import SIGN, Step, comparisons
from erclip.grading.values import close, constant

_NAME = r"(?:[a-zA-Z]|\\(?!pi|infty)[a-z]+ ?)(?:_\{\w+\})?"
_BUILDER = re.compile(rf"\\\{{({_NAME})(?:\\in ?\\mathbb\{{R\}})?[|:](.*)\\\}}")
_MEMBER = re.compile(rf"({_NAME})\\in ?(?=[(\[\\])(.*)")
_TERM = re.compile(rf"(?P<name>{_NAME})|\|(?P<inner>{_NAME})(?P<shift>[-+].*)?\|")
_INTERVAL = re.compile(r"([(\[])(.*)([)\]])")
_AND_OR = re.compile(r'"(and|or)"|, ?|; ?')
MAX_PARTS = 32
SAME = 1e-90
_COMBINED = {
    r"\setminus": lambda first, second: first and not second,
    r"\cup": operator.or_,
    r"\cap": operator.and_,
}


class RealSet(NamedTuple):
    """Finite ends, the test of membership, and the variable that a relation named, or ""."""

    ends: tuple[Any, ...]
    contains: Callable[[Any], bool]
    name: str = ""


_ALL = RealSet((), lambda value: True)


@lru_cache(maxsize=4096)
def real_set(text: str) -> RealSet | None:
    r"""The set that canonical text denotes; None for anything else.

    >>> equal_sets(real_set(r"x>0, x\ne 1"), real_set(r"(0,1)\cup (1,\infty )"))
    True
    >>> real_set("1, 2") is None
    True
    """
    text = text.strip()
    if match := _BUILDER.fullmatch(text) or _MEMBER.fullmatch(text):
        found = real_set(match[2])
        return found and found._replace(name="")
    for command, combine in _COMBINED.items():
        if len(parts := split_top(text, command)) > 1:
            return _merged([real_set(part) or _points(part) for part in parts], combine)
    if text == r"\mathbb{R}":
        return _ALL
    if text == r"\mathbb{R}^{+}":
        return real_set(r"(0,\infty )")
    if (match := _INTERVAL.fullmatch(text)) and len(ends := split_top(match[2])) == 2:
        return _interval(match[1], *ends, match[3])
    words = _AND_OR.split(text)
    if len(words) > 1 and all(words[::2]) and SIGN.search(text):
        parts = [_relation(part) for part in words[::2]]
        both = None if "or" in words else _merged(parts, operator.and_)
        if both and any(map(both.contains, _probes(both.ends))):
            return both
        return _merged(parts, operator.or_)  # `x < 1, x > 2` can't mean both
    return None if SIGN.findall(text) == ["="] else _relation(text)


def equal_sets(gold: RealSet, answer: RealSet) -> bool:
    """Whether no end, and no point between ends, belongs to one of them alone."""
    if gold.name and answer.name and gold.name != answer.name:
        return False
    probes = _probes((*gold.ends, *answer.ends))
    return all(gold.contains(value) == answer.contains(value) for value in probes)


def _probes(ends: Iterable[Any]) -> list[Any]:
    """The ends, those between them, and one beyond on either side."""
    found: list[Any] = []
    for end in sorted(ends):
        if not found or not _same(found[-1], end):
            found.append(end)
    between = [(low + high) / 2 for low, high in pairwise(found)]
    return [*found, *between, found[0] - 1, found[-1] + 1] if found else [0]


def _same(left: Any, right: Any) -> bool:
    if left == right or abs(left) == float("inf") or abs(right) == float("inf"):
        return bool(left == right)
    return close(left, right, SAME)


def _holds(left: Any, sign: str, right: Any) -> bool:
    if _same(left, right):
        return sign in (r"\le ", "=")
    return sign == r"\ne " or (sign != "=" and left < right)


def _interval(opening: str, low_text: str, high_text: str, closing: str) -> RealSet | None:
    low, high = constant(low_text), constant(high_text)
    if low is None or high is None or not low < high:
        return None
    above, below = "<" if opening == "(" else r"\le ", "<" if closing == ")" else r"\le "
    ends = tuple(end for end in (low, high) if abs(end) != float("inf"))
    return RealSet(ends, lambda value: _holds(low, above, value) and _holds(value, below, high))


def _points(text: str) -> RealSet | None:
    if not (text.startswith(r"\{") and text.endswith(r"\}")):
        return None
    values = tuple(constant(part) for part in split_top(text[2:-2]))
    if None in values or len(values) > MAX_PARTS:
        return None
    return RealSet(values, lambda value: any(_same(value, point) for point in values))


def _relation(text: str) -> RealSet | None:
    """What one variable may be, from a chain of relations."""
    return _merged([_allowed(step) for step in comparisons(text)], operator.and_)


def _allowed(step: Step) -> RealSet | None:
    r"""`x < 3`, `3 < x`, or `|x-1| < 3`, whose two ends are as far from 1."""
    term, bound = _TERM.fullmatch(step.left), constant(step.right)
    is_upper = term is not None and bound is not None
    if not is_upper:
        term, bound = _TERM.fullmatch(step.right), constant(step.left)
    if term is None or bound is None or abs(bound) == float("inf"):
        return None
    shift = constant(term["shift"]) if term["shift"] else 0
    if shift is None or (term["inner"] and bound < 0):
        return None

    def contains(value: Any) -> bool:
        measured = abs(value + shift) if term["inner"] else value
        return _holds(*(measured, step.sign, bound) if is_upper else (bound, step.sign, measured))

    ends = (-shift - bound, -shift + bound) if term["inner"] else (bound,)
    return RealSet(ends, contains, term["inner"] or term["name"])


def _merged(parts: list[RealSet | None], combine: Callable[[bool, bool], bool]) -> RealSet | None:
    known = [part for part in parts if part is not None]
    names = {part.name for part in known} - {""}
    if not known or len(known) < len(parts) or len(names) > 1 or len(parts) > MAX_PARTS:
        return None
    ends = tuple(end for part in known for end in part.ends)
    return RealSet(
        ends,
        lambda value: reduce(combine, [part.contains(value) for part in known]),
        "".join(names),
    )
