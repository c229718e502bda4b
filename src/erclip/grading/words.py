"""What plain words say about a value: the questions that are asked of the table of words."""

from __future__ import annotations

import re

from erclip.grading.tables import WORDS, by_other_name, words

NUMBER_WORDS = {word: str(value) for value, word in enumerate(WORDS["numbers"].split())}
LABEL_WORDS = words(WORDS["label"])
_SCALES = {word: int(factor) for word, factor in by_other_name(WORDS["scales"]).items()}
_ADJECTIVES, _NOUNS = (words(WORDS["changing"][key]) for key in ("adjectives", "nouns"))
_CHANGING = words(WORDS["changing"]["always"]) | _ADJECTIVES | _SCALES.keys() | NUMBER_WORDS.keys()
_FOREIGN = re.compile("|".join(WORDS["changing"]["foreign"].split()), re.IGNORECASE)


def scale_of(word: str) -> int | None:
    """What a word multiplies a number by; None if it is no scale."""
    return _SCALES.get(word.lower())


def is_adjective(word: str) -> bool:
    """Whether a word changes a value unless a noun follows it."""
    return word.lower() in _ADJECTIVES


def changes_value(word: str, *, is_label: bool = False) -> bool:
    """Whether a word says something about the value beside it.

    >>> [changes_value(word) for word in ("approximately", "milliers", "marbles", "sum")]
    [True, True, False, True]
    >>> changes_value("sum", is_label=True)
    False
    """
    word = word.lower()
    if word in _NOUNS:
        return not is_label
    return word in _CHANGING or _FOREIGN.fullmatch(word) is not None
