r"""Algebra: whether two scalars, intervals or relations are equal. Runs in worker processes only.

latex2sympy parses (math-verify's grammar, never Python's). Constants and expressions are compared
by value at 30 digits, which is faster than `simplify` and tells 1/2004! from 1/2006!, which
math-verify rounds to the same zero. Relations, sets and what has no value go to math-verify.
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
from sympy import Basic, Expr, Float, Product, Rational, Sum
from sympy.core.random import seed

from erclip.grading.equality import is_readable, meets
from erclip.grading.exact import decimal_fits, parse_number, without_periods
from erclip.grading.gold import Gold
from erclip.grading.guards import Guarded
from erclip.grading.scalars import ScalarRule, Verdict, operands, plain_scalar
from erclip.grading.values import MIN_POINTS, POINTS
from erclip.records import Reason

DIGITS = 30
MAX_DIGITS = 400
MAX_LOG10 = 20_000
WHOLE = (2, 3, 5, 4, 7, 6)  # points for sums, whose bounds are integers
SYMBOL_LOG10 = 2  # the largest test point has two digits

# What latex2sympy knows; it drops what it does not, and would grade the rest.
_KNOWN = re.compile(
    r"(?:[\w\s.+\-*/^(){}\[\]|!,<>=&]|\\(?:[{}]|\\|(?:frac|binom|sqrt|sum|prod|int|lim|to|infty|sin|cos"
    r"|tan|cot|sec|csc|arcsin|arccos|arctan|arccot|sinh|cosh|tanh|log|ln|exp|max|min|gcd|lcm|det|le|ge"
    r"|ne|in|cup|cap|setminus|emptyset|mathbb|[lr]floor|[lr]ceil|begin|end|cdot|pi|overline(?=\{[A-Za-z])|vec|hat|partial"
    r"|subset|subseteq|alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau"
    r"|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega|ell)(?![a-zA-Z])))*"
)
# math-verify's defaults turn 6m into 6 (our own table has taken units off before) and R into r.
_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
_NO_VALUE = (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError)


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
        except (Guarded, MemoryError, RecursionError, OverflowError):
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
    return re.sub(r"\^\{\\circ ?\}", r"\\cdot \\frac{\\pi}{180}", without_periods(text))


def _equal(gold: str, answer: str, tolerance: float | None) -> bool:
    is_real = not (should_treat_as_complex(gold) or should_treat_as_complex(answer))
    gold_expr, answer_expr = parse_latex(gold, is_real), parse_latex(answer, is_real)
    if isinstance(gold_expr, Expr) and isinstance(answer_expr, Expr):
        by_value = _equal_values(gold_expr, answer_expr, (gold, answer), tolerance)
        if by_value is not None:
            return by_value
    for expr in (gold_expr, answer_expr):
        _refuse_giants(expr)
    return bool(
        verify([gold_expr], [answer_expr], timeout_seconds=None, allow_set_relation_comp=True)
    )


@lru_cache(maxsize=2048)
def parse_latex(text: str, is_real: bool) -> Basic:
    """math-verify's reading of one LaTeX text, unevaluated; prose is no product of letters."""
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


def _equal_values(
    gold: Expr, answer: Expr, texts: tuple[str, str], tolerance: float | None
) -> Verdict:
    """Equality by value: of constants, or of expressions at fixed points; None if undefined."""
    names = sorted(_names(gold) | _names(answer))
    if not names:
        return _equal_constants(gold, answer, texts, tolerance)
    compared = 0
    points = WHOLE if gold.has(Sum, Product) or answer.has(Sum, Product) else POINTS
    for shift in range(len(points)):
        point = {n: Rational(points[(i + shift) % len(points)] + i) for i, n in enumerate(names)}
        left, right = _exact(gold, point), _exact(answer, point)
        if _value(left) is None or _value(right) is None:
            continue
        if not _same(left, right):
            return False
        compared += 1
    return True if compared >= MIN_POINTS else None


def _names(expr: Basic) -> set[str]:
    """The variables; latex2sympy reads `i` as one, but an answer that says `i` means the unit."""
    return {str(symbol) for symbol in expr.free_symbols} - {"i"}


def _equal_constants(
    gold: Expr, answer: Expr, texts: tuple[str, str], tolerance: float | None
) -> Verdict:
    exact = [_exact(expr, {}) for expr in (gold, answer)]
    left, right = (_value(expr) for expr in exact)
    if left is None or right is None:
        return None
    if _same(*exact):
        return True
    if not (left.is_real and right.is_real):
        return False
    error = abs(Fraction(str(left)) - Fraction(str(right)))
    if tolerance is not None and error <= Fraction(repr(float(tolerance))):
        return True
    for text, other in ((texts[0], right), (texts[1], left)):
        number = parse_number(text)
        if number and number.places is not None:
            return decimal_fits(error, Fraction(str(other)), number.places)
    return False


def _exact(expr: Expr, point: dict[str, Rational]) -> Expr | None:
    """The expression at a point, decimals read as fractions; None where it has no value."""
    _refuse_giants(expr)
    try:
        exact = expr.xreplace({f: Rational(str(f)) for f in expr.atoms(Float)})
        values = {"i": sympy.I, **point}
        return sympy.sympify(exact.subs({s: values[str(s)] for s in exact.free_symbols}).doit())
    except _NO_VALUE:
        return None


def _value(exact: Expr | None) -> Expr | None:
    """Its value to 30 digits, or None."""
    if exact is None:
        return None
    try:
        value = exact.evalf(DIGITS, maxn=MAX_DIGITS)
        real, imaginary = (_rounded(part) for part in value.as_real_imag())
    except _NO_VALUE:
        return None
    if not (real.is_Number and imaginary.is_Number and real.is_finite and imaginary.is_finite):
        return None
    return real + sympy.I * imaginary if imaginary else real


def _same(left: Expr | None, right: Expr | None) -> bool:
    """Whether the difference cannot be told from zero, however small it is beside the two."""
    if left is None or right is None:
        return False
    difference = _value(left - right)
    return difference is not None and difference == 0


def _rounded(part: Expr) -> Expr:
    """Zero for what sympy could not tell from zero (it leaves one bit of precision)."""
    return sympy.S.Zero if isinstance(part, Float) and part._prec <= 1 else part


def _refuse_giants(expr: Basic) -> None:
    """Raise `Guarded` before arithmetic on a number of more than `MAX_LOG10` digits."""
    for power in expr.atoms(sympy.Pow):
        exponent = power.exp.evalf(5)
        base = power.base.evalf(5)
        if not exponent.is_number or exponent.is_finite is False:
            continue
        size = SYMBOL_LOG10
        if base.is_number:
            size = abs(sympy.log(abs(base), 10).evalf(5)) if base.is_finite and base != 0 else 0
        if abs(exponent) * size > MAX_LOG10:
            raise Guarded(f"a power of more than {MAX_LOG10} digits")
    for call in expr.atoms(sympy.factorial, sympy.factorial2, sympy.binomial):
        arguments = [sympy.N(argument, 5) for argument in call.args]
        if any(a.is_number and abs(a) > MAX_LOG10 for a in arguments):
            raise Guarded(f"{call.func.__name__} of more than {MAX_LOG10}")
