r"""Sets of real numbers: intervals, unions, inequalities and set-builders as one kind of value.

`x \le 3`, `(-\infty,3]` and `\{x \mid x \le 3\}` are the same set. Only end points without
variables can be ordered; everything else is left to the other rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from erclip.grading.structure import split_top
from erclip.grading.values import SAME, constant

_NAME = r"(?:[a-zA-Z]|\\[a-z]+ ?)(?:_\{\w+\})?"
_RELATION = re.compile(r"<|>|\\le |\\ge |\\ne |=")
_BUILDER = re.compile(rf"\\\{{({_NAME})(?:\\in ?\\mathbb\{{R\}})?[|:](.*)\\\}}")
_MODULUS = re.compile(rf"\|({_NAME})([-+].*)?\|")
_BRACKETS = re.compile(r"([(\[])(.*)([)\]])")
_AND_OR = re.compile(r'"(and|or)"|, ?|; ?')
_FLIPPED = {"<": ">", ">": "<", "\\le ": "\\ge ", "\\ge ": "\\le ", "=": "=", "\\ne ": "\\ne "}
_INFINITE = re.compile(r"([-+]?)\\infty ?")


class Piece(NamedTuple):
    """An interval, a point if both ends are equal and closed."""

    low: Any
    has_low: bool
    high: Any
    has_high: bool


Pieces = tuple[Piece, ...]
_ALL: Pieces = (Piece(float("-inf"), False, float("inf"), False),)


@lru_cache(maxsize=4096)
def real_set(text: str) -> Pieces | None:
    r"""The set that canonical text denotes, as disjoint intervals in order; None for anything else.

    >>> real_set(r"x>0, x\ne 1") == real_set(r"(0,1)\cup (1,\infty )")
    True
    >>> real_set("1, 2") is None
    True
    """
    text = text.strip()
    if builder := _BUILDER.fullmatch(text):
        text = builder[2]
    for command, merge in ((r"\setminus", _without), (r"\cup", _union), (r"\cap", _common)):
        parts = split_top(text, command)
        if len(parts) > 1:
            return _merged([real_set(part) or _points(part) for part in parts], merge)
    if text == r"\mathbb{R}":
        return _ALL
    if text == r"\mathbb{R}^{+}":
        return (Piece(0, False, float("inf"), False),)
    if (brackets := _BRACKETS.fullmatch(text)) and len(split_top(text[1:-1])) == 2:
        return _interval(brackets)
    words = _AND_OR.split(text)
    if len(words) > 1 and all(words[::2]) and _RELATION.search(text):
        pieces = [_relation(part) for part in words[::2]]
        if "or" in words or not (both := _merged(pieces, _common)):
            return _merged(pieces, _union)
        return both
    return _relation(text)


def equal_sets(gold: Pieces, answer: Pieces) -> bool:
    """Whether the ends agree to 55 digits and belong alike."""
    return len(gold) == len(answer) and all(
        (g.has_low, g.has_high) == (a.has_low, a.has_high)
        and _same(g.low, a.low)
        and _same(g.high, a.high)
        for g, a in zip(gold, answer, strict=True)
    )


def _same(left: Any, right: Any) -> bool:
    if left == right or abs(left) == float("inf") or abs(right) == float("inf"):
        return bool(left == right)
    return bool(abs(left - right) <= SAME * max(abs(left), abs(right)))


def _end(text: str) -> Any:
    if match := _INFINITE.fullmatch(text.strip()):
        return float("-inf") if match[1] == "-" else float("inf")
    return constant(text)


def _interval(brackets: re.Match[str]) -> Pieces | None:
    low, high = map(_end, split_top(brackets[2]))
    if low is None or high is None or not low < high:
        return None
    return (Piece(low, brackets[1] == "[", high, brackets[3] == "]"),)


def _points(text: str) -> Pieces | None:
    if not (text.startswith(r"\{") and text.endswith(r"\}")):
        return None
    values = [_end(part) for part in split_top(text[2:-2])]
    return None if None in values else _ordered([Piece(v, True, v, True) for v in values])


def _relation(text: str) -> Pieces | None:
    """What one variable may be, from one relation or a chain of two."""
    sides = [side.strip() for side in _RELATION.split(text)]
    signs = _RELATION.findall(text)
    if len(signs) == 2 and re.fullmatch(_NAME, sides[1]):
        halves = [
            _half(sides[1], _FLIPPED[signs[0]], sides[0]),
            _half(sides[1], signs[1], sides[2]),
        ]
        return _merged(halves, _common)
    if len(signs) != 1 or signs == ["="]:
        return None
    left, right = sides
    return _half(left, signs[0], right) or _half(right, _FLIPPED[signs[0]], left)


def _half(variable: str, sign: str, bound: str) -> Pieces | None:
    value = _end(bound)
    if value is None:
        return None
    if modulus := _MODULUS.fullmatch(variable):
        return _modulus(modulus, sign, value)
    if not re.fullmatch(_NAME, variable) or variable.strip() in (r"\pi", r"\infty"):
        return None
    below = (Piece(float("-inf"), False, value, sign == r"\le "),)
    above = (Piece(value, sign == r"\ge ", float("inf"), False),)
    return {"<": below, r"\le ": below, ">": above, r"\ge ": above, r"\ne ": below + above}.get(
        sign
    )


def _modulus(modulus: re.Match[str], sign: str, radius: Any) -> Pieces | None:
    """`|x-a| < r` is an interval around a, `>` its two outer rays."""
    centre = -_end(modulus[2]) if modulus[2] and _end(modulus[2]) is not None else 0
    if radius <= 0 or (modulus[2] and _end(modulus[2]) is None):
        return None
    low, high, closed = centre - radius, centre + radius, sign in (r"\le ", r"\ge ")
    if sign in ("<", r"\le "):
        return (Piece(low, closed, high, closed),)
    rays = Piece(float("-inf"), False, low, closed), Piece(high, closed, float("inf"), False)
    return rays if sign in (">", r"\ge ") else None


def _merged(parts: list[Pieces | None], merge: Callable[[Pieces, Pieces], Pieces]) -> Pieces | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    result = known[0]
    for part in known[1:]:
        result = merge(result, part)
    return result


def _ordered(pieces: list[Piece]) -> Pieces:
    """Sorted, and joined where they touch."""
    done: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: (p.low, not p.has_low)):
        last = done[-1] if done else None
        if last and (
            piece.low < last.high or (piece.low == last.high and (piece.has_low or last.has_high))
        ):
            high = max((last.high, last.has_high), (piece.high, piece.has_high))
            done[-1] = Piece(last.low, last.has_low, *high)
        else:
            done.append(piece)
    return tuple(done)


def _union(left: Pieces, right: Pieces) -> Pieces:
    return _ordered([*left, *right])


def _common(left: Pieces, right: Pieces) -> Pieces:
    found = []
    for a in left:
        for b in right:
            low = max((a.low, not a.has_low), (b.low, not b.has_low))
            high = min((a.high, a.has_high), (b.high, b.has_high))
            if low[0] < high[0] or (low[0] == high[0] and not low[1] and high[1]):
                found.append(Piece(low[0], not low[1], *high))
    return _ordered(found)


def _without(left: Pieces, right: Pieces) -> Pieces:
    rest, low, has_low = [], float("-inf"), False
    for piece in right:
        rest.append(Piece(low, has_low, piece.low, not piece.has_low))
        low, has_low = piece.high, not piece.has_high
    return _common(left, _ordered([*rest, Piece(low, has_low, float("inf"), False)]))
