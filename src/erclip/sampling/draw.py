"""Logits → tokens: one draw per row.

Letters: B sequences, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sample_token(
    logits: Float[Tensor, "B V"], temperature: float, top_p: float, generator: torch.Generator
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """Draw a token per row; its log-prob (nats) is at the temperature, before the nucleus cut."""
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    probs = logprobs.exp()
    if top_p < 1:
        probs = nucleus(probs, top_p)
    token = torch.multinomial(probs, 1, generator=generator)
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
