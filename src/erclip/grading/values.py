r"""Equality by value, which decides most comparisons of expressions in a millisecond.

Everything is computed at two precisions, so that a cancellation is noticed, and no addend may be
too small for its sum; what fails so is computed again with ten times the digits. What agrees to 90
digits (then 1050) is equal. Expressions and equations are compared at fixed points. All is floating
point with bounded exponents, so the cost is bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from erclip.grading.exact import Number, numbers_equal, places_of
from erclip.grading.expression import Unclear, parse

DIGITS = (60, 700)
RELIABLE = 1e-30
SAME = 1e-90
MAX_LOG2 = 10**5
MAX_FACTORIAL = 10**4
POINTS = tuple(
    Fraction(*pair) for pair in ((7, 5), (-13, 11), (23, 7), (5, 17), (-31, 9), (101, 3))
)
MIN_POINTS = 3
MAX_ANGLE = 10**9
MAX_EXPONENT = 10**4
_GROWING = ("exp", "sinh", "cosh", "tanh")
_MPMATH = {f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot")}
MINUS_ONE = ("number", Fraction(-1))


def equal_values(gold: str, answer: str, tolerance: float | None = None) -> bool | None:
    r"""Whether two expressions have the same value everywhere; None if that is not for us to say.

    A decimal may stand for a constant under the rule of `decimal_fits`.

    >>> equal_values(r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"), equal_values("2n", "2n+1")
    (True, False)
    >>> equal_values(r"\pi", "3.1415927"), equal_values(r"\max(1,2)", "2")
    (True, None)
    """
    try:
        trees = parse(gold), parse(answer)
    except Unclear:
        return None
    compared = 0
    for left, right, same in _sampled(*trees):
        if not _names(trees[0]) | _names(trees[1]):
            if _close(left, right, same) or _is_complex(left) or _is_complex(right):
                return _close(left, right, same)
            written = Number(_fraction(left), places_of(gold))
            return numbers_equal(written, Number(_fraction(right), places_of(answer)), tolerance)
        if not _close(left, right, same):
            return False
        compared += 1
    return True if compared >= MIN_POINTS else None


def _fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    return (-1) ** sign * int(mantissa) * Fraction(2) ** exponent


def constant(text: str) -> Any:
    r"""The real value of an expression without variables; None if it has none that is clear."""
    try:
        tree = parse(text)
        value = None if _names(tree) else _value(tree, {}, _contexts.levels[0])
    except (Unclear, ZeroDivisionError, OverflowError, ValueError):
        return None
    return None if _is_complex(value) else value


def _is_complex(value: Any) -> bool:
    """Whatever context it comes from: every one has classes of its own."""
    return hasattr(value, "_mpc_")


def proportion(gold: tuple[str, str], answer: tuple[str, str]) -> Any:
    """The constant c with answer = c·gold, for the differences left − right of both.

    Zero if there is none and both are straight lines or planes; about curves it is not for us to
    say, and the answer is None.
    """
    try:
        trees = [
            ("+", parse(left), ("*", MINUS_ONE, parse(right))) for left, right in (gold, answer)
        ]
    except Unclear:
        return None
    found = [(right / left, same) for left, right, same in _sampled(*trees) if left and right]
    if len(found) >= MIN_POINTS:
        same = min(same for _, same in found)
        if all(_close(found[0][0], ratio, same) for ratio, _ in found):
            return found[0][0]
    return 0 if all(_degree(tree) == 1 for tree in trees) else None


def _degree(tree: tuple) -> int | None:
    """The degree of a sum of products; None for anything else."""
    if tree[0] in ("number", "pi", "e", "name"):
        return int(tree[0] == "name")
    if tree[0] not in ("+", "*", "/"):
        return None
    degrees = [_degree(part) for part in tree[1:]]
    if None in degrees or (tree[0] == "/" and degrees[1] != 0):
        return None
    known = [degree for degree in degrees if degree is not None]
    return max(known) if tree[0] == "+" else sum(known)


def _sampled(left: tuple, right: tuple) -> Iterator[tuple[Any, Any, Any]]:
    """Both values at every point where both have one, and how near to each other equal ones are;
    a single pair without variables.
    """
    names = sorted(_names(left) | _names(right))
    for shift in range(len(POINTS) if names else 1):
        point = {name: POINTS[(i + shift) % len(POINTS)] + i for i, name in enumerate(names)}
        for level in _contexts.levels:
            try:
                pair = _value(left, point, level), _value(right, point, level)
            except Imprecise:
                continue
            except (Unclear, ZeroDivisionError, OverflowError, ValueError):
                break
            yield *pair, level.same
            break


def _close(left: Any, right: Any, within: Any) -> bool:
    return bool(abs(left - right) <= within * max(abs(left), abs(right)))


class Imprecise(Unclear):
    """More digits would help."""


class _Level:
    """mpmath at two fixed precisions, and what is the same at the finer one."""

    def __init__(self, digits: int) -> None:
        self.rough, self.fine = mpmath.MPContext(), mpmath.MPContext()
        self.rough.dps, self.fine.dps = digits, 2 * digits
        for context in (self.rough, self.fine):
            context.absorbed = context.mpf(10) ** -(3 * digits // 4)
        self.same = self.fine.mpf(10) ** -(3 * digits // 2)


class _Contexts(threading.local):
    """The levels of this thread alone: mpmath's global context is the user's."""

    def __init__(self) -> None:
        self.levels = tuple(map(_Level, DIGITS))


_contexts = _Contexts()


def _value(tree: tuple, point: Mapping[str, Fraction], level: _Level) -> Any:
    """The value, computed at two precisions; where they disagree, something cancelled."""
    value = _evaluate(tree, point, level.fine)
    rough = level.fine.convert(_evaluate(tree, point, level.rough))
    if not _close(rough, value, RELIABLE):
        raise Imprecise("cancellation")
    return value


def _evaluate(tree: tuple, point: Mapping[str, Fraction], context: Any) -> Any:
    kind, *parts = tree
    if kind in ("number", "name"):
        number = parts[0] if kind == "number" else point[parts[0]]
        return context.mpf(number.numerator) / number.denominator
    if kind in ("pi", "e", "i"):
        return context.mpc(0, 1) if kind == "i" else +getattr(context, kind)
    if kind == "unknown":  # any fixed function stands for a function of that name
        value = _evaluate(parts[1], point, context)
        return context.cos(value + sum(parts[0].encode())) + value / 3
    values = [_evaluate(part, point, context) for part in parts]
    if kind == "+":
        return _sum(*values, context)
    if kind == "*":
        return values[0] * values[1]
    if kind == "/":
        return values[0] / values[1]
    if kind == "^":
        return _power(*values, context)
    if kind == "root":
        return _root(*values, context, real=bool(point))
    if any(map(_is_complex, values)) and kind not in ("abs", "exp"):
        raise Unclear("a function of a complex number")
    if kind in ("!", "binom"):
        if not all(0 <= value <= MAX_FACTORIAL for value in values):
            raise Unclear("a factorial or binomial of negative or giant numbers")
        return context.factorial(*values) if kind == "!" else context.binomial(*values)
    return _call(kind, values, context)


def _call(function: str, values: list[Any], context: Any) -> Any:
    if function in ("ln", "log"):
        if min(values) <= 0:
            raise Unclear("a logarithm of what is not positive")
        return context.log(*values)
    (value,) = values
    if function == "abs":
        return abs(value)
    if function in ("floor", "ceil"):
        nearest = context.nint(value)
        if value != nearest and abs(value - nearest) < context.absorbed:
            raise Imprecise("too near to an integer to be rounded")
        return context.floor(value) if function == "floor" else context.ceil(value)
    if abs(value) > (MAX_EXPONENT if function in _GROWING else MAX_ANGLE):
        raise Unclear("a giant angle or exponent")
    if function == "cis":
        return context.mpc(context.cos(value), context.sin(value))
    return getattr(context, _MPMATH.get(function, function))(value)


def _sum(left: Any, right: Any, context: Any) -> Any:
    """Refuse 2^100 + 1, where a difference in the 1 would be lost."""
    small, large = sorted((abs(left), abs(right)))
    if 0 < small < context.absorbed * large:
        raise Imprecise("a sum of a giant and a dwarf")
    return left + right


def _root(radicand: Any, index: Any, context: Any, *, real: bool) -> Any:
    """The real root; odd roots of negative numbers are negative, square roots imaginary."""
    if _is_complex(radicand):
        return context.root(radicand, int(index)) if context.isint(index) else _refuse()
    if radicand < 0 and context.isint(index):
        if int(index) % 2:
            return -_power(-radicand, 1 / index, context)
        if index == 2 and not real:
            return context.mpc(0, context.sqrt(-radicand))
    return _power(radicand, 1 / index, context)


def _refuse() -> Any:
    raise Unclear("a root of a complex number")


def _power(base: Any, exponent: Any, context: Any) -> Any:
    is_complex = _is_complex(base)
    if _is_complex(exponent):
        if is_complex or base <= 0 or abs(exponent) > MAX_EXPONENT:
            raise Unclear("a complex power")
        return context.power(base, exponent)
    if (is_complex or base < 0) and exponent != context.floor(exponent):
        raise Unclear("a root of a negative or complex number")
    if base != 0 and abs(exponent) * (abs(context.mag(base)) + 1) > MAX_LOG2:
        raise Unclear("a giant power")
    return context.power(base, int(exponent) if is_complex else exponent)


def _names(tree: tuple) -> set[str]:
    if tree[0] == "name":
        return {tree[1]}
    return {name for part in tree[1:] if isinstance(part, tuple) for name in _names(part)}
