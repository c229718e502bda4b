r"""Takes a canonical answer apart at its top level: a single thing, a list, or what brackets hold.

Lists and tuples are compared item by item, so that algebra only ever sees one value or relation at
a time, and so that order matters for tuples and for nothing else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from erclip.grading.typography import canonical
from erclip.grading.words import LABEL_WORDS, changes_value

_PHRASES = (
    (re.compile(r'(?:"(?:the|an)")?"(?:empty|null)""set"', re.IGNORECASE), r"\\emptyset "),
    (re.compile(r'"all""real(?:s|""numbers)"', re.IGNORECASE), r"\\mathbb{R}"),
)
_LABEL = re.compile(r'((?:"[^"]+")+)(:|：)? ?(?:\\quad ?)*(?=.)')
_MEMBERSHIP = re.compile(r"(?:[a-zA-Z]|\\[a-z]+ ?)(?:_\{\w+\})? ?\\in ?(?=[\[({\\\]])(?!\\mathbb)")
MAX_STARTS = 16
_CONDITION_STARTS = re.compile(
    r',|"(?:for|where|with)"|(?P<all>\\forall )|(?:\\quad ?)+|(?<=[\w})])(?=\([a-zA-Z][^()]*\)$)'
)
_CONDITION_WORDS = re.compile(
    r'"(?P<all>all|every|any|each)"|"(?:some|an?|is|are|and|integers?|positive|negative|real|natural'
    r'|non|nonnegative|nonzero|numbers?|arbitrary|constants?|even|odd|values?|of|the)"|[-, ]+$',
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"[a-zA-Z][, a-zA-Z]*(?:(?:\\in |\\[gl]e |[<>]|\\ne ).*)?|.*(?:\\[gl]e |[<>])[a-zA-Z].*|"
)
_COMPARES = re.compile(r"[=<>]|\\(?:in|[gl]e|ne) ")
_THOUSANDS = re.compile(
    r'[^\d(\[{,"]*\d{1,3}(?:,\d{3}){1,6}(?:\.\d+)?'
    r'(?:(?:[^\d)\],^]|\^\{(?:-?\d|\\circ ?)\})*|[(\[]"[^"]+"[)\]])'
)
_CONNECTIVE = re.compile(r'(?:, ?)?"(?:and|or|And|Or|AND|OR)"|;')
_SPREAD = re.compile(r'[^"(]*(?:\\quad [^"(]*)+')
_PLUS_MINUS = re.compile(r"\\(pm|mp) ")
_FRENCH = re.compile(r"([\[\]])(.*[,;].*)([\[\]])")
_OPENING = {"(": ")", "[": "]", r"\{": r"\}"}
_DELIMITERS = re.compile(
    r'"[^"]*"|\\begin\{|\\end\{|\\(?:cup|cap|setminus)(?![a-zA-Z])|\\[{}]|\\.|[()\[\]{},=]',
    re.DOTALL,
)
_MATRIX = re.compile(
    r"(?P<factor>[^&,=]*?)\\begin\{matrix\}(?P<cells>.*)\\end\{matrix\}", re.DOTALL
)
_NAMES = re.compile(r"\(?[a-zA-Z\\][\w\\{}' ]*(?:\([\w, ]*\)|(?:, ?[a-zA-Z\\][\w\\{}' ]*)*\)?)?")


class Scalar(NamedTuple):
    """Anything that is not a list of things: the canonical text."""

    text: str


class Items(NamedTuple):
    r"""Items in order, and their brackets: "" for a bare list, `\cup` for a union, else as written.

    A matrix is a `matrix` of `row`s.
    """

    open: str
    close: str
    items: tuple[Scalar | Items, ...]
    text: str


Answer = Scalar | Items


class Reading(NamedTuple):
    """An answer taken apart, its text, and the condition that it was stated under ("" for none)."""

    answer: Answer
    text: str
    condition: str


@lru_cache(maxsize=8192)
def read(text: str, *, is_list: bool = False) -> Reading:
    r"""The structure of an answer.

    is_list: commas between digit groups separate answers (`135,189` is two numbers, not one).

    >>> read(r"\{1, \frac12\}").answer.items
    (Scalar(text='1'), Scalar(text='\\frac{1}{2}'))
    >>> read("1,234").answer, len(read("1,234", is_list=True).answer.items)
    (Scalar(text='1,234'), 2)
    >>> read(r"2n \text{ for } n \ge 1")
    Reading(answer=Scalar(text='2n'), text='2n', condition='n\\ge 1')
    """
    text = without_label(canonical(text)).replace(r"\{\}", r"\emptyset ")
    for phrase, meaning in _PHRASES:
        text = phrase.sub(meaning, text)
    if "&" in text and r"\begin" not in text:
        text = text.replace("&", '"and"')
    text, condition = _without_condition(text.strip())
    bare = _MEMBERSHIP.sub("", text, count=1)
    if (french := _FRENCH.fullmatch(bare)) and (french[1] == "]" or french[3] == "["):
        bare = f"{'(' if french[1] == ']' else '['}{french[2]}{')' if french[3] == '[' else ']'}"
        text = bare
    return Reading(_take_apart(bare, is_list), text, condition)


def without_label(text: str) -> str:
    """`Answer: 13`, `Total: 13` and `Page 13` as 13; words that change a value are no label."""
    text = re.sub(r"^(?:=|\\approx|\\implies|:)+ ?", "", text)
    match = _LABEL.match(text)
    if match is None:
        return text
    words = re.findall(r'"([^"]+)"', match[1])
    numbered = words == ["No"] and text[match.end() : match.end() + 1].isdigit()
    known = numbered or all(word.lower() in LABEL_WORDS for word in words)
    if known or (match[2] and not any(changes_value(word, is_label=True) for word in words)):
        return text[match.end() :]
    return text


def _without_condition(text: str) -> tuple[str, str]:
    """The value, and the condition on its variables after `for`, `where`, a comma or a blank."""
    for start in islice(_CONDITION_STARTS.finditer(text), MAX_STARTS):
        value, said = text[: start.start()].rstrip(" ,"), text[start.end() :]
        if start[0] == "," and not _COMPARES.search(said):
            continue  # a list
        is_universal = bool(start["all"]) or any(m["all"] for m in _CONDITION_WORDS.finditer(said))
        bare = _CONDITION_WORDS.sub("", said).strip(" ,")
        bare = bare[1:-1] if bare.startswith("(") and bare.endswith(")") else bare
        if not value or not said or not _CONDITION.fullmatch(bare):
            continue
        if start[0] == "," and _COMPARES.search(value) and r"\in \mathbb" not in bare:
            continue  # a list of relations
        variable = re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", bare))
        if is_universal or (variable and variable[0] in re.sub(r"\\[a-zA-Z]+", "", value)):
            return value, bare if _COMPARES.search(bare) and not is_universal else ""
    return text, ""


def _take_apart(text: str, is_list: bool) -> Answer:
    if not is_list and _THOUSANDS.fullmatch(text):
        return Scalar(text)
    sides = split_top(text, "=")
    if len(sides) == 2 and _NAMES.fullmatch(sides[0]):
        named = _take_apart(sides[1], is_list)
        if isinstance(named, Items) and named.open not in ("", r"\cup"):
            return named
    if matrix := _matrix(text):
        return matrix
    pieces = split_top(text, r"\cup")
    if len(pieces) > 1 and all(pieces):
        return Items(r"\cup", r"\cup", tuple(_bracketed(p) or Scalar(p) for p in pieces), text)
    listed = _CONNECTIVE.sub(",", text)
    if _SPREAD.fullmatch(listed):
        listed = re.sub(r",? *\\quad ", ",", listed)
    parts = split_top(listed)
    if len(parts) > 1 and all(parts):
        return Items("", "", tuple(item for part in parts for item in _expand(part)), text)
    if bracketed := _bracketed(text, alone=True):
        return bracketed
    expanded = _expand(text)
    return Items("", "", expanded, text) if len(expanded) > 1 else expanded[0]


def _bracketed(text: str, *, alone: bool = False) -> Items | Scalar | None:
    r"""The items of `(…)`, `[…)`, `\{…\}` if the first bracket closes at the very end.

    Brackets around one thing mean nothing, but a set of one only if it is the whole answer.
    """
    opening = next((mark for mark in _OPENING if text.startswith(mark)), None)
    closing = next((mark for mark in _OPENING.values() if text.endswith(mark)), None)
    if opening is None or closing is None or len(text) < len(opening) + len(closing) + 1:
        return None
    inner = text[len(opening) : -len(closing)].replace(";", ",")
    if not _balanced(inner):
        return None
    parts = split_top(inner)
    if not all(parts):
        return None
    if len(parts) == 1:
        if opening == r"\{" or _OPENING[opening] == closing:
            matrix = _matrix(parts[0])
            items = (matrix,) if matrix else _expand(parts[0])
            is_set = opening == r"\{" and (not alone or items[0].text.strip() == r"\emptyset")
            is_one = len(items) == 1 and not is_set
            return items[0] if is_one else Items(opening, closing, items, text)
        return None
    items = tuple(item for part in parts for item in _expand(part))
    return Items(opening, closing, items, text)


def _expand(text: str) -> tuple[Answer, ...]:
    r"""One item, or two where it says `\pm`."""
    if _PLUS_MINUS.search(text):
        upper = _PLUS_MINUS.sub(lambda sign: "+" if sign[1] == "pm" else "-", text)
        lower = _PLUS_MINUS.sub(lambda sign: "-" if sign[1] == "pm" else "+", text)
        return (*_expand(upper.removeprefix("+").strip()), *_expand(lower.strip()))
    sides = split_top(text, "=")
    if len(sides) == 2 and _NAMES.fullmatch(sides[0]) and (named := _bracketed(sides[1])):
        return (named,)
    return (_bracketed(text) or Scalar(text),)


def _matrix(text: str) -> Items | None:
    """A matrix, times a factor in front of it."""
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match["cells"]:
        return None
    factor = f"({match['factor']})\\cdot " if match["factor"] else ""
    rows = [row.split("&") for row in match["cells"].split(r"\\") if row.strip()]
    items = tuple(
        Items(
            "row", "row", tuple(Scalar(_times(factor, cell.strip())) for cell in row), "&".join(row)
        )
        for row in rows
    )
    return Items("matrix", "matrix", items, text)


def _times(factor: str, cell: str) -> str:
    return f"{factor}({cell})" if factor else cell


def split_top(text: str, separator: str = ",") -> list[str]:
    """Parts between the separators that no bracket, brace or environment holds."""
    depth, start, parts = 0, 0, []
    for match in _DELIMITERS.finditer(text):
        mark = match.group()
        if mark in ("(", "[", "{", r"\{", r"\begin{"):
            depth += 2 if mark == r"\begin{" else 1
        elif mark in (")", "]", "}", r"\}"):
            depth -= 1
        elif mark == separator and depth <= 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return parts


def _balanced(inner: str) -> bool:
    """Whether no bracket inside closes one that was opened outside."""
    depth = 0
    for match in _DELIMITERS.finditer(inner):
        mark = match.group()
        if mark in ("(", "[", "{", r"\{", r"\begin{", r"\end{"):
            depth += 1
        elif mark in (")", "]", "}", r"\}"):
            depth -= 1
            if depth < 0:
                return False
    return depth == 0
