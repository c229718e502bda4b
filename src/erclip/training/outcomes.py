"""What one response came to, and what the responses to a set of problems add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from erclip.grading.equality import spelling_key
from erclip.records import Grade, Response
from erclip.statistics import majority, mean_interval, pass_at


@dataclass(frozen=True)
class Outcome:
    """The facts of one response that numbers are made of; `entropy` is the mean over its tokens."""

    correct: bool
    answer: str | None
    reason: str
    truncated: bool
    tokens: int
    entropy: float | None = None  # nats

    @staticmethod
    def of(response: Response, grade: Grade, entropy: float | None = None) -> Outcome:
        """A graded response without its text."""
        return Outcome(
            grade.correct,
            grade.answer,
            grade.reason,
            response.truncated,
            len(response.token_ids),
            entropy,
        )


def summarise(problems: Sequence[Sequence[Outcome]]) -> dict[str, Any]:
    """Every number of one set: P problems with k outcomes each, or more where a set repeats some.

    k is the smallest number of outcomes; pass@j for j = 1, 2, 4, … and k. The entropy is a mean
    over tokens, all other numbers are means over problems or responses.
    """
    flat = [outcome for outcomes in problems for outcome in outcomes]
    k = min(map(len, problems))
    counts = [(sum(o.correct for o in outcomes), len(outcomes)) for outcomes in problems]
    sizes = sorted({2**i for i in range(k.bit_length())} & set(range(1, k)) | {k})
    return {
        "problems": len(problems),
        "k": k,
        "avg_at_k": mean_interval([c / n for c, n in counts]).as_json(),
        "pass_at": {str(j): fmean(pass_at(c, n, j) for c, n in counts) for j in sizes},
        "maj_at_k": fmean(
            majority((answer_key(o.answer), o.correct) for o in outcomes) for outcomes in problems
        ),
        "truncated_frac": fmean(outcome.truncated for outcome in flat),
        "no_answer_frac": fmean(not outcome.answer for outcome in flat),
        "response_length": fmean(outcome.tokens for outcome in flat),
        "entropy": _token_mean(flat),
        "reasons": dict(Counter(outcome.reason for outcome in flat).most_common()),
    }


def answer_key(answer: str | None) -> Hashable | None:
    r"""What two answers share when they count as one vote: the exact number, or the spelling.

    Cheap on purpose: `2\sqrt2` and `\sqrt8` are two votes; `18`, `18.0` and `\$18` are one, `1,2`
    and `12` are not.

    >>> answer_key("1,200") == answer_key("1200.0"), answer_key("x + 1") == answer_key("x+1")
    (True, True)
    """
    return spelling_key(answer) if answer else None


def _token_mean(outcomes: Iterable[Outcome]) -> float | None:
    scored = [(o.entropy, o.tokens) for o in outcomes if o.entropy is not None]
    tokens = sum(count for _, count in scored)
    return sum(entropy * count for entropy, count in scored) / tokens if tokens else None
