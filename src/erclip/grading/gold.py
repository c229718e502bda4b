"""What a correct answer is: the fields that public benchmarks (OlympiadBench) attach to a gold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gold:
    r"""A correct answer and how to compare with it.

    answers: alternatives, one of which must be met; with `is_multiple` all of them must, in any
        order, and each may itself be a comma-separated list.
    unit: the unit of the answer; a response may leave it out, but not state another known one.
        A unit of "%" makes `4.2`, `4.2\%` and `0.042` the same answer.
    tolerance: largest absolute difference that still counts as correct, in the answer's unit.

    >>> Gold.of("1/2")
    Gold(answers=('1/2',), is_multiple=False, unit=None, tolerance=None)
    """

    answers: tuple[str, ...]
    is_multiple: bool = False
    unit: str | None = None
    tolerance: float | None = None

    def __str__(self) -> str:
        """The answers and their unit, for reports."""
        joined = (", " if self.is_multiple else " or ").join(self.answers)
        return f"{joined} {self.unit}" if self.unit else joined

    def __post_init__(self) -> None:
        """Refuse golds that no response could meet, before a run spends a week on them."""
        if isinstance(self.answers, str) or not self.answers:
            raise ValueError(f"gold answers must be a non-empty tuple of strings: {self.answers!r}")
        for answer in self.answers:
            if not isinstance(answer, str) or not answer.strip():
                raise ValueError(f"gold answer must be a non-empty string: {answer!r}")
        if self.tolerance is not None and not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"gold tolerance must be finite and >= 0: {self.tolerance!r}")

    @staticmethod
    def of(gold: str | Gold) -> Gold:
        r"""A plain string is a single answer, a JSON list of strings (Skywork) are alternatives.

        >>> Gold.of(r'["50\\\\%"]').answers, Gold.of("[1,2]").answers
        (('50\\\\%',), ('[1,2]',))
        """
        if isinstance(gold, Gold):
            return gold
        if gold.lstrip().startswith('["'):
            with suppress(ValueError, RecursionError):
                answers = json.loads(gold)
                if answers and all(isinstance(a, str) and a.strip() for a in answers):
                    return Gold(tuple(answers))
        return Gold((gold,))

    @staticmethod
    def from_fields(fields: Mapping[str, Any]) -> Gold:
        """A gold from a JSON object; unknown fields are refused."""
        if unknown := set(fields) - {"answers", "is_multiple", "unit", "tolerance"}:
            raise ValueError(f"unknown fields of a gold: {sorted(unknown)}")
        if isinstance(fields["answers"], str):
            raise ValueError(f"gold answers must be a list of strings: {fields['answers']!r}")
        return Gold(
            answers=tuple(fields["answers"]),
            is_multiple=bool(fields.get("is_multiple", False)),
            unit=fields.get("unit"),
            tolerance=fields.get("tolerance"),
        )
