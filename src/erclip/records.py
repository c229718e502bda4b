"""The nouns on the data's path, one frozen record each.

Prompt → Response → Grade → reward → advantage → TokenBatch → loss → update → metrics → report.
This module needs neither torch nor transformers; tensors first appear in `batches.TokenBatch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, str]

Reason = Literal[
    "correct", "wrong", "no_answer", "parse_error", "timeout", "truncated", "guarded", "flipped"
]


@dataclass(frozen=True)
class Prompt:
    """One problem: what the model is asked, and what a correct answer is.

    `messages` are chat messages, rendered by the tokenizer's chat template; a tokenizer without a
    template gets the contents joined by newlines. `gold` is whatever the task's grader compares
    with. `id` is stable across runs: splits and paired comparisons rest on it.
    """

    id: str
    messages: tuple[Message, ...]
    gold: Any
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """One sampled answer to one prompt.

    `token_ids` end with the end-of-sequence token unless `truncated`. `logprobs` are the sampler's
    own (nats, at the sampling temperature), one per token.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    truncated: bool
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Grade:
    """The verdict on one response, with the answer that was read and the reason for the verdict."""

    correct: bool
    answer: str | None
    reason: Reason


@dataclass(frozen=True)
class Sample:
    """One response with everything that was decided about it."""

    response: Response
    grade: Grade
    reward: float
    advantage: float


@dataclass(frozen=True)
class Group:
    """All responses to one prompt."""

    samples: tuple[Sample, ...]
