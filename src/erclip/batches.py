"""Graded groups → TokenBatch: what one forward pass of the trainer reads.

Letters: B responses, L prompt plus response tokens (right-padded), T response tokens, N = tokens
inside the mask. Index t of a [B, T] tensor scores token t of the response.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erclip.records import Grade, Prompt, Response


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


@dataclass(frozen=True)
class TokenBatch:
    """A micro-batch: inputs of one forward pass, and the tokens to be scored.

    `hidden_index` points into the flattened [B·L] hidden states, at the position before each scored
    token; `token_index` points into flattened [B·T]. Both run over the same N tokens as `targets`.
    `mask` is where the loss acts; it can be empty for a truncated response (overlong filtering).
    """

    input_ids: Int[Tensor, "B L"]
    attention_mask: Int[Tensor, "B L"]
    hidden_index: Int[Tensor, " N"]
    token_index: Int[Tensor, " N"]
    targets: Int[Tensor, " N"]
    mask: Bool[Tensor, "B T"]
    advantages: Float[Tensor, " B"]
    correct: Bool[Tensor, " B"]
    sampler_logprobs: Float[Tensor, "B T"]
    num_tokens: int
    samples: tuple[Sample, ...]


def make_batch(
    samples: Sequence[Sample], *, pad_id: int, device: torch.device, mask_truncated: bool = False
) -> TokenBatch:
    """Pad responses to one rectangle; `mask_truncated` is DAPO's overlong filtering."""
    responses = [sample.response for sample in samples]
    width = max(len(r.prompt_ids) + len(r.token_ids) for r in responses)
    span = max(len(r.token_ids) for r in responses)
    ids = torch.full((len(samples), width), pad_id)
    attention = torch.zeros_like(ids)
    mask = torch.zeros(len(samples), span, dtype=torch.bool)
    sampled = torch.zeros(len(samples), span)
    hidden_index, token_index, targets = [], [], []
    for row, response in enumerate(responses):
        prompt, length = len(response.prompt_ids), len(response.token_ids)
        ids[row, : prompt + length] = torch.tensor(response.prompt_ids + response.token_ids)
        attention[row, : prompt + length] = 1
        sampled[row, :length] = torch.tensor(response.logprobs)
        if mask_truncated and response.truncated:
            continue
        mask[row, :length] = True
        start = row * width + prompt - 1
        hidden_index.extend(range(start, start + length))
        token_index.extend(range(row * span, row * span + length))
        targets.extend(response.token_ids)
    return TokenBatch(
        input_ids=ids.to(device),
        attention_mask=attention.to(device),
        hidden_index=torch.tensor(hidden_index, dtype=torch.long, device=device),
        token_index=torch.tensor(token_index, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        mask=mask.to(device),
        advantages=torch.tensor([s.advantage for s in samples], device=device),
        correct=torch.tensor([s.grade.correct for s in samples], device=device),
        sampler_logprobs=sampled.to(device),
        num_tokens=len(targets),
        samples=tuple(samples),
    )


def mini_batches(groups: Sequence[Group], count: int, rng: random.Random) -> list[list[Group]]:
    """Shuffle groups and deal them into `count` mini-batches whose sizes differ by at most one.

    With fewer groups than `count`, each mini-batch holds one group and there are fewer of them.
    """
    shuffled = list(groups)
    rng.shuffle(shuffled)
    count = min(count, len(shuffled))
    bounds = [round(i * len(shuffled) / count) for i in range(count + 1)] if count else []
    return [shuffled[a:b] for a, b in pairwise(bounds)]


def micro_batches(samples: Iterable[Sample], token_budget: int) -> list[list[Sample]]:
    """Split a mini-batch so that rows × longest row stays within `token_budget` padded tokens.

    Rows of similar length share a micro-batch. A row longer than the budget stands alone. The split
    changes memory and speed, never the loss: all micro-batches share the mini-batch's denominator.
    """
    by_length = sorted(samples, key=_length)
    batches: list[list[Sample]] = []
    for sample in by_length:
        if batches and (len(batches[-1]) + 1) * _length(sample) <= token_budget:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches


def deal(samples: Sequence[Sample], shares: int) -> list[list[Sample]]:
    """Shares of about the same number of tokens, one per process; a single one keeps the order.

    Longest first, each to the share that has the least so far.
    """
    if shares == 1:
        return [list(samples)]
    dealt: list[list[Sample]] = [[] for _ in range(shares)]
    loads = [0] * shares
    for sample in sorted(samples, key=_length, reverse=True):
        lightest = loads.index(min(loads))
        dealt[lightest].append(sample)
        loads[lightest] += _length(sample)
    return dealt


def empty_batch(*, pad_id: int, device: torch.device) -> TokenBatch:
    """One position and no token to score: keeps a process in step that has nothing left to do."""
    nothing = Response(Prompt("", (), None), (pad_id,), (pad_id,), "", True, (0.0,))
    sample = Sample(nothing, Grade(False, None, "truncated"), 0.0, 0.0)
    return make_batch([sample], pad_id=pad_id, device=device, mask_truncated=True)


def _length(sample: Sample) -> int:
    return len(sample.response.prompt_ids) + len(sample.response.token_ids)
