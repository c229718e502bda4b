"""Terms that are added to a policy loss rather than woven into it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from erclip.losses.types import MAX_LOG_RATIO, Flags, Tokens


def positive_nll(logprobs: Tokens, mask: Flags, num_tokens: float | Tensor) -> Tensor:
    """−Σ log π(a_t) / N over the tokens of correct responses: imitation of what already worked.

    `mask` marks the tokens of correct responses, `num_tokens` counts them over the whole
    mini-batch. ERC's reference code adds 0.1 of it and does not mask it by ERC; the paper does not
    mention it.

    >>> positive_nll(torch.tensor([[-0.5, -1.5]]), torch.tensor([[True, True]]), 2).item()
    1.0
    """
    return -torch.where(mask, logprobs, 0.0).sum() / num_tokens


def kl_penalty(
    logprobs: Tokens,
    reference_logprobs: Tokens,
    mask: Flags,
    num_tokens: float | Tensor,
    estimator: Literal["k1", "k2", "k3"] = "k3",
) -> Tensor:
    """Σ k(d_t) / N, d = log π − log π_ref: how far the policy is from a reference, in nats.

    Schulman, "Approximating KL Divergence" (2020): k1 = d and k3 = e^−d − 1 + d are unbiased for
    KL(π‖π_ref) under π's own tokens, k2 = d²/2 is not but has less variance. A good value is not
    yet a good gradient. That of k1 has mean zero and penalises nothing; that of k2, d·∇log π, is
    the gradient of KL(π‖π_ref); that of k3, (1 − e^−d)·∇log π, is the gradient of KL(π_ref‖π).
    So k1 is given k2's gradient here. k3 is GRPO's penalty (2402.03300). Tokens of an older policy
    are taken as they are: no importance weight corrects them.

    k3 grows as e^−d, and so does its gradient: one token that the policy has all but given up would
    outweigh the batch. As in verl a token's k3 is cut at 10 nats, which d = −2.61 reaches: its
    gradient is 12.6 at most, and 0 beyond. For d > 0 it is below 1, and not cut.

    >>> one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    >>> [round(kl_penalty(one, zero, one.bool(), 1, k).item(), 4) for k in ("k1", "k2", "k3")]
    [1.0, 0.5, 0.3679]
    """
    gap = torch.where(mask, logprobs - reference_logprobs.detach(), 0.0)
    gap = gap.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k3":
        per_token = torch.exp(-gap) - 1 + gap
        per_token = torch.where(gap < 0, per_token.clamp(max=10.0), per_token)
    else:
        per_token = 0.5 * gap**2
        if estimator == "k1":
            per_token = per_token + (gap - per_token).detach()
    return per_token.sum() / num_tokens


def entropy_bonus(entropies: Tokens, mask: Flags, num_tokens: float | Tensor) -> Tensor:
    """−Σ H_t / N, to be added to a loss: its gradient raises the entropy of every token.

    `entropies` must carry gradient, as those of `erclip.ops.linear_logprob_entropy` do.

    >>> entropy_bonus(torch.tensor([[0.5, 1.5]]), torch.tensor([[True, True]]), 2).item()
    -1.0
    """
    return -torch.where(mask, entropies, 0.0).sum() / num_tokens
