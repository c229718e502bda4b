"""`grade` and `Grader`: from a response's text to a verdict."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Self, Unpack

from erclip.grading import guards
from erclip.grading.equality import is_list, is_readable, meets, same_text
from erclip.grading.extract import Announced, check_formats, extract_answer
from erclip.grading.gold import Gold
from erclip.grading.pool import Pool
from erclip.grading.scalars import plain_scalar, value_scalar
from erclip.records import Grade, Reason

CACHE_SIZE = 65_536
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")


class Grader:
    """Grades responses; algebra runs in worker processes that start at the first need of them.

    Verdicts do not depend on the order, the batch or the calling thread.

    workers: processes for answers that the calling process cannot decide (about one in 260).
    time_limit_s: wall-clock seconds after which a worker is killed and replaced; its item gets the
        reason `timeout`. A worker also stops itself after a quarter as many CPU seconds, so that a
        verdict does not depend on how busy the machine is.
    """

    def __init__(self, workers: int = 2, time_limit_s: float = 2.0) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1: {workers}")
        if not time_limit_s > 0:
            raise ValueError(f"time_limit_s must be positive: {time_limit_s}")
        self._workers, self._time_limit_s = workers, time_limit_s
        self._pool = Pool(workers, time_limit_s)
        self._cache: dict[tuple[Gold, str], Reason] = {}

    def grade(
        self,
        response: str,
        gold: str | Gold,
        *,
        truncated: bool = False,
        **announced: Unpack[Announced],
    ) -> Grade:
        """The verdict on one response; see `grade_batch`."""
        return self.grade_batch([(response, gold)], truncated=[truncated], **announced)[0]

    def grade_batch(
        self,
        pairs: Sequence[tuple[str, str | Gold]],
        *,
        truncated: Sequence[bool] | None = None,
        **announced: Unpack[Announced],
    ) -> list[Grade]:
        """Verdicts on (response, gold) pairs, in their order; `grade` has the options."""
        check_formats(announced.get("formats", ()))
        flags = [False] * len(pairs) if truncated is None else truncated
        grades: list[Grade | None] = []
        waiting: dict[tuple[Gold, str], list[int]] = {}
        for (response, gold), cut in zip(pairs, flags, strict=True):
            gold = Gold.of(gold)
            joins = gold.is_multiple or is_list(gold)
            answer = extract_answer(response, all_boxes=joins, **announced)
            reason = quick_reason(gold, answer, cut) or self._cache.get((gold, answer or ""))
            if reason is None:
                waiting.setdefault((gold, answer or ""), []).append(len(grades))
            grades.append(None if reason is None else _grade(answer, reason))
        for key, reason in self._decide(list(waiting)).items():
            for position in waiting[key]:
                grades[position] = _grade(key[1], reason)
        return [grade for grade in grades if grade is not None]

    def ask(self, tasks: Sequence[Mapping[str, object]]) -> list[Reason]:
        """Run tasks of `erclip.grading.tasks` in the workers; the verdicts in their order."""
        return [reply["verdict"] for reply in self._run(tasks)]

    def _run(self, tasks: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
        if not tasks:
            return []
        if self._pool.was_forked:  # after a fork; the parent keeps its workers
            self._pool = Pool(self._workers, self._time_limit_s)
        return self._pool.run([dict(task) for task in tasks])

    def _decide(self, keys: list[tuple[Gold, str]]) -> dict[tuple[Gold, str], Reason]:
        """The workers' verdicts; what a clock or a kill decided is not remembered."""
        replies = self._run(
            [{"kind": "ours", "gold": asdict(gold), "answer": answer} for gold, answer in keys]
        )
        pairs = list(zip(keys, replies, strict=True))
        if len(self._cache) + len(pairs) > CACHE_SIZE:
            self._cache.clear()
        self._cache.update({key: r["verdict"] for key, r in pairs if not r.get("stopped")})
        return {key: reply["verdict"] for key, reply in pairs}

    def check_golds(self, golds: Mapping[str, str | Gold]) -> dict[str, Reason]:
        r"""The ids of golds that do not verify against themselves, with the reason.

        A response spelled exactly like such a gold is still graded correct, but no other form of
        the right answer may be: name them when a benchmark is loaded.

        >>> Grader().check_golds({"fine": "2", "tower": "5^{5^{5^{5^5}}}"})
        {'tower': 'guarded'}
        """
        failures: dict[str, Reason] = {}
        asked: list[str] = []
        tasks: list[dict[str, object]] = []
        for name, gold in ((name, Gold.of(gold)) for name, gold in golds.items()):
            for answer in [", ".join(gold.answers)] if gold.is_multiple else gold.answers:
                if not guards.is_fair(answer):
                    failures[name] = "guarded"
                    break
                if not meets(gold, answer, value_scalar):
                    asked.append(name)
                    tasks.append({"kind": "self", "gold": asdict(gold), "answer": answer})
        reasons = zip(asked, self.ask(tasks), strict=True)
        failures.update({name: reason for name, reason in reasons if reason != "correct"})
        return {name: failures[name] for name in golds if name in failures}

    def close(self) -> None:
        """Stop the worker processes; a later call starts new ones."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def quick_reason(gold: Gold, answer: str | None, truncated: bool = False) -> Reason | None:
    """The verdict that needs no algebra, or None."""
    if not answer:
        return "truncated" if truncated else "no_answer"
    if answer in gold.answers and not gold.is_multiple:
        return "correct"
    if (
        len(gold.answers) == 1
        and _INTEGER.fullmatch(answer)
        and _INTEGER.fullmatch(gold.answers[0])
    ):
        if int(answer) == int(gold.answers[0]):
            return "correct"
        if gold.tolerance is None and gold.unit is None and not gold.is_multiple:
            return "wrong"
    if not all(map(guards.is_fair, (answer, *gold.answers))):
        return "guarded"
    try:
        verdict = same_text(gold, answer) or meets(gold, answer, plain_scalar)
    except RecursionError:  # the caller's own stack is nearly full
        return "guarded"
    if verdict is False and not is_readable(answer):
        return "parse_error"
    return None if verdict is None else "correct" if verdict else "wrong"


def _grade(answer: str | None, reason: Reason) -> Grade:
    kept = answer[: guards.MAX_CHARS] if answer else None
    return Grade(correct=reason == "correct", answer=kept, reason=reason)


@lru_cache(maxsize=1)
def _default_grader() -> Grader:
    return Grader(workers=min(2, os.cpu_count() or 1))


def grade(
    response: str, gold: str | Gold, *, truncated: bool = False, **announced: Unpack[Announced]
) -> Grade:
    r"""Grade one response with a shared `Grader` of two workers.

    formats: how an answer may be announced, names of `erclip.grading.extract.FORMATS` in the order
        in which they are tried.
    after_think: grade only the text after the last `</think>`; without one there is no answer.
    last_number: if nothing is announced, take the last number in the text.
    truncated: the response hit its length limit; without an answer the reason is then `truncated`.

    >>> grade(r"The sum is \boxed{\frac{3}{6}}.", "1/2")
    Grade(correct=True, answer='\\frac{3}{6}', reason='correct')
    >>> grade("I am not sure.", "1/2").reason
    'no_answer'
    """
    return _default_grader().grade(response, gold, truncated=truncated, **announced)
