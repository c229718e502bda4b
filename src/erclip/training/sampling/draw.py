"""Logits → tokens: one draw per row, from a uniform number that belongs to that row alone.

A token is read off the cumulative distribution where it passes the row's uniform number. So a
response depends on its own seed and its own logits, never on what else is in the batch, and a step
costs one random number per row instead of one per row and vocabulary entry.

Letters: B sequences, V vocabulary, T longest response.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

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
    logits: Float[Tensor, "B V"], temperature: float, top_p: float, uniform: Float[Tensor, " B"]
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """Draw a token per row; its log-prob (nats) is at the temperature, before the nucleus cut.

    token = min {v : Σ_{w ≤ v} p_w > u · Σ p}, so a token of probability zero is never drawn. Logits
    that are NaN give a NaN log-prob, and some token. On a CPU a few rows at a time, whose numbers
    stay in its cache.
    """
    rows = max(1, BLOCK // logits.shape[1])
    if logits.device.type != "cpu" or len(logits) <= rows:
        return _draw(logits, temperature, top_p, uniform)
    blocks = zip(logits.split(rows), uniform.split(rows), strict=True)
    drawn = [_draw(block, temperature, top_p, own) for block, own in blocks]
    tokens, logprobs = zip(*drawn, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _draw(
    logits: Tensor, temperature: float, top_p: float, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    logprobs = torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    probs = logprobs.exp()
    if top_p < 1:
        probs = nucleus(probs, top_p)
    mass = probs.cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)
    token = token.clamp(max=logits.shape[-1] - 1)
    return token.squeeze(1), logprobs.gather(1, token).squeeze(1)


def nucleus(probs: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B V"]:
    """Zero all but the smallest set of most likely tokens whose mass reaches top_p (1904.09751).

    >>> nucleus(torch.tensor([[0.5, 0.3, 0.2]]), 0.6).tolist()
    [[0.5, 0.30000001192092896, 0.0]]
    """
    ordered, index = probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probs).scatter(-1, index, ordered)
