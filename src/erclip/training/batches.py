"""Graded groups → TokenBatch: what one forward pass of the trainer reads.

Letters: B responses, R rows, L positions of the longest row, T response tokens, N = tokens inside
the mask. Index t of a [B, T] tensor scores token t of the response.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erclip.records import Grade, Group, Prompt, Response, Sample, TopTokens
from erclip.training.packing import Row, lay_out, single_rows


@dataclass(frozen=True)
class TokenBatch:
    """A micro-batch: inputs of one forward pass, and the tokens to be scored.

    `inputs` are the trunk's arguments (R rows, see `packing`). `hidden_index` points into its
    flattened [R·L] hidden states, at the position before each scored token; `token_index` points
    into flattened [B·T]. Both run over the same N tokens as `targets`, and so do `top_ids`, the
    sampler's K likeliest tokens, where its responses have them.
    `mask` is where the loss acts; it can be empty for a truncated response (overlong filtering).
    """

    inputs: Mapping[str, Tensor]
    hidden_index: Int[Tensor, " N"]
    token_index: Int[Tensor, " N"]
    targets: Int[Tensor, " N"]
    mask: Bool[Tensor, "B T"]
    advantages: Float[Tensor, " B"]
    correct: Bool[Tensor, " B"]
    sampler_logprobs: Float[Tensor, "B T"]
    num_tokens: int
    samples: tuple[Sample, ...]
    top_ids: Int[Tensor, "N K"] | None = None
    sampler_top_logprobs: Float[Tensor, "B T K"] | None = None


def make_batch(
    rows: Sequence[Row],
    *,
    pad_id: int,
    device: torch.device,
    mask_truncated: bool = False,
    one_version: bool = False,
) -> TokenBatch:
    """The tensors of some rows; `mask_truncated` is DAPO's overlong filtering.

    With `one_version` the loss acts on a response up to the first token of newer weights.
    """
    inputs, predictors = lay_out(rows, pad_id)
    samples = [sample for row in rows for sample in row.samples]
    span = max(len(sample.response.token_ids) for sample in samples)
    sampled, spans = [], []
    hidden_index, targets = [], []
    for sample, before in zip(samples, predictors, strict=True):
        response, length = sample.response, len(sample.response.token_ids)
        sampled.append((*response.logprobs, *[0.0] * (span - length)))
        if mask_truncated and response.truncated:
            length = 0
        elif one_version and response.versions:
            length = response.versions.count(response.versions[0])
        spans.append(length)
        hidden_index += before[:length]
        targets += response.token_ids[:length]
    mask = torch.arange(span) < torch.tensor(spans)[:, None]
    top_ids, top_logprobs = top_tokens([sample.response for sample in samples], span)
    return TokenBatch(
        inputs={name: tensor.to(device) for name, tensor in inputs.items()},
        hidden_index=torch.tensor(hidden_index, dtype=torch.long, device=device),
        token_index=mask.flatten().nonzero().squeeze(1).to(device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        mask=mask.to(device),
        advantages=torch.tensor([s.advantage for s in samples], device=device),
        correct=torch.tensor([s.grade.correct for s in samples], device=device),
        sampler_logprobs=torch.tensor(sampled, device=device),
        num_tokens=len(targets),
        samples=tuple(samples),
        top_ids=None if top_ids is None else top_ids[mask].to(device),
        sampler_top_logprobs=None if top_logprobs is None else top_logprobs.to(device),
    )


def top_tokens(
    responses: Sequence[Response], span: int
) -> tuple[Int[Tensor, "B T K"] | None, Float[Tensor, "B T K"] | None]:
    """Ids and log-probs of the sampler's likeliest tokens; None where nobody recorded them.

    Where a response has none, or fewer than another, id 0 stands with a log-prob of −inf.
    """
    if all(response.top is None for response in responses):
        return None, None
    rows = []
    for response in responses:
        length = len(response.token_ids)
        read = response.top or TopTokens(b"", b"")
        ids, logprobs = (
            torch.from_numpy(np.frombuffer(part, kind).reshape(length, -1).copy())
            for part, kind in ((read.ids, np.int32), (read.logprobs, np.float32))
        )
        rows.append((ids, logprobs))
    most = max(ids.shape[1] for ids, _ in rows)
    all_ids = torch.zeros((len(rows), span, most), dtype=torch.int32)
    all_logprobs = torch.full((len(rows), span, most), -torch.inf)
    for row, (ids, logprobs) in enumerate(rows):
        all_ids[row, : len(ids), : ids.shape[1]] = ids
        all_logprobs[row, : len(ids), : ids.shape[1]] = logprobs
    return all_ids, all_logprobs


def mini_batches(groups: Sequence[Group], count: int, rng: random.Random) -> list[list[Group]]:
    """Shuffle groups and deal them into `count` mini-batches whose sizes differ by at most one.

    With fewer groups than `count`, each mini-batch holds one group and there are fewer of them.
    """
    shuffled = list(groups)
    rng.shuffle(shuffled)
    count = min(count, len(shuffled))
    bounds = [round(i * len(shuffled) / count) for i in range(count + 1)] if count else []
    return [shuffled[a:b] for a, b in pairwise(bounds)]


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
    return make_batch(single_rows([sample]), pad_id=pad_id, device=device, mask_truncated=True)


def _length(sample: Sample) -> int:
    return len(sample.response.prompt_ids) + len(sample.response.token_ids)
