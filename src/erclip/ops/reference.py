"""The specification: all logits at once, in the accumulation dtype.

Letters: N tokens, D hidden size, V vocabulary, K given ids; z logits after softcap and temperature,
nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erclip.ops.matmul import accumulation_dtype
from erclip.ops.options import HeadOptions, check_targets

Scores = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


def reference(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    options: HeadOptions,
    top_ids: Tensor | None = None,
) -> Scores:
    """log π_a, H, m − S_a, m = Σ p_j S_j with S_j = p_j (log p_j + H), and log π of `top_ids`."""
    check_targets(targets, weight.shape[0])
    dtype = accumulation_dtype(hidden)
    z = torch.nn.functional.linear(
        hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    )
    if options.softcap is not None:
        z = options.softcap * torch.tanh(z / options.softcap)
    return scores_from_logits(z / options.temperature, targets, options.slopes, top_ids)


def scores_from_logits(
    z: Tensor, targets: Tensor, slopes: bool, top_ids: Tensor | None = None
) -> Scores:
    """The same of ready logits [N V], at the temperature already; autograd does the rest."""
    log_p = torch.log_softmax(z, dim=-1)
    p = log_p.exp()
    p_log_p = p * log_p.masked_fill(log_p == -torch.inf, 0.0)
    entropies = -p_log_p.sum(-1)
    index = targets.long()[:, None]
    logprobs = log_p.gather(1, index)[:, 0]
    top = None if top_ids is None else log_p.gather(1, top_ids.long())
    if not slopes:
        return logprobs, entropies, None, None, top
    s = (p_log_p + p * entropies[:, None]).detach()
    mean = (p.detach() * s).sum(-1)
    return logprobs, entropies, mean - s.gather(1, index)[:, 0], mean, top
