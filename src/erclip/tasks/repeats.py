"""Rows that ask the same: DAPO-17k repeats each prompt 100 times, AIME files 32 times.

A prompt's id is its set's name and the hash of its question; copies have a number behind it. So the
id says which problem a response belongs to, and nothing else has to be stored.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from erclip.records import Prompt

_COPY = re.compile(r"(.*/[0-9a-f]{12})-\d+")


class Identifier:
    """Hands out ids in the order of the rows."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: Counter[str] = Counter()

    def __call__(self, asked: str) -> str:
        """The id of the next row."""
        digest = hashlib.sha256(asked.encode(errors="surrogatepass")).hexdigest()[:12]
        self._seen[digest] += 1
        copy = f"-{self._seen[digest]}" if self._seen[digest] > 1 else ""
        return f"{self._name}/{digest}{copy}"


def problem_of(prompt_id: str) -> str:
    """The problem that a prompt is a copy of: its id without the copy's number.

    >>> problem_of("aime24/0123456789ab-7"), problem_of("countdown/3-7-12=33")
    ('aime24/0123456789ab', 'countdown/3-7-12=33')
    """
    match = _COPY.fullmatch(prompt_id)
    return match[1] if match else prompt_id


def repeats_remark(prompts: Sequence[Prompt]) -> str:
    """What a reader should know of repeated problems, in one sentence; "" if there are none."""
    golds: defaultdict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        golds[problem_of(prompt.id)].add(str(prompt.gold))
    if len(golds) == len(prompts):
        return ""
    contradictory = sum(len(of_one) > 1 for of_one in golds.values())
    other = f", {contradictory} of them with different golds" if contradictory else ""
    return f"{len(prompts)} rows are {len(golds)} different problems{other}"


def first_of_each(prompts: Iterable[Prompt]) -> list[Prompt]:
    """One prompt per problem, in order."""
    kept: dict[str, Prompt] = {}
    for prompt in prompts:
        kept.setdefault(problem_of(prompt.id), prompt)
    return list(kept.values())
