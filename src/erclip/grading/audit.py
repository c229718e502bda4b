r"""Grades saved responses twice, with our grader and with plain math-verify, and lists where they
disagree: the quickest way to see what a grader does to one's own data.

math-verify sees the whole response, as in its documentation, inside our worker processes: its own
timeouts raise outside the main thread and do not stop big-integer arithmetic.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erclip.errors import UserError
from erclip.grading.gold import Gold
from erclip.grading.grader import Grader
from erclip.records import Grade, Reason

BATCH = 512


@dataclass(frozen=True)
class Disagreement:
    """One response on which the graders differ. `theirs` is `correct`, `wrong` or how it failed."""

    line: int
    gold: str
    answer: str | None
    ours: Reason
    theirs: Reason


@dataclass(frozen=True)
class Audit:
    """Counts of both graders' verdicts, and the responses on which they differ."""

    responses: int
    ours: Mapping[str, int]
    theirs: Mapping[str, int]
    disagreements: tuple[Disagreement, ...]

    @property
    def agreement_frac(self) -> float:
        """Share of responses that both call correct or neither does; 1 for an empty file."""
        return 1.0 - len(self.disagreements) / self.responses if self.responses else 1.0


def audit(
    path: str | Path,
    *,
    workers: int = 2,
    time_limit_s: float = 2.0,
    after_think: bool = False,
    last_number: bool = False,
) -> Audit:
    r"""Compare the two graders on a JSONL file with the fields `response` and `gold`.

    `gold` is a string, or an object with the fields of `Gold`. Our options do not change what
    math-verify sees, except that `after_think` cuts the thoughts off for both.
    """
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    disagreements: list[Disagreement] = []
    with Grader(workers=workers, time_limit_s=time_limit_s) as grader:
        for rows in _batches(Path(path)):
            grades = grader.grade_batch(
                [(response, gold) for _, response, gold in rows],
                after_think=after_think,
                last_number=last_number,
            )
            plain = grader.ask([_plain_task(*row[1:], after_think) for row in rows])
            for row, grade, verdict in zip(rows, grades, plain, strict=True):
                ours[grade.reason] += 1
                theirs[verdict] += 1
                if grade.correct != (verdict == "correct"):
                    disagreements.append(_disagreement(row, grade, verdict))
    return Audit(ours.total(), dict(ours), dict(theirs), tuple(disagreements))


Row = tuple[int, str, Gold]


def _batches(path: Path) -> Iterator[list[Row]]:
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_row(path, number, line))
                if len(rows) == BATCH:
                    yield rows
                    rows = []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if rows:
        yield rows


def _row(path: Path, number: int, line: str) -> Row:
    try:
        fields = json.loads(line)
        response, gold = fields["response"], fields["gold"]
        if not isinstance(response, str):
            raise TypeError(f"response must be a string, not {type(response).__name__}")
        return number, response, _gold(gold)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}, line {number}: expected an object with `response` and `gold` ({error!r})"
        ) from error


def _gold(gold: Any) -> Gold:
    return Gold.from_fields(gold) if isinstance(gold, Mapping) else Gold.of(str(gold))


def _plain_task(response: str, gold: Gold, after_think: bool) -> dict[str, object]:
    text = ", ".join(gold.answers)
    if after_think:
        response = response.rpartition("</think>")[2]
    return {"kind": "plain", "gold": text if "$" in text else f"${text}$", "response": response}


def _disagreement(row: Row, grade: Grade, verdict: Reason) -> Disagreement:
    number, _, gold = row
    return Disagreement(number, ", ".join(gold.answers), grade.answer, grade.reason, verdict)
