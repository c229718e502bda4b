r"""A reader of canonical expressions, for what can be read in only one way.

It knows numbers, variables with their indices and marks, `e`, `i`, `\pi`, `+ - \cdot / ^ !`,
fractions, binomials, roots, moduli, floors, degrees, logarithms, and the circular and hyperbolic
functions; `f(x)` is an unknown function. Any doubt (`1/2x`, `\sin 2xy`) makes it give up, and
latex2sympy, twenty times slower, decides in a worker.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_TOKEN = re.compile(
    r" ?((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    r"|\\(?:overline|vec|hat|tilde|dot|mathbb|mathcal|mathfrak) ?\{\w+\}"
    r"|[a-zA-Z]|\\[a-zA-Z]+|\^\{\\circ ?\}|[-+/^_!(){}\[\]|'])"
)
_CHOOSE = (  # {}_nC_k, C(n, k) and C_n^k
    re.compile(r"(?:\{\})?[_^]\{(?P<n>\w+)\}(?P<kind>[CP])_\{(?P<k>\w+)\}"),
    re.compile(r"(?<![a-zA-Z\\])(?P<kind>[CP])\((?P<n>\d+), ?(?P<k>\d+)\)"),
    re.compile(r"(?<![a-zA-Z\\])(?P<kind>[CPA])_\{(?P<n>\d+)\}\^\{(?P<k>\d+)\}"),
)
_DERIVATIVE = re.compile(r"\\frac\{d[^{}]*\}\{d|\\partial")
_INDEXED = re.compile(r"_ ?\{((?:[^{}]|\{[^{}]*\})*)\}")
_DIGITS = ".0123456789"
_UNKNOWN = frozenset("fghFGHPQ")
_GREEK = frozenset(
    rf"\{name}"
    for name in """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu
    nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega
    ell hbar""".split()  # noqa: SIM905
)
_CONSTANTS = {r"\pi": ("pi",), "e": ("e",), "i": ("i",)}
_INVERSES = {r"\sin": r"\arcsin", r"\cos": r"\arccos", r"\tan": r"\arctan", r"\cot": r"\arccot"}
_CALLS = frozenset(
    rf"\{name}"
    for name in """sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log exp
    cis abs""".split()  # noqa: SIM905
)
_ROUNDING = {r"\lfloor": (r"\rfloor", "floor"), r"\lceil": (r"\rceil", "ceil")}
_ENDS = (None, "+", "-", ")", "}", "]", r"\rfloor", r"\rceil")
_TIMES = r"\cdot"
MAX_TOKENS = 200
MAX_DEPTH = 50


class Unclear(Exception):
    """The text has no reading here, or more than one."""


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple:
    """The expression as nested tuples, or `Unclear`."""
    if _DERIVATIVE.search(text):
        raise Unclear(text)
    plain = text
    for pattern in _CHOOSE:
        plain = pattern.sub(_chosen, plain)
    reader = _Reader(_tokens(plain))
    tree = reader.sum()
    if reader.symbol is not None:
        raise Unclear(reader.symbol)
    return tree


def _chosen(match: re.Match[str]) -> str:
    """A binomial for combinations, and a quotient for permutations."""
    n, k = match["n"], match["k"]
    return rf"\binom{{{n}}}{{{k}}}" if match["kind"] == "C" else rf"\frac{{{n}!}}{{({n}-{k})!}}"


def _tokens(text: str) -> list[str]:
    """Signs, numbers and names; an index and primes belong to the name before them."""
    tokens: list[str] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        index = _INDEXED.match(text, position)
        if index and tokens and (tokens[-1][-1:].isalpha() or tokens[-1][-1:] == "}"):
            tokens[-1] += f"_{{{index[1]}}}"
            position = index.end()
            continue
        if match is None or len(tokens) > MAX_TOKENS:
            raise Unclear(text[position:])
        if match[1] == "'" and tokens and re.search(r"[a-zA-Z}']$", tokens[-1]):
            tokens[-1] += "'"
        else:
            tokens.append(match[1])
        position = match.end()
    return tokens


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

    def _sign(self) -> int:
        """The product of any signs that stand here."""
        sign = 1
        while self.symbol in ("+", "-"):
            sign = -sign if self._take() == "-" else sign
        return sign

    def sum(self) -> tuple:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unclear("too deep")
        tree = self._sum()
        self._depth -= 1
        return tree

    def _sum(self) -> tuple:
        tree = self._signed(self._sign(), self._product())
        while self.symbol in ("+", "-"):
            tree = ("+", tree, self._signed(self._sign(), self._product()))
        return tree

    @staticmethod
    def _signed(sign: int, tree: tuple) -> tuple:
        return tree if sign > 0 else ("*", ("number", Fraction(-1)), tree)

    def _ended(self) -> bool:
        return self.symbol in _ENDS or (self.symbol == "|" and self._moduli > 0)

    def _product(self) -> tuple:
        tree = self._factor()
        divided = False
        while not self._ended():
            if self.symbol == "/":
                self._take()
                tree, divided = ("/", tree, self._factor()), True
            elif self.symbol == _TIMES:
                self._take()
                tree, divided = ("*", tree, self._signed(self._sign(), self._factor())), False
            elif divided:
                raise Unclear("1/2x")
            else:
                before = self._symbols[self._at - 1] or ""
                if str(self.symbol)[0] in _DIGITS and before not in (")", "}", "|"):
                    raise Unclear("a number after a factor")
                tree = ("*", tree, self._factor())
        return tree

    def _factor(self) -> tuple:
        tree = self._atom()
        while self.symbol in ("!", "^{\\circ}", "^{\\circ }"):
            tree = ("!", tree) if self._take() == "!" else _degrees(tree)
        if self.symbol == "^":
            self._take()
            tree = ("^", tree, self._group("{", "}"))
        if self.symbol in ("^", "!"):
            raise Unclear("x^y^z, x^y! or x!!")
        return tree

    def _atom(self) -> tuple:
        symbol = self._take()
        if symbol[0] in _DIGITS:
            if self.symbol == r"\frac" and re.fullmatch(r"\d+", symbol):
                return self._mixed(int(symbol))
            return ("number", Fraction(symbol))
        if symbol in "({[":
            self._at -= 1
            return self._group(symbol, ")}]"["({[".index(symbol)])
        if symbol == "|":
            self._moduli += 1
            tree = self.sum()
            self._take("|")
            self._moduli -= 1
            return ("abs", tree)
        if symbol in _CONSTANTS:
            return _CONSTANTS[symbol]
        if symbol in (r"\frac", r"\binom"):
            first = self._group("{", "}")
            return ("/" if symbol == r"\frac" else "binom", first, self._group("{", "}"))
        if symbol == r"\sqrt":
            index = self._group("[", "]") if self.symbol == "[" else ("number", Fraction(2))
            return ("root", self._group("{", "}"), index)
        if symbol in _ROUNDING:
            closing, kind = _ROUNDING[symbol]
            tree = self._inside()
            self._take(closing)
            return (kind, tree)
        if symbol in _CALLS or symbol.startswith((r"\log_", r"\ln_")):
            return self._call(symbol)
        return self._name(symbol)

    def _mixed(self, whole: int) -> tuple:
        r"""`2\frac{1}{2}` is a sum, `2\frac{\pi}{3}` a product."""
        fraction = self._atom()
        parts = [part[1] for part in fraction[1:] if part[0] == "number"]
        if len(parts) == 2 and 0 < parts[0] < parts[1]:
            return ("+", ("number", Fraction(whole)), fraction)
        return ("*", ("number", Fraction(whole)), fraction)

    def _call(self, function: str) -> tuple:
        r"""`\sin x`, `\sin^2(x+1)`, `\log_2 n`; `\log` alone has base ten, as in latex2sympy."""
        function, _, index = function.partition("_")
        power = None
        if self.symbol == "^":
            self._take()
            power = self._group("{", "}")
            if power == ("*", ("number", Fraction(-1)), ("number", Fraction(1))):
                function, power = _INVERSES.get(function, ""), None
            if not function or (power is not None and power[0] != "number"):
                raise Unclear("a power of a function's name")
        argument = self._call_argument()
        if function in (r"\log", r"\ln"):
            base = parse(index[1:-1]) if index else ("number", Fraction(10))
            tree = ("ln", argument) if function == r"\ln" else ("log", argument, base)
        else:
            tree = (function[1:], argument)
        return tree if power is None else ("^", tree, power)

    def _call_argument(self) -> tuple:
        """What stands in parentheses, or one factor, or a number and one factor."""
        if self.symbol in ("(", "{"):
            return self._group(self.symbol, ")" if self.symbol == "(" else "}")
        tree = self._signed(self._sign(), self._factor())
        if tree[0] == "number" and not self._stops():
            tree = ("*", tree, self._factor())
        if not self._stops():
            raise Unclear("how far the argument goes")
        return tree

    def _stops(self) -> bool:
        after = self._symbols[self._at + 1] if self.symbol == _TIMES else self.symbol
        return self._ended() or after in _CALLS

    def _inside(self) -> tuple:
        """A sum in brackets, where a bar opens a modulus of its own."""
        outside, self._moduli = self._moduli, 0
        tree = self.sum()
        self._moduli = outside
        return tree

    def _group(self, opening: str, closing: str) -> tuple:
        self._take(opening)
        tree = self._inside()
        self._take(closing)
        return tree

    def _name(self, symbol: str) -> tuple:
        base = re.match(r"\\?[a-zA-Z]+(?: ?\{\w+\})?", symbol)
        if base is None or (base[0][0] == "\\" and "{" not in base[0] and base[0] not in _GREEK):
            raise Unclear(symbol)
        if base[0] in _UNKNOWN and self.symbol == "(":
            return ("unknown", symbol, self._group("(", ")"))
        if base[0] in _UNKNOWN and self.symbol == "^":
            raise Unclear("a power or an inverse of a function")
        return ("name", symbol)


def _degrees(tree: tuple) -> tuple:
    return ("/", ("*", tree, ("pi",)), ("number", Fraction(180)))
