r"""Equality by value, which decides most comparisons of expressions in a millisecond.

Everything is computed at two precisions, so that a cancellation is noticed, and no addend may be
too small for its sum; what fails so is computed again with ten times the digits. What agrees to 90
digits (then 1050) is equal. Expressions and equations are compared at fixed points. All is floating
point with bounded exponents, so the cost is bounded.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from erclip.grading.exact import Number, numbers_equal, places_of
from erclip.grading.expression import MINUS_ONE, Unclear, degree, names_of, parse

DIGITS = (60, 700)
RELIABLE = 1e-30
POINTS = tuple(
    Fraction(*pair) for pair in ((7, 5), (-13, 11), (23, 7), (5, 17), (-31, 9), (101, 3))
)
MIN_POINTS = 3
MAX_LOG2 = 10**5
MAX_FACTORIAL = 10**4
MAX_ANGLE = 10**9
MAX_EXPONENT = 10**4
_GROWING = ("exp", "sinh", "cosh", "tanh")
_MPMATH = {f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot")}
_INFINITY = re.compile(r"([-+]?)\\infty ?")


def equal_values(gold: str, answer: str, tolerance: float | None = None) -> bool | None:
    r"""Whether two expressions have the same value everywhere; None if that is not for us to say.

    A decimal may stand for a constant under the rule of `decimal_fits`.

    >>> equal_values(r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"), equal_values("2n", "2n+1")
    (True, False)
    >>> equal_values(r"\pi", "3.1415927"), equal_values(r"\max(1,2)", "2")
    (True, None)
    """
    if _INFINITY.fullmatch(gold) or _INFINITY.fullmatch(answer):
        ends = constant(gold), constant(answer)
        return None if None in ends else ends[0] == ends[1]
    try:
        trees = parse(gold), parse(answer)
    except Unclear:
        return None
    compared = 0
    for left, right, same in _sampled(*trees):
        if not names_of(trees[0]) | names_of(trees[1]):
            if close(left, right, same) or _is_complex(left) or _is_complex(right):
                return close(left, right, same)
            written = Number(_fraction(left), places_of(gold))
            return numbers_equal(written, Number(_fraction(right), places_of(answer)), tolerance)
        if not close(left, right, same):
            return False
        compared += 1
    return True if compared >= MIN_POINTS else None


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
        ratios, within = zip(*found, strict=True)
        if all(close(ratios[0], ratio, min(within)) for ratio in ratios):
            return ratios[0]
    return 0 if all(degree(tree) == 1 for tree in trees) else None


def constant(text: str) -> Any:
    r"""The real value of an expression without variables, or an infinity; None if it has none."""
    if match := _INFINITY.fullmatch(text.strip()):
        return float(f"{match[1]}inf")
    try:
        tree = parse(text)
        value = None if names_of(tree) else _value(tree, {}, *_contexts.levels[0])
    except (Unclear, ZeroDivisionError, OverflowError, ValueError):
        return None
    return None if _is_complex(value) else value


def close(left: Any, right: Any, within: Any) -> bool:
    """Whether two values agree to a relative error."""
    return bool(abs(left - right) <= within * max(abs(left), abs(right)))


def _fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    return (-1) ** sign * int(mantissa) * Fraction(2) ** exponent


def _is_complex(value: Any) -> bool:
    """Whatever context it comes from: every one has classes of its own."""
    return hasattr(value, "_mpc_")


def _sampled(left: tuple, right: tuple) -> Iterator[tuple[Any, Any, Any]]:
    """Both values at every point where both have one, and how near to each other equal ones are;
    a single pair without variables.
    """
    names = sorted(names_of(left) | names_of(right))
    for shift in range(len(POINTS) if names else 1):
        point = {name: POINTS[(i + shift) % len(POINTS)] + i for i, name in enumerate(names)}
        for rough, fine in _contexts.levels:
            try:
                pair = _value(left, point, rough, fine), _value(right, point, rough, fine)
            except Imprecise:
                continue
            except (Unclear, ZeroDivisionError, OverflowError, ValueError):
                break
            yield *pair, fine.negligible
            break


class Imprecise(Unclear):
    """More digits would help."""


class _Contexts(threading.local):
    """A rough and a fine precision for each level, of this thread alone: mpmath's global context
    is the user's.
    """

    def __init__(self) -> None:
        self.levels = tuple((_context(digits), _context(2 * digits)) for digits in DIGITS)


def _context(digits: int) -> Any:
    context = mpmath.MPContext()
    context.dps = digits
    context.negligible = context.mpf(10) ** -(3 * digits // 4)
    return context


_contexts = _Contexts()


def _value(tree: tuple, point: Mapping[str, Fraction], rough: Any, fine: Any) -> Any:
    """The value, computed at two precisions; where they disagree, something cancelled."""
    value = _evaluate(tree, point, fine)
    if not close(fine.convert(_evaluate(tree, point, rough)), value, RELIABLE):
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
    if kind == "*":
        return values[0] * values[1]
    if kind == "/":
        return values[0] / values[1]
    if kind == "root":
        return _root(*values, context, real=bool(point))
    if kind in _BOUNDED:
        return _BOUNDED[kind](*values, context)
    if any(map(_is_complex, values)) and kind not in ("abs", "exp"):
        raise Unclear("a function of a complex number")
    return _call(kind, values, context)


def _call(function: str, values: list[Any], context: Any) -> Any:
    if function in ("!", "binom"):
        if not all(0 <= value <= MAX_FACTORIAL for value in values):
            raise Unclear("a factorial or binomial of negative or giant numbers")
        return context.factorial(*values) if function == "!" else context.binomial(*values)
    if function in ("ln", "log"):
        if min(values) <= 0:
            raise Unclear("a logarithm of what is not positive")
        return context.log(*values)
    (value,) = values
    if function == "abs":
        return abs(value)
    if function in ("floor", "ceil"):
        nearest = context.nint(value)
        if value != nearest and abs(value - nearest) < context.negligible:
            raise Imprecise("too near to an integer to be rounded")
        return getattr(context, function)(value)
    if abs(value) > (MAX_EXPONENT if function in _GROWING else MAX_ANGLE):
        raise Unclear("a giant angle or exponent")
    if function == "cis":
        return context.mpc(context.cos(value), context.sin(value))
    return getattr(context, _MPMATH.get(function, function))(value)


def _sum(left: Any, right: Any, context: Any) -> Any:
    """Refuse 2^100 + 1, where a difference in the 1 would be lost."""
    small, large = sorted((abs(left), abs(right)))
    if 0 < small < context.negligible * large:
        raise Imprecise("a sum of a giant and a dwarf")
    return left + right


def _root(radicand: Any, index: Any, context: Any, *, real: bool) -> Any:
    """The real root; odd roots of negative numbers are negative, square roots imaginary."""
    if _is_complex(radicand):
        if not context.isint(index):
            raise Unclear("a root of a complex number")
        return context.root(radicand, int(index))
    if radicand < 0 and context.isint(index):
        if int(index) % 2:
            return -_power(-radicand, 1 / index, context)
        if index == 2 and not real:
            return context.mpc(0, context.sqrt(-radicand))
    return _power(radicand, 1 / index, context)


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


_BOUNDED = {"+": _sum, "^": _power}
