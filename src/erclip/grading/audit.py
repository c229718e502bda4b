r"""Grades saved responses twice, with our grader and with plain math-verify, and lists where they
disagree: the quickest way to see what a grader does to one's own data.

math-verify sees the whole response, as in its documentation, inside our worker processes: its own
timeouts raise outside the main thread and do not stop big-integer arithmetic.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from erclip.errors import UserError
from erclip.grading.exact import parse_number
from erclip.grading.extract import THINK_END, Announced
from erclip.grading.gold import Gold
from erclip.grading.grader import Grader
from erclip.grading.guards import is_fair
from erclip.grading.scalars import quantity
from erclip.grading.structure import read
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


@dataclass
class KindCount:
    """How the graders fared on one kind of answer; the four errors need rows with a label."""

    responses: int = 0
    only_ours: int = 0  # correct for us, not for math-verify
    only_theirs: int = 0
    our_false_positives: int = 0
    our_false_negatives: int = 0
    their_false_positives: int = 0
    their_false_negatives: int = 0

    def add(self, ours: bool, theirs: bool, label: bool | None) -> None:
        """Count one response."""
        self.responses += 1
        self.only_ours += ours > theirs
        self.only_theirs += theirs > ours
        if label is not None:
            self.our_false_positives += ours > label
            self.our_false_negatives += label > ours
            self.their_false_positives += theirs > label
            self.their_false_negatives += label > theirs


@dataclass(frozen=True)
class Audit:
    """Counts of both graders' verdicts, and the responses on which they differ."""

    responses: int
    ours: Mapping[str, int]
    theirs: Mapping[str, int]
    disagreements: tuple[Disagreement, ...]
    kinds: Mapping[str, KindCount]
    is_labelled: bool

    @property
    def agreement_frac(self) -> float:
        """Share of responses that both call correct or neither does; 1 for an empty file."""
        return 1.0 - len(self.disagreements) / self.responses if self.responses else 1.0


def audit(
    path: str | Path,
    *,
    workers: int = 2,
    time_limit_s: float = 2.0,
    **announced: Unpack[Announced],
) -> Audit:
    r"""Compare the two graders on a JSONL file with the fields `response` and `gold`.

    `gold` is a string, or an object with the fields of `Gold`. A row with a `kind` is counted under
    it and its `correct` is a label; others are counted by the kind of their gold. Our options do
    not change what math-verify sees, except that `after_think` cuts the thoughts off for both.
    """
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    kinds: defaultdict[str, KindCount] = defaultdict(KindCount)
    disagreements: list[Disagreement] = []
    is_labelled = False
    with Grader(workers=workers, time_limit_s=time_limit_s) as grader:
        for rows in _batches(Path(path)):
            grades = grader.grade_batch([(row.response, row.gold) for row in rows], **announced)
            plain = grader.ask([_plain_task(row, announced) for row in rows])
            for row, grade, verdict in zip(rows, grades, plain, strict=True):
                ours[grade.reason] += 1
                theirs[verdict] += 1
                kinds[row.kind].add(grade.correct, verdict == "correct", row.label)
                is_labelled = is_labelled or row.label is not None
                if grade.correct != (verdict == "correct"):
                    disagreements.append(_disagreement(row, grade, verdict))
    counts = (ours.total(), dict(ours), dict(theirs))
    return Audit(*counts, tuple(disagreements), dict(kinds), is_labelled)


def kind_of(gold: Gold) -> str:
    r"""What a gold is, in a few words.

    >>> kind_of(Gold.of("12")), kind_of(Gold.of(r"5\text{ cm}")), kind_of(Gold.of("x+1"))
    ('integer', 'integer with a unit', 'expression')
    """
    if len(gold.answers) > 1:
        return "several answers, all wanted" if gold.is_multiple else "alternatives"
    if not is_fair(gold.answers[0]):
        return "beyond the limits"
    answer = read(gold.answers[0]).answer
    if answer.open is not None:
        return "matrix" if answer.open == "matrix" else "list, tuple, set or interval"
    value = quantity(answer.text)
    number = parse_number(value.value)
    if number is None:
        return "words" if '"' in value.value else "expression"
    kind = "integer" if number.value.denominator == 1 else "fraction or decimal"
    return f"{kind} with a unit" if value.unit else kind


class Row(NamedTuple):
    """One line of the file."""

    line: int
    response: str
    gold: Gold
    kind: str
    label: bool | None


def _batches(path: Path) -> Iterator[list[Row]]:
    rows: list[Row] = []
    if path.is_char_device():  # some never end
        raise UserError(f"{path} is a device; give a file of responses")
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
        kind = fields.get("kind")
        label = bool(fields["correct"]) if kind and "correct" in fields else None
        read_gold = _gold(gold)
        return Row(number, response, read_gold, kind or kind_of(read_gold), label)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}, line {number}: expected an object with `response` and `gold` ({error!r})"
        ) from error


def _gold(gold: Any) -> Gold:
    return Gold.from_fields(gold) if isinstance(gold, Mapping) else Gold.of(str(gold))


def _plain_task(row: Row, announced: Announced) -> dict[str, object]:
    text, response = ", ".join(row.gold.answers), row.response
    if announced.get("after_think"):
        response = response.rpartition(THINK_END)[2]
    return {"kind": "plain", "gold": text if "$" in text else f"${text}$", "response": response}


def _disagreement(row: Row, grade: Grade, verdict: Reason) -> Disagreement:
    return Disagreement(row.line, str(row.gold), grade.answer, grade.reason, verdict)
