"""The specification: all logits at once, in the accumulation dtype.

Letters: N tokens, D hidden size, V vocabulary; z logits after softcap and temperature, nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erclip.ops.matmul import accumulation_dtype
from erclip.ops.options import HeadOptions, check_targets

Scores = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: HeadOptions
) -> Scores:
    """log π_a, H, m − S_a and m = Σ p_j S_j, S_j = p_j (log p_j + H); autograd does the rest."""
    check_targets(targets, weight.shape[0])
    dtype = accumulation_dtype(hidden)
    z = torch.nn.functional.linear(
        hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    )
    if options.softcap is not None:
        z = options.softcap * torch.tanh(z / options.softcap)
    return scores_from_logits(z / options.temperature, targets, options.slopes)


def scores_from_logits(z: Tensor, targets: Tensor, slopes: bool) -> Scores:
    """log π_a, H, slope and mean slope of ready logits [N V], at the temperature already."""
    log_p = torch.log_softmax(z, dim=-1)
    p = log_p.exp()
    p_log_p = p * log_p.masked_fill(log_p == -torch.inf, 0.0)
    entropies = -p_log_p.sum(-1)
    index = targets.long()[:, None]
    logprobs = log_p.gather(1, index)[:, 0]
    if not slopes:
        return logprobs, entropies, None, None
    s = (p_log_p + p * entropies[:, None]).detach()
    mean = (p.detach() * s).sum(-1)
    return logprobs, entropies, mean - s.gather(1, index)[:, 0], mean
