"""Logits → tokens: one draw per row, from a uniform number that belongs to that row alone.

A token is read off the cumulative distribution where it passes the row's uniform number. So a
response depends on its own seed and its own logits, never on what else is in the batch, and a step
costs one random number per row instead of one per row and vocabulary entry.

Letters: B sequences, V vocabulary, T longest response, K tokens that are recorded beside the drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erclip.records import TopTokens
from erclip.training.sampling.base import SamplingSettings


class Draw(NamedTuple):
    """A token per row with its log-prob, and how much of the distribution top_p left, 1 if all.

    `top_ids` and `top_logprobs` are of the K likeliest tokens.
    """

    token: Int[Tensor, " B"]
    logprob: Float[Tensor, " B"]
    nucleus: Float[Tensor, " B"]
    top_ids: Int[Tensor, "B K"]
    top_logprobs: Float[Tensor, "B K"]


BLOCK = 1 << 18  # probabilities at a time: 1 MiB, and 2 MiB of their sums


def uniforms(seeds: Sequence[int], responses: int, length: int) -> Float[Tensor, "B T"]:
    """Numbers in [0, 1): row i·responses + g is the g-th stream of seeds[i]; float64.

    >>> several, one = uniforms([7, 8], 3, 4), uniforms([8], 3, 4)
    >>> bool((several[3:] == one).all())
    True
    """
    streams = [np.random.default_rng([seed, g]) for seed in seeds for g in range(responses)]
    return torch.from_numpy(np.stack([stream.random(length) for stream in streams]))


def sample_token(
    logits: Float[Tensor, "B V"],
    temperature: float,
    top_p: float,
    uniform: Float[Tensor, " B"],
    top: int = 0,
) -> Draw:
    """Draw a token per row; log-probs (nats) are at the temperature, before the nucleus cut.

    token = min {v : Σ_{w ≤ v} p_w > u · Σ p}, so a token of probability zero is never drawn. Logits
    that are NaN give a NaN log-prob, and some token. On a CPU a few rows at a time, whose numbers
    stay in its cache.
    """
    rows = max(1, BLOCK // logits.shape[1])
    if logits.device.type != "cpu" or len(logits) <= rows:
        return _draw(logits, temperature, top_p, uniform, top)
    blocks = zip(logits.split(rows), uniform.split(rows), strict=True)
    drawn = [_draw(block, temperature, top_p, own, top) for block, own in blocks]
    return Draw(*map(torch.cat, zip(*drawn, strict=True)))


def _draw(logits: Tensor, temperature: float, top_p: float, uniform: Tensor, top: int) -> Draw:
    logprobs = torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    probs = logprobs.exp()
    if top_p < 1:
        probs = nucleus(probs, top_p)
    mass = probs.cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)
    token = token.clamp(max=logits.shape[-1] - 1)
    likeliest = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    logprob, left = logprobs.gather(1, token).squeeze(1), mass[:, -1]
    return Draw(token.squeeze(1), logprob, left, likeliest.indices, likeliest.values)


class Drawn:
    """All that has been drawn for B sequences; what nobody asks for has no length."""

    def __init__(self, count: int, settings: SamplingSettings, vocabulary: int, device: Any):
        length, top = settings.max_tokens, min(settings.top, vocabulary)
        cut, asked = length * (settings.top_p < 1), length * (top > 0)
        self.tokens = torch.full((count, length), -1, device=device)
        self.logprobs = torch.zeros((count, length), device=device)
        self._nuclei = torch.zeros((count, cut), device=device)
        self._ids = torch.zeros((count, asked, top), dtype=torch.int32, device=device)
        self._top = torch.zeros((count, asked, top), device=device)

    def put(self, step: int, rows: Int[Tensor, " R"], live: Bool[Tensor, " R"], draw: Draw) -> None:
        """One step of the sequences `rows`; those that are not live have ended before."""
        own = rows[live]
        self.tokens[own, step] = draw.token[live]
        self.logprobs[own, step] = draw.logprob[live]
        if self._nuclei.numel():
            self._nuclei[own, step] = draw.nucleus[live].float()
        if self._top.numel():
            self._ids[own, step] = draw.top_ids[live].int()
            self._top[own, step] = draw.top_logprobs[live]

    def rows(self, versions: Sequence[int]) -> list[dict[str, Any]]:
        """What `Reader.response` is told of each sequence."""
        lengths = (self.tokens >= 0).sum(1).tolist()
        ids, top = self._ids.cpu().numpy(), self._top.cpu().numpy()
        rows = zip(self.tokens.tolist(), self.logprobs.tolist(), lengths, strict=True)
        return [
            {
                "token_ids": row[:n],
                "logprobs": values[:n],
                "versions": versions[:n],
                "top": TopTokens(ids[i, :n].tobytes(), top[i, :n].tobytes()) if top.size else None,
                "nucleus": self._nuclei[i, :n].mean().item() if self._nuclei.numel() else None,
            }
            for i, (row, values, n) in enumerate(rows)
        ]


def nucleus(probs: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B V"]:
    """Zero all but the smallest set of most likely tokens whose mass reaches top_p (1904.09751).

    >>> nucleus(torch.tensor([[0.5, 0.3, 0.2]]), 0.6).tolist()
    [[0.5, 0.30000001192092896, 0.0]]
    """
    ordered, index = probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probs).scatter(-1, index, ordered)
