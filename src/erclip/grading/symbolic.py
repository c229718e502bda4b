r"""Algebra: whether two scalars, intervals or relations are equal. Runs in worker processes only.

latex2sympy parses (math-verify's grammar, never Python's) and math-verify compares, but for
constants: their values decide, because math-verify rounds 1/2004! and 1/2006! to the same zero.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy import Basic, Expr, Float, Rational
from sympy.core.random import seed

from erclip.grading.equality import is_readable, meets
from erclip.grading.exact import (
    Number,
    numbers_equal,
    parse_number,
    places_of,
)
from erclip.grading.gold import Gold
from erclip.grading.scalars import ScalarRule, Verdict, operands, plain_scalar
from erclip.grading.tables import LATEX
from erclip.records import Reason

DIGITS = 30
MAX_DIGITS = 400
MAX_LOG10 = 20_000

# What latex2sympy knows; it drops what it does not, and would grade the rest.
_COMMANDS = " ".join(LATEX["commands"][key] for key in ("algebra", "functions", "greek"))
_KNOWN = re.compile(
    r"(?:[\w\s.+\-*/^(){}\[\]|!,<>=&]|\\[{}\\]|\\overline(?=\{[A-Za-z])"
    rf"|\\(?:{'|'.join(_COMMANDS.split())})(?![a-zA-Z]))*"
)
# math-verify's defaults turn 6m into 6 (our own table has taken units off before) and R into r.
_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
logging.getLogger("math_verify").setLevel(logging.CRITICAL)


class ParseError(Exception):
    """sympy has no reading of the text."""


class Algebra:
    """The rule for scalars that knows algebra; remembers what it could not read.

    first: the rule that is asked before: `plain_scalar`, or `value_scalar` where an answer must not
        pass for being spelled like the gold.
    """

    def __init__(self, first: ScalarRule) -> None:
        self._first = first
        self.trouble: Reason | None = None

    def scalar(self, gold: str, answer: str, record: Gold) -> Verdict:
        """The first rule, then algebra; an unreadable pair is a difference."""
        exact = self._first(gold, answer, record)
        if exact is not None:
            return exact
        (gold, _), (answer, _) = operands(gold, answer)
        try:
            return _equal(_latex(gold), _latex(answer), record.tolerance)
        except ParseError:
            self.trouble = self.trouble or "parse_error"
        except (MemoryError, RecursionError, OverflowError):
            self.trouble = "guarded"
        return False


def symbolic_reason(gold: Gold, answer: str, first: ScalarRule = plain_scalar) -> Reason:
    """The verdict of `meets` with algebra; what stays undecided is a difference."""
    seed(0)
    algebra = Algebra(first)
    if meets(gold, answer, algebra.scalar):
        return "correct"
    return algebra.trouble or ("wrong" if is_readable(answer) else "parse_error")


def _latex(text: str) -> str:
    """What latex2sympy reads: degrees as multiples of pi, arguments in parentheses."""
    text = re.sub(r"\\(max|min|gcd|lcm) ?\\\{([^{}]*)\\\}", r"\\\1(\2)", text)
    return re.sub(r"\^\{\\circ ?\}", r"\\cdot \\frac{\\pi}{180}", text)


def _equal(gold: str, answer: str, tolerance: float | None) -> bool:
    """Constants by their value, everything else as math-verify sees it."""
    is_real = not (should_treat_as_complex(gold) or should_treat_as_complex(answer))
    wanted, given = parse_latex(gold, is_real), parse_latex(answer, is_real)
    for expr in (wanted, given):
        _refuse_giants(expr)
    if isinstance(wanted, Expr) and isinstance(given, Expr):
        value, difference = _value(wanted), _value(wanted - given)
        if value is not None and difference is not None:
            other = Number(value - difference, places_of(answer))
            return numbers_equal(Number(value, places_of(gold)), other, tolerance)
    return bool(verify(wanted, given, timeout_seconds=None, allow_set_relation_comp=True))


@lru_cache(maxsize=2048)
def parse_latex(text: str, is_real: bool) -> Basic:
    """math-verify's reading of one LaTeX text, unevaluated; prose is no product of letters."""
    if (number := parse_number(text)) and number.places is None:
        return Rational(number.value.numerator, number.value.denominator)
    if not _KNOWN.fullmatch(text):
        raise ParseError(text)
    try:
        expr = latex2sympy(
            normalize_latex(text, _NORMALIZATION),
            is_real=is_real,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
    except (MemoryError, RecursionError, OverflowError):
        raise
    except Exception as error:  # a generated parser raises whatever it likes
        raise ParseError(text) from error
    if not isinstance(expr, Basic | sympy.MatrixBase):
        raise ParseError(text)
    return expr


def _value(expr: Expr) -> Fraction | None:
    """The value of a real constant to `DIGITS` digits, however much cancels; None for all else."""
    if {str(symbol) for symbol in expr.free_symbols} - {"i"}:
        return None
    try:
        exact = expr.xreplace({number: Rational(str(number)) for number in expr.atoms(Float)})
        exact = exact.subs(dict.fromkeys(expr.free_symbols, sympy.I)).doit()
        value = exact.evalf(DIGITS, maxn=MAX_DIGITS)
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None
    if not isinstance(value, Float):
        return Fraction(0) if value == 0 else None
    if value._prec <= 1:  # one bit of precision: sympy could not tell it from zero
        return Fraction(0)
    ratio = Rational(value)
    return Fraction(ratio.p, ratio.q)


def _refuse_giants(expr: Basic) -> None:
    """Refuse arithmetic on a number of more than `MAX_LOG10` digits."""
    for power in expr.atoms(sympy.Pow):
        exponent = power.exp.evalf(5)
        base = power.base.evalf(5)
        if not exponent.is_number or exponent.is_finite is False:
            continue
        size = 1
        if base.is_number:
            size = abs(sympy.log(abs(base), 10).evalf(5)) if base.is_finite and base != 0 else 0
        if abs(exponent) * size > MAX_LOG10:
            raise OverflowError(f"a power of more than {MAX_LOG10} digits")
    for call in expr.atoms(sympy.factorial, sympy.factorial2, sympy.binomial):
        arguments = [sympy.N(argument, 5) for argument in call.args]
        if any(a.is_number and abs(a) > MAX_LOG10 for a in arguments):
            raise OverflowError(f"{call.func.__name__} of more than {MAX_LOG10}")
