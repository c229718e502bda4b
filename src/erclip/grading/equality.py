r"""Decides whether an answer meets a gold, item by item; what a single item means is a rule's.

Every decision is True, False or None, and None ("cannot tell without algebra") is passed up by the
three-valued `_decided`. The calling process runs `meets` with `plain_scalar`; where that
says None, a worker runs the same `meets` with sympy behind it, so both see one structure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache

from erclip.grading.choices import read_choice
from erclip.grading.exact import parse_number
from erclip.grading.gold import Gold
from erclip.grading.guards import is_fair
from erclip.grading.relations import comparisons
from erclip.grading.scalars import ScalarRule, Verdict, quantity, sides
from erclip.grading.structure import Answer, Reading, read
from erclip.grading.typography import bare_spelling, canonical, same_spelling

MAX_UNSORTED = 12
MAX_WORDS = 3
_ORDERED = ("(", "[", "matrix", "row")
# Opening bracket of the gold → those an answer may use: a tuple may come bare, a bare list may come
# in parentheses, but a set is not a tuple.
_ACCEPTED = {
    "(": ("(", "[", ""),
    "[": ("(", "[", ""),
    "": ("", r"\{", "(", r"\cup"),
    r"\{": (r"\{", ""),
    r"\cup": (r"\cup", ""),
    "matrix": ("matrix",),
    "row": ("row",),
}
_POINT = re.compile(r"[A-Z]'?(\(.*,.*\))")
_ENDS = {"<": "()", r"\le ": "[]"}
_LISTED = re.compile(r",|;|and|or|pm|quad|[^\x00-\x7f]")
_SET_LIKE = re.compile(r"[<>]|\\(?:le|ge|ne|cup|cap|setminus|mathbb|infty)(?![a-zA-Z])|^\]|\[$")


Same = Callable[[str, str], Verdict]
"""The rule for single things, of one gold."""


def meets(gold: Gold, answer: str, scalar: ScalarRule) -> Verdict:
    """Whether the answer's text meets the gold; None where `scalar` could not tell."""

    def same(wanted: str, given: str) -> Verdict:
        return scalar(wanted, given, gold)

    if gold.is_multiple:
        wanted = _all_answers(gold.answers)
        return _match(wanted, read(answer, is_list=wanted.open is not None).answer, same)
    return _decided((_meets_one(text, answer, same) for text in gold.answers), by=True)


def is_list(gold: Gold) -> bool:
    """Whether several boxes in a row may stand for the gold: it is one bare list."""
    if len(gold.answers) != 1 or not _LISTED.search(gold.answers[0]):
        return False
    answer = read(gold.answers[0]).answer if is_fair(gold.answers[0]) else None
    return answer is not None and answer.open == ""


def is_readable(answer: str) -> bool:
    """Whether there is a number, a letter or a short phrase to compare; a sentence is none."""
    text = canonical(answer)
    words = text.count('"') // 2
    return bool(re.search(r"\w", text)) and (words <= MAX_WORDS or bool(re.search(r"\d", text)))


def same_text(gold: Gold, answer: str) -> bool:
    """Whether the answer is one of the golds up to typography."""
    golds = [", ".join(gold.answers)] if gold.is_multiple else gold.answers
    text = canonical(answer)
    return bool(text) and any(same_spelling(canonical(g), text) for g in golds)


def _meets_one(gold: str, answer: str, same: Same) -> Verdict:
    verdict = _choices(gold, answer, same)
    return _meets_content(gold, answer, same) if verdict is None else verdict


def _meets_content(gold: str, answer: str, same: Same) -> Verdict:
    wanted, given = read(gold), read(answer)
    if not _same_conditions(wanted, given, same):
        return False
    if (verdict := _sets(wanted.text, given.text)) is not None:
        return verdict
    wanted_items, given_items = _aligned(wanted.answer, given.answer)
    return _match(wanted_items, given_items, same)


def _choices(gold: str, answer: str, same: Same) -> Verdict:
    """`(B)` is met by its letter, in any dress, with any content but another choice."""
    wanted, given = read_choice(canonical(gold)), read_choice(canonical(answer))
    if wanted is None or not wanted.is_sure:
        return None
    if given is None:
        if wanted.content:
            return _meets_content(wanted.content, answer, same)
        return False if wanted.in_brackets else None
    if wanted.letter != given.letter or given.says_more:
        return False
    if wanted.content and given.content:
        return _meets_content(wanted.content, given.content, same)
    return True


def _same_conditions(wanted: Reading, given: Reading, same: Same) -> bool:
    """A condition may be left out or added, but two must not contradict each other."""
    if not wanted.condition or not given.condition:
        return True
    if same_spelling(wanted.condition, given.condition):
        return True
    sets = _sets(wanted.condition, given.condition)
    return sets if sets is not None else bool(same(wanted.condition, given.condition))


def _sets(gold: str, answer: str) -> Verdict:
    """Equality as sets of reals, if one of the two is written as nothing else."""
    if not (_SET_LIKE.search(gold) or _SET_LIKE.search(answer)):
        return None
    from erclip.grading.sets import equal_sets, real_set  # mpmath: only if needed

    wanted, given = real_set(gold), real_set(answer)
    if wanted is None or given is None:
        return None
    return equal_sets(wanted, given)


def _aligned(gold: Answer, answer: Answer) -> tuple[Answer, Answer]:
    """What stands beside a tuple or interval, as one."""
    if gold.open in ("(", "["):
        return gold, _as_tuple(answer) or answer
    if answer.open in ("(", "["):
        return _as_tuple(gold) or gold, answer
    return gold, answer


def _as_tuple(answer: Answer) -> Answer | None:
    """`P(3, 4)`, `y = 4, x = 3`, a column of a matrix, or the interval of `a < x < b`."""
    if point := _POINT.fullmatch(answer.text):
        return read(point[1]).answer
    steps = comparisons(answer.text)
    if len(steps) == 2 and steps[0].right.isalpha() and all(s.sign in _ENDS for s in steps):
        low, high = (_ENDS[step.sign] for step in steps)
        ends = Answer(steps[0].left), Answer(steps[1].right)
        return Answer(answer.text, low[0], high[1], ends)
    if answer.open == "matrix" and all(len(row.items) == 1 for row in answer.items):
        return Answer(answer.text, "(", ")", tuple(row.items[0] for row in answer.items))
    named = sorted(tuple(sides(item.text)) for item in answer.items)
    if answer.open == "" and all(len(n) == 2 and re.fullmatch("[a-zA-Z]", n[0]) for n in named):
        return Answer(answer.text, "(", ")", tuple(Answer(value) for _, value in named))
    return None


@lru_cache(maxsize=4096)
def _all_answers(answers: tuple[str, ...]) -> Answer:
    """The answers and the items of those that are lists, as one list."""
    flat: list[Answer] = []
    for answer in answers:
        parts = read(answer, is_list=True).answer
        flat.extend(parts.items if parts.open in ("", r"\{") else [parts])
    return flat[0] if len(flat) == 1 else Answer(canonical(", ".join(answers)), "", "", tuple(flat))


def _match(gold: Answer, answer: Answer, same: Same) -> Verdict:
    if gold.open is None and answer.open is None:
        return same(gold.text, answer.text)
    if gold.open is not None and answer.open is not None:
        return _match_items(gold, answer, same)
    items, single = (gold, answer) if answer.open is None else (answer, gold)
    if items.open in ("(", "[", r"\cup") and _SET_LIKE.search(single.text):
        return same(gold.text, answer.text)
    return False


def _match_items(gold: Answer, answer: Answer, same: Same) -> Verdict:
    """Tuples, intervals and matrices keep their order, lists, sets and unions do not."""
    if len(gold.items) != len(answer.items):
        is_union = r"\cup" in (gold.open, answer.open)
        return same(gold.text, answer.text) if is_union else False
    if answer.open not in _ACCEPTED.get(gold.open, ()):
        return False
    if len(gold.items) == 2 and not _same_ends(gold, answer):
        return False
    if gold.open in _ORDERED or r"\ldots" in gold.text:
        pairs = zip(gold.items, answer.items, strict=True)
        return _decided((_match(g, a, same) for g, a in pairs), by=False)
    return _match_unordered(gold.items, answer.items, same)


def _same_ends(gold: Answer, answer: Answer) -> bool:
    """Whether two pairs are both open or closed at each end; parentheses may be left out."""
    ends = [f"{side.open}{side.close}" for side in (gold, answer)]
    if not any(end and end[0] in "([" for end in ends):
        return True
    return ends[0] == ends[1] or set(ends) == {"", "()"}


def _match_unordered(golds: Sequence[Answer], answers: Sequence[Answer], same: Same) -> Verdict:
    """Pair every gold with an answer of its own: equal numbers and spellings first, in one pass."""
    waiting: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, answer in enumerate(answers):
        waiting[_key(answer)].append(position)
    left, rest = set(range(len(answers))), []
    for gold in golds:
        alike = waiting[_key(gold)]
        if alike and _match(gold, answers[alike[-1]], same):
            left.discard(alike.pop())
        else:
            rest.append(gold)
    if len(rest) > MAX_UNSORTED:
        return None
    undecided = False
    for gold in rest:
        verdicts = {i: _match(gold, answers[i], same) for i in sorted(left)}
        if (met := next((i for i, verdict in verdicts.items() if verdict), None)) is not None:
            left.discard(met)
        elif None not in verdicts.values():
            return False
        else:
            undecided = True
    return None if undecided else True


def _key(item: Answer) -> Hashable:
    """What items share that are most likely equal: a number without its name, or the spelling."""
    if item.open is not None:
        return tuple(map(_key, item.items))
    number = parse_number(quantity(sides(item.text)[-1]).value)
    return number.value if number else bare_spelling(item.text)


def spelling_key(answer: str) -> Hashable:
    """Equal for answers that are surely the same: one number, or one spelling."""
    if not is_fair(answer):
        return answer
    reading = read(answer).answer
    return _key(reading) if reading.open is None else bare_spelling(reading.text)


def _decided(verdicts: Iterable[Verdict], *, by: bool) -> Verdict:
    """`by` if a verdict is, else None if one is; any() and all() of three values."""
    seen = False
    for verdict in verdicts:
        if verdict is by:
            return by
        seen = seen or verdict is None
    return None if seen else not by
