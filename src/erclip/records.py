"""The nouns on the data's path, one frozen record each.

Prompt → Response → Grade → reward → advantage → TokenBatch → loss → update → metrics → report.
This module needs neither torch nor transformers; tensors first appear in `batches.TokenBatch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
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
class TopTokens:
    """The sampler's K likeliest tokens at each of T positions, most likely first.

    `ids` are T·K int32 and `logprobs` T·K float32 (nats, as those of the response), row by row in
    this machine's byte order. −inf stands for a token that is not there.
    """

    ids: bytes
    logprobs: bytes


@dataclass(frozen=True)
class Response:
    """One sampled answer to one prompt.

    `token_ids` end with the end-of-sequence token unless `truncated`. `logprobs` are the sampler's
    own (nats, at the sampling temperature), one per token. `versions` says the same of the weights:
    how many updates they had behind them when they drew each token; empty where one version drew
    the whole rollout. `top` are there if a rule asks for them. `nucleus` is the probability of what
    top_p left to draw from, a mean over the tokens; None where nothing was cut, or nobody knows.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    truncated: bool
    logprobs: tuple[float, ...]
    versions: tuple[int, ...] = ()
    top: TopTokens | None = None
    nucleus: float | None = None


@dataclass(frozen=True)
class Grade:
    """The verdict on one response, with the answer that was read and the reason for the verdict."""

    correct: bool
    answer: str | None
    reason: Reason


@dataclass(frozen=True)
class Sample:
    """One response with everything that was decided about it.

    `number` is its place among all that its rollout sampled; −1 outside a rollout.
    """

    response: Response
    grade: Grade
    reward: float
    advantage: float
    number: int = -1


@dataclass(frozen=True)
class Group:
    """All responses to one prompt; `number` is its place in its rollout, −1 outside one."""

    samples: tuple[Sample, ...]
    number: int = -1


def numbered(groups: Iterable[Group], before: Sequence[Group] = ()) -> list[Group]:
    """The groups with their numbers and their samples' numbers, counted on from those `before`."""
    places = count(sum(len(group.samples) for group in before))
    return [
        Group(tuple(replace(sample, number=next(places)) for sample in group.samples), number)
        for number, group in enumerate(groups, start=len(before))
    ]
