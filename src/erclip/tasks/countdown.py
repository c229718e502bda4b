"""Countdown with three numbers: reach the target with + − ×, every step written and checked.

Prompt `3 7 8=29`, response `3*7=21;21+8=29`. Small enough that the whole space is enumerated; hard
because the first step must already fit a target that only the second one reaches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple

from erclip.errors import UserError
from erclip.records import Grade, Prompt, Response
from erclip.tasks.base import Task, Wording, hash_split, unit_hash

DEFAULTS: Mapping[str, Any] = {"max_number": 9, "max_target": 99}

_NUMBER = r"(0|[1-9][0-9]{0,5})"
_STEP = re.compile(rf"{_NUMBER}([-+*]){_NUMBER}={_NUMBER}")


class Problem(NamedTuple):
    """Combine `numbers`, each once, into `target`."""

    numbers: tuple[int, ...]
    target: int

    def __str__(self) -> str:
        """What a correct answer comes to, for reports."""
        return str(self.target)


def calculate(left: int, operator: str, right: int) -> int:
    """left operator right, for the three operators of the task."""
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


def derivations(numbers: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """(steps, result) of combining the numbers one after another, in the order shown.

    A difference is written larger − smaller, so no result is negative.

    >>> list(derivations((3, 7)))
    [('3+7=10', 10), ('7-3=4', 4), ('3*7=21', 21)]
    """
    *before, last = numbers
    if not before:
        yield "", last
        return
    for written, running in derivations(tuple(before)):
        for operator in "+-*":
            pair = (running, last)
            left, right = (max(pair), min(pair)) if operator == "-" else pair
            result = calculate(left, operator, right)
            step = f"{left}{operator}{right}={result}"
            yield (f"{written};{step}" if written else step), result


def solutions(problem: Problem) -> list[str]:
    """The solutions that take the numbers in the order shown.

    >>> solutions(Problem((3, 7, 12), 33))
    ['3*7=21;21+12=33']
    """
    written = [steps for steps, result in derivations(problem.numbers) if result == problem.target]
    return list(dict.fromkeys(written))


def judge(problem: Problem, text: str) -> Grade:
    """Correct iff each step's arithmetic holds, each number is used once and the last is target.

    The pool starts as the problem's numbers; a step takes two members out and puts its result in.
    What is left at the end must be the target alone, so nothing can be reused or left over.

    >>> judge(Problem((3, 7, 12), 33), "3*7=21;21+12=33").correct
    True
    >>> judge(Problem((3, 7, 12), 33), "3*7=21;12+12=24").reason
    'wrong'
    """
    if not text.strip():
        return Grade(False, None, "no_answer")
    steps = [_STEP.fullmatch(step) for step in text.split(";")]
    pool = list(problem.numbers)
    answer: str | None = None
    for step in steps:
        if step is None:
            return Grade(False, None, "parse_error")
    for step in steps:
        assert step is not None
        left, operator, right, result = step.groups()
        answer = result
        for number in (int(left), int(right)):
            if number not in pool:
                return Grade(False, answer, "wrong")
            pool.remove(number)
        if calculate(int(left), operator, int(right)) != int(result):
            return Grade(False, answer, "wrong")
        pool.append(int(result))
    correct = pool == [problem.target]
    return Grade(correct, answer, "correct" if correct else "wrong")


def grade(responses: Sequence[Response]) -> list[Grade]:
    """One verdict per response; a response that did not end in time is wrong whatever it says."""
    return [
        Grade(False, None, "truncated")
        if response.truncated
        else judge(Problem(*response.prompt.gold), response.text)
        for response in responses
    ]


@cache
def problems(max_number: int, max_target: int) -> tuple[Problem, ...]:
    """All problems that can be solved in the order shown, in hash order.

    The grader takes any order; this choice keeps a problem within reach of a model of two layers.
    """
    found = [
        Problem(numbers, target)
        for numbers in product(range(1, max_number + 1), repeat=3)
        for target in sorted({result for _, result in derivations(numbers)})
        if 1 <= target <= max_target
    ]
    return tuple(sorted(found, key=lambda problem: unit_hash(question(problem))))


def split_key(problem: Problem) -> str:
    """The same for every order of the numbers: near-copies stay on one side of the split."""
    return question(Problem(tuple(sorted(problem.numbers)), problem.target))


def question(problem: Problem) -> str:
    """The user message: numbers, then the target.

    >>> question(Problem((3, 7, 12), 33))
    '3 7 12=33'
    """
    return f"{' '.join(map(str, problem.numbers))}={problem.target}"


def countdown(
    options: Mapping[str, Any] | None = None,
    *,
    test_fraction: float = 0.1,
    wording: Wording | None = None,
) -> Task:
    """The embedded task; `options` are `max_number` and `max_target`, the limits of the space."""
    settings = {**DEFAULTS, **(options or {})}
    for name, value in settings.items():
        if name not in DEFAULTS:
            raise UserError(f"countdown has no option {name!r}: it has {', '.join(DEFAULTS)}")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 999:
            raise UserError(f"countdown's {name} is {value!r}: give a whole number from 1 to 999")
    train, test = _split(**settings, fraction=test_fraction, wording=wording or Wording())
    return Task("countdown", train, test, grade)


@lru_cache(maxsize=4)  # a study makes the same one for each of its runs
def _split(
    max_number: int, max_target: int, fraction: float, wording: Wording
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The prompts to train on and the held-out ones."""
    prompts: list[Prompt] = []
    for problem in problems(max_number, max_target):
        name = f"countdown/{question(problem)}"
        messages = wording.dress([{"role": "user", "content": question(problem)}], name)
        prompts.append(Prompt(name, messages, problem))
    train, test = hash_split(prompts, fraction, key=lambda prompt: split_key(prompt.gold))
    return tuple(train), tuple(test)
