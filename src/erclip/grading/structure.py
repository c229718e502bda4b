r"""Takes a canonical answer apart at its top level: a single thing, a list, or what brackets hold.

Lists and tuples are compared item by item, so that algebra only ever sees one value or relation at
a time, and so that order matters for tuples and for nothing else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from erclip.grading.brackets import is_balanced, split_top
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
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_THOUSANDS = re.compile(
    r'[^\d(\[{,"]*\d{1,3}(?:,\d{3}){1,6}(?:\.\d+)?'
    r'(?:(?:[^\d)\],^]|\^\{(?:-?\d|\\circ ?)\})*|[(\[]"[^"]+"[)\]])'
)
_CONNECTIVE = re.compile(r'(?:, ?)?"(?:and|or|And|Or|AND|OR)"|;')
_SPREAD = re.compile(r'[^"(]*(?:\\quad [^"(]*)+')
_PLUS_MINUS = re.compile(r"\\(?:pm|mp) ")
_FRENCH = re.compile(r"(?:(\])|(\[))(.*[,;].*)(?:(\[)|(\]))")
_CLOSING = {"(": ")", "[": "]", r"\{": r"\}"}
_MATRIX = re.compile(r"([^&,=]*?)\\begin\{matrix\}((?:(?!\\begin).)*)\\end\{matrix\}", re.DOTALL)
_NAMES = re.compile(r"\(?[a-zA-Z\\][\w\\{}' ]*(?:\([\w, ]*\)|(?:, ?[a-zA-Z\\][\w\\{}' ]*)*\)?)?")


class Answer(NamedTuple):
    r"""A canonical text, and its items with their brackets if it is no single thing.

    open: None for a single thing, "" for a bare list, `\cup` for a union, `matrix` for a matrix of
        `row`s, else the bracket as written.
    """

    text: str
    open: str | None = None
    close: str = ""
    items: tuple[Answer, ...] = ()


class Reading(NamedTuple):
    """An answer taken apart, its text, and the condition that it was stated under ("" for none)."""

    answer: Answer
    text: str
    condition: str


@lru_cache(maxsize=8192)
def read(text: str, *, is_list: bool = False) -> Reading:
    r"""The structure of an answer.

    is_list: commas between digit groups separate answers (`135,189` is two numbers, not one).

    >>> [item.text for item in read(r"\{1, \frac12\}").answer.items]
    ['1', '\\frac{1}{2}']
    >>> read("1,234").answer.items, len(read("1,234", is_list=True).answer.items)
    ((), 2)
    >>> read(r"2n \text{ for } n \ge 1")[1:]
    ('2n', 'n\\ge 1')
    """
    text = without_label(canonical(text)).replace(r"\{\}", r"\emptyset ")
    for phrase, meaning in _PHRASES:
        text = phrase.sub(meaning, text)
    if "&" in text and r"\begin" not in text:
        text = text.replace("&", '"and"')
    text, condition = _without_condition(text.strip())
    bare = _MEMBERSHIP.sub("", text, count=1)
    if (french := _FRENCH.fullmatch(bare)) and (french[1] or french[4]):
        text = bare = f"{'(' if french[1] else '['}{french[3]}{')' if french[4] else ']'}"
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
        variable = re.search(r"[a-zA-Z]", _COMMAND.sub("", bare))
        if is_universal or (variable and variable[0] in _COMMAND.sub("", value)):
            return value, bare if _COMPARES.search(bare) and not is_universal else ""
    return text, ""


def _take_apart(text: str, is_list: bool) -> Answer:
    if not is_list and _THOUSANDS.fullmatch(text):
        return Answer(text)
    listed = _CONNECTIVE.sub(",", text)
    if _SPREAD.fullmatch(listed):
        listed = re.sub(r",? *\\quad ", ",", listed)
    parts = split_top(listed)
    if len(parts) > 1 and all(parts):
        return Answer(text, "", "", _things(parts))
    things = _things([text], is_all=True)
    return Answer(text, "", "", things) if len(things) > 1 else things[0]


def _things(parts: list[str], *, is_all: bool = False) -> tuple[Answer, ...]:
    r"""Each part as one thing, or two where it says `\pm`."""
    found: list[Answer] = []
    for text in parts:
        if _PLUS_MINUS.search(text) and not text.startswith(r"\{"):
            for plus, minus in ((r"\pm ", r"\mp "), (r"\mp ", r"\pm ")):
                signed = text.replace(plus, "+").replace(minus, "-")
                found += _things([signed.removeprefix("+").strip()])
        else:
            found.append(_thing(text, is_all=is_all))
    return tuple(found)


def _thing(text: str, *, is_all: bool = False) -> Answer:
    sides = split_top(text, "=")
    if len(sides) == 2 and _NAMES.fullmatch(sides[0]) and (named := _thing(sides[1])).open:
        return named
    if match := _MATRIX.fullmatch(text):
        return _matrix(*match.groups(), text)
    if len(pieces := split_top(text, r"\cup")) > 1 and all(pieces):
        return Answer(text, r"\cup", r"\cup", _things(pieces))
    return _bracketed(text, is_all) or Answer(text)


def _bracketed(text: str, is_all: bool) -> Answer | None:
    r"""The items of `(…)`, `[…)`, `\{…\}` if the first bracket closes at the very end.

    Brackets around one thing mean nothing; those of a set do, unless they hold all of the answer.
    """
    opening = next((mark for mark in _CLOSING if text.startswith(mark)), None)
    closing = next((mark for mark in _CLOSING.values() if text.endswith(mark)), None)
    if opening is None or closing is None or len(text) < len(opening) + len(closing) + 1:
        return None
    inner = text[len(opening) : -len(closing)].replace(";", ",")
    parts = split_top(inner)
    if not is_balanced(inner) or not all(parts):
        return None
    items = _things(parts)
    if len(parts) == 1:
        if opening != r"\{" and _CLOSING[opening] != closing:
            return None
        is_set = opening == r"\{" and (not is_all or items[0].text.strip() == r"\emptyset")
        if len(items) == 1 and not is_set:
            return items[0]
    return Answer(text, opening, closing, items)


def _matrix(factor: str, cells: str, text: str) -> Answer:
    """A matrix, times a factor in front of it."""
    before, behind = (f"({factor})\\cdot (", ")") if factor else ("", "")
    rows = [row.split("&") for row in cells.split(r"\\") if row.strip()]
    items = tuple(
        Answer(
            "&".join(row),
            "row",
            "row",
            tuple(Answer(before + cell.strip() + behind) for cell in row),
        )
        for row in rows
    )
    return Answer(text, "matrix", "matrix", items)
