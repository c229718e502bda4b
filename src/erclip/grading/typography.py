r"""Brings every spelling of an answer to canonical LaTeX, the only form the other modules read.

`canonical` maps Unicode to LaTeX and follows TeX's rules for groups and arguments. What it writes:

- `\frac{1}{2}`, `\sqrt{2}`, `x^{2}`, `a_{1}`: arguments always in braces, one name per command;
- upright text and plain words as quoted words, `15"cm"` and `3"or"4`; words are never letters;
- no dollar signs, fonts, colours, sizes or spaces. Blanks stay where they mean something: between
  two numbers (`1 2`), after a comma (`1, 234`), and after a command.

Nothing is dropped but typography, and nothing here knows what an expression means.
"""

from __future__ import annotations

import re
from functools import lru_cache

from erclip.grading.brackets import is_balanced
from erclip.grading.exact import recurring_as_fractions
from erclip.grading.scanner import Scanner, TooDeep
from erclip.grading.signs import to_latex


def _half_of_day(match: re.Match[str]) -> str:
    """`p.m.` as one word, whatever braces it stands in."""
    return rf" \text{{{match[2]}{match[3]}}}" + "{" * match[0].count("{")


_SUBSTITUTIONS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\\(?=boxed|text|frac|sqrt)", r"\\"),
        (r"\^\s*(?:(\^\{\\circ\})|\{\s*\^\{\\circ\}\s*\})", r"^{\\circ}"),
        (r"^\s*(\*{1,3}|__)(.+)\1\s*$", r"\2"),
        (r"(?<=\d)[xX](?=10\^)", r"\\cdot "),
        (r"(?<=\d)(?:\{,\}|,\\!\s*)(?=\d{3}(?!\d))", ""),  # thousands, spelled unambiguously
        (r"\{,\}|,\\!", ","),
        (r"(?<=\d)['_](?=\d{3}(?:['_]\d{3})*(?!\w))", ""),
        (r"((?:\\[a-zA-Z]+ *)?(?<!\\)\{)\s+", r" \1"),  # blanks at the edges of a group, outside
        (r"\s+(?<!\\)\}", "} "),
        (r"\*\*", "^"),
        (r"(?<![\w\\])0[xX]([0-9a-fA-F]+)(?!\w)", r"\1_{hex}"),
        (r"(?<![\w\\])0[bB]([01]+)(?!\w)", r"\1_{bin}"),
        (r"(?<![\w\\])0[oO]([0-7]+)(?!\w)", r"\1_{oct}"),
        (r"(?<=\d)(\s|\\[ ,;:]|~|\\text\s?\{\s*)*([aApP])\.?\s?([mM])\b\.?", _half_of_day),
        (r"([<>])=", lambda match: r"\le " if match[1] == "<" else r"\ge "),
        (r"!=", r"\\ne "),
        (r":=|==", "="),
        (r"\\%", "%"),
        (r"(?<!\.)\.\.\.+(?!\.)", r"\\ldots "),
        (r"^\s*(-?)\s*((?:US|CA?|AU?|NZ|HK|S)?)\$\s*([\d.,]+)\s*$", r"\1\2\\$\3"),
        (r"(?<!\\)\$|(?<!\\)\\[()\[\]](?!\s*\d+pt)", " "),
        (r"[`\"“”„«»]", ""),
        (r"^\s*'([^']+)'\s*$", r"\1"),
    )
)
_COMBINATIONS = (  # {}_nC_k, C(n, k), C_n^k, and P for permutations
    (re.compile(r"(?:\{\})?[_^]\{(\w+)\}C_\{(\w+)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?:\{\})?[_^]\{(\w+)\}P_\{(\w+)\}"), r"\\frac{\1!}{(\1-\2)!}"),
    (re.compile(r"(?<![a-zA-Z\\])C\((\d+), ?(\d+)\)"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<![a-zA-Z\\])P\((\d+), ?(\d+)\)"), r"\\frac{\1!}{(\1-\2)!}"),
    (re.compile(r"(?<![a-zA-Z\\])C_\{(\d+)\}\^\{(\d+)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<![a-zA-Z\\])[PA]_\{(\d+)\}\^\{(\d+)\}"), r"\\frac{\1!}{(\1-\2)!}"),
)
_SIGN_WORDS = {"minus": "-", "plus": "+", "times": r"\cdot ", "negative": "-"}
_SIGN_WORD = re.compile(
    r'(?:"(minus|plus|times)"|^"(negative)") ?(?=[\d.\\(a-zA-Z])', re.IGNORECASE
)
_GROUPED = re.compile(r"(?<![\d.,] )(?<![\d.,])\d{1,3}(?: \d{3})+(?! ?[\d])")


def same_spelling(left: str, right: str) -> bool:
    """Whether two canonical texts differ in nothing but quoting and the blank after a comma."""
    return bare_spelling(left) == bare_spelling(right)


@lru_cache(maxsize=16_384)
def bare_spelling(text: str) -> str:
    """Canonical text without quotes and without the blanks that part nothing."""
    return re.sub(r'"|(?<=,) | +(?=[^\w])|(?<=[a-zA-Z]) (?=\d)', "", text)


@lru_cache(maxsize=16_384)
def canonical(text: str) -> str:
    r"""The canonical form of an answer.

    >>> canonical(r"$\left(1,\ \dfrac{1}{2}\right)$"), canonical("√7 + x²")
    ('(1, \\frac{1}{2})', '\\sqrt{7}+x^{2}')
    >>> canonical(r"15 \mathrm{~cm}"), canonical("3 or more"), canonical("2 5")
    ('15"cm"', '3"or""more"', '2 5')
    """
    text = to_latex(text)
    for pattern, replacement in _SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
    try:
        written = Scanner(text).group(upright=False)
    except TooDeep:
        return f'"{text}"'  # as written: no reading of it
    written = _GROUPED.sub(lambda match: match[0].replace(" ", ""), written)
    written = _SIGN_WORD.sub(
        lambda match: _SIGN_WORDS[match[match.lastindex or 0].lower()], written
    )
    for pattern, replacement in _COMBINATIONS:
        written = pattern.sub(replacement, written)
    return recurring_as_fractions(_stripped(written))


def _stripped(text: str) -> str:
    """Without the full stop, and without braces around the whole."""
    text = text.strip()
    while True:
        bare = re.sub(r"^(?:\\quad ?)+|(?:\s|\\\\?|\\quad|(?<!\\)[.,;:])+$", "", text).strip()
        if bare.startswith("{") and bare.endswith("}") and is_balanced(bare[1:-1]):
            bare = bare[1:-1].strip()
        if bare.startswith(r"\{") and r"\}" not in bare:  # of a system of equations
            bare = bare[2:]
        if bare == text:
            return text
        text = bare
