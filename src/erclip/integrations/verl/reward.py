"""Our grader as verl's `reward.custom_reward_function`: algebra in workers that can be killed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from erclip.grading import Grader
from erclip.grading.extract import DEFAULT_FORMATS
from erclip.tasks.rows import read_gold


@functools.cache
def _grader() -> Grader:
    return Grader(workers=1)  # one per reward worker of verl, started at the first need


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    correct: float = 1.0,
    wrong: float = -1.0,
    missing_think: float | None = None,
    after_think: bool = False,
    last_number: bool = False,
    answer_formats: Sequence[str] = DEFAULT_FORMATS,
    **_: Any,
) -> dict[str, Any]:
    """correct or wrong, overridden by missing_think; what else verl logs per response.

    The gold may be whatever a data file of `load_task` may hold: a number, text, a list of
    alternatives, a list in JSON text, a worked solution.

    >>> compute_score("math", "so <b>x</b> is \\\\boxed{4}", "4")["score"]
    1.0
    >>> compute_score("math", "4, or not", "4", missing_think=-0.5)["score"]
    -0.5
    """
    grade = _grader().grade(
        solution_str,
        read_gold(ground_truth, "ground_truth"),
        formats=tuple(answer_formats),
        after_think=after_think,
        last_number=last_number,
    )
    score = correct if grade.correct else wrong
    if missing_think is not None and "</think>" not in solution_str:
        score = missing_think
    return {"score": score, "acc": grade.correct, "pred": grade.answer or ""}
