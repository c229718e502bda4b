r"""A reader of canonical expressions, for what can be read in only one way.

It knows numbers, variables with their indices and marks, `e`, `i`, `\pi`, `+ - \cdot / ^ !`,
fractions, binomials, roots, moduli, floors, degrees, logarithms, and the circular and hyperbolic
functions; `f(x)` is an unknown function. Any doubt (`1/2x`, `\sin 2xy`) makes it give up, and
latex2sympy, twenty times slower, decides in a worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from erclip.grading.tables import LATEX, words

_GREEK = words(LATEX["commands"]["greek"])
_CALLS = frozenset(rf"\{name}" for name in (*LATEX["commands"]["functions"].split(), "cis", "abs"))
_MARKED = r"\\(?:overline|vec|hat|tilde|dot|mathbb|mathcal|mathfrak) ?\{\w+\}"
_TOKEN = re.compile(
    r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|\^\{\\circ ?\}"
    rf"|(?:{_MARKED}|[a-zA-Z]|\\[a-zA-Z]+)(?: ?_ ?\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}|')*"
    r"|\S"
)
_VARIABLE = re.compile(rf"{_MARKED}|(?P<letter>[a-zA-Z])|\\(?P<greek>[a-zA-Z]+)")
_DERIVATIVE = re.compile(r"\\frac\{d[^{}]*\}\{d|\\partial")
_UNKNOWN = frozenset("fghFGHPQ")
_CONSTANTS = {r"\pi": ("pi",), "e": ("e",), "i": ("i",)}
_INVERSES = {rf"\{name}": rf"\arc{name}" for name in ("sin", "cos", "tan", "cot")}
_BRACKETS = {"(": ")", "{": "}", "[": "]", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_ENDS = (None, "+", "-", *_BRACKETS.values())
_TIMES = r"\cdot"
MINUS_ONE = ("number", Fraction(-1))
MAX_TOKENS = 200
MAX_DEPTH = 50


class Unclear(Exception):
    """The text has no reading here, or more than one."""


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple:
    r"""The expression as nested tuples, or `Unclear`.

    >>> parse(r"2x+\pi ")
    ('+', ('*', ('number', Fraction(2, 1)), ('name', 'x')), ('pi',))
    """
    symbols = [symbol.replace(" ", "") for symbol in _TOKEN.findall(text)]
    if _DERIVATIVE.search(text) or len(symbols) > MAX_TOKENS:
        raise Unclear(text)
    reader = _Reader(symbols)
    tree = reader.sum()
    if reader.symbol is not None:
        raise Unclear(reader.symbol)
    return tree


def names_of(tree: tuple) -> set[str]:
    """The variables of an expression."""
    if tree[0] == "name":
        return {tree[1]}
    return {name for part in tree[1:] if isinstance(part, tuple) for name in names_of(part)}


def degree(tree: tuple) -> int | None:
    """The degree of a sum of products; None for anything else."""
    if tree[0] in ("number", "pi", "e", "name"):
        return int(tree[0] == "name")
    degrees = [degree(part) for part in tree[1:]] if tree[0] in ("+", "*", "/") else [None]
    known = [part for part in degrees if part is not None]
    if len(known) < len(degrees) or (tree[0] == "/" and known[1] != 0):
        return None
    return max(known) if tree[0] == "+" else sum(known)


class _Reader:
    """Recursive descent over the symbols; the guards have bounded their depth before."""

    def __init__(self, symbols: list[str]) -> None:
        self._symbols: list[str | None] = [*symbols, None]
        self._at = 0
        self._moduli = self._depth = 0

    @property
    def symbol(self) -> str | None:
        return self._symbols[self._at]

    def _take(self, expected: str | None = None) -> str:
        symbol = self.symbol
        if symbol is None or (expected is not None and symbol != expected):
            raise Unclear(f"{symbol!r} for {expected!r}")
        self._at += 1
        return symbol

    def sum(self) -> tuple:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unclear("too deep")
        tree = self._signed(self._product)
        while self.symbol in ("+", "-"):
            tree = ("+", tree, self._signed(self._product))
        self._depth -= 1
        return tree

    def _signed(self, read: Callable[[], tuple]) -> tuple:
        """What `read` finds behind any signs."""
        is_negative = False
        while self.symbol in ("+", "-"):
            is_negative ^= self._take() == "-"
        return ("*", MINUS_ONE, read()) if is_negative else read()

    def _product(self) -> tuple:
        tree = self._factor()
        divided = False
        while not self._ended():
            if self.symbol == "/":
                self._take()
                tree, divided = ("/", tree, self._factor()), True
            elif self.symbol == _TIMES:
                self._take()
                tree, divided = ("*", tree, self._signed(self._factor)), False
            elif divided:
                raise Unclear("1/2x")
            elif _is_number(self.symbol) and self._symbols[self._at - 1] not in (")", "}", "|"):
                raise Unclear("a number after a factor")
            else:
                tree = ("*", tree, self._factor())
        return tree

    def _ended(self) -> bool:
        return self.symbol in _ENDS or (self.symbol == "|" and self._moduli > 0)

    def _factor(self) -> tuple:
        tree = self._atom()
        while self.symbol in ("!", r"^{\circ}"):
            degrees = ("/", ("*", tree, ("pi",)), ("number", Fraction(180)))
            tree = ("!", tree) if self._take() == "!" else degrees
        if self.symbol == "^":
            tree = ("^", tree, self._power())
        if self.symbol in ("^", "!"):
            raise Unclear("x^y^z, x^y! or x!!")
        return tree

    def _power(self) -> tuple:
        self._take("^")
        return self._group("{")

    def _atom(self) -> tuple:
        symbol = self._take()
        if _is_number(symbol):
            is_mixed = self.symbol == r"\frac" and symbol.isdigit()
            return self._mixed(int(symbol)) if is_mixed else ("number", Fraction(symbol))
        if symbol in _BRACKETS:
            self._at -= 1
            tree = self._group(symbol)
            return tree if len(symbol) == 1 else (symbol[2:], tree)
        if symbol == "|":
            self._moduli += 1
            tree = self.sum()
            self._take("|")
            self._moduli -= 1
            return ("abs", tree)
        if symbol in _CONSTANTS:
            return _CONSTANTS[symbol]
        if symbol in (r"\frac", r"\binom"):
            return ("/" if symbol == r"\frac" else "binom", self._group("{"), self._group("{"))
        if symbol == r"\sqrt":
            index = self._group("[") if self.symbol == "[" else ("number", Fraction(2))
            return ("root", self._group("{"), index)
        if symbol.partition("_")[0] in _CALLS:
            return self._call(*symbol.partition("_")[::2])
        return self._name(symbol)

    def _mixed(self, whole: int) -> tuple:
        r"""`2\frac{1}{2}` is a sum, `2\frac{\pi}{3}` a product."""
        fraction = self._atom()
        parts = [part[1] for part in fraction[1:] if part[0] == "number"]
        is_mixed = len(parts) == 2 and 0 < parts[0] < parts[1]
        return ("+" if is_mixed else "*", ("number", Fraction(whole)), fraction)

    def _call(self, function: str, index: str) -> tuple:
        r"""`\sin x`, `\sin^2(x+1)`, `\log_2 n`; `\log` alone has base ten, as in latex2sympy."""
        power = self._power() if self.symbol == "^" else None
        if power == ("*", MINUS_ONE, ("number", Fraction(1))):
            function, power = _INVERSES.get(function, ""), None
        if not function or (power is not None and power[0] != "number"):
            raise Unclear("a power of a function's name")
        if index and function not in (r"\log", r"\ln"):
            raise Unclear("an index of a function's name")
        tree = (function[1:], self._call_argument())
        if function == r"\log":
            tree = (*tree, parse(index[1:-1]) if index else ("number", Fraction(10)))
        return tree if power is None else ("^", tree, power)

    def _call_argument(self) -> tuple:
        """What stands in parentheses, or one factor, or a number and one factor."""
        if self.symbol in ("(", "{"):
            return self._group(self.symbol)
        tree = self._signed(self._factor)
        if tree[0] == "number" and not self._stops():
            tree = ("*", tree, self._factor())
        if not self._stops():
            raise Unclear("how far the argument goes")
        return tree

    def _stops(self) -> bool:
        after = self._symbols[self._at + 1] if self.symbol == _TIMES else self.symbol
        return self._ended() or after in _CALLS

    def _group(self, opening: str) -> tuple:
        """A sum in brackets, where a bar opens a modulus of its own."""
        self._take(opening)
        outside, self._moduli = self._moduli, 0
        tree = self.sum()
        self._moduli = outside
        self._take(_BRACKETS[opening])
        return tree

    def _name(self, symbol: str) -> tuple:
        base = _VARIABLE.match(symbol)
        if base is None or (base["greek"] and base["greek"] not in _GREEK):
            raise Unclear(symbol)
        if base["letter"] in _UNKNOWN and self.symbol == "(":
            return ("unknown", symbol, self._group("("))
        if base["letter"] in _UNKNOWN and self.symbol == "^":
            raise Unclear("a power or an inverse of a function")
        return ("name", symbol)


def _is_number(symbol: str | None) -> bool:
    return symbol is not None and symbol != "." and symbol[0] in ".0123456789"
