"""Score centering: what the sampler would teach on average, whatever the rewards, is taken away.

Letters: B responses, T tokens, K tokens of the vocabulary that the sampler holds likeliest; p is
the policy in training, q the sampler.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from erclip.losses.checks import above, at_least
from erclip.losses.parts import Term
from erclip.losses.types import LossInputs, Tokens, TopTokens

SMALLEST_TAIL = 1e-6  # of probability beyond the K tokens: 1 − Σ rounds to 0 and below


@dataclass(frozen=True, repr=False)
class score_centering(Term):
    """weight · Σ_t A_t Σ_v sg(q_v w_v − α p_v) · log p_v / N: takes the sampler's mean score away.

    Where p and q differ, the expected update at a position is E_q[A] · E_q[∇log p] plus
    Cov_q(A, ∇log p). The first part says nothing of rewards: it pulls the policy to its sampler,
    and what samples next is that policy. "Score Centering Stabilizes Off-policy Reinforcement
    Learning" (2609.20807) subtracts E_q[w ∇log p], so that it is zero. The sum runs over the
    sampler's `top` likeliest tokens; of the others only the mass is known, and they are taken to
    share it as they do in p: with ρ = (1 − Σ q_v)/(1 − Σ p_v) and a weight w = min(p/q, cap),

        q_v w_v = min(p_v, cap q_v),   α = min(1, cap ρ);

    without `cap` w is 1 and α is ρ. The weight has to be the surrogate's: `reinforce()` without a
    cap, `truncated_reinforce(cap)` with one. Nothing is left to take away for p = q, and for an
    infinite cap. Tokens that a constraint drops are centred as well. Only the gradient of this cost
    means something; its value also tells how small the tails are.

    >>> q, p = torch.tensor([[[0.5, 0.3]]]).log(), torch.tensor([[[0.4, 0.4]]]).log()
    >>> loss_fn = policy_loss(reinforce(), terms=[score_centering()])
    >>> zero = torch.zeros(1, 1)
    >>> loss_fn(logprobs=zero, old_logprobs=zero, advantages=zero + 1, mask=zero == 0,
    ...         top_logprobs=p.requires_grad_(), sampler_top_logprobs=q).loss.backward()
    >>> [round(x, 4) for x in p.grad.flatten().tolist()]  # tails of 0.2 and 0.2: ρ = 1
    [0.1, -0.1]
    """

    weight: float = 1.0
    cap: float | None = None
    top: int = 128

    def __post_init__(self) -> None:
        at_least(self, 0, "weight")
        at_least(self, 1, "top")
        if self.cap is not None:
            above(self, 0, "cap")

    @property
    def needs(self) -> frozenset[str]:
        """Both policies' log-probs of the sampler's likeliest tokens."""
        return frozenset({"top_logprobs", "sampler_top_logprobs"})

    def __call__(self, inputs: LossInputs) -> Tokens:
        """A · Σ_v c_v log p_v of each token; gradient flows through log p alone."""
        top, sampler = inputs.top_logprobs, inputs.sampler_top_logprobs
        assert top is not None
        assert sampler is not None
        known = sampler > -torch.inf  # fewer than K stand there where the vocabulary is smaller
        coefficients = _coefficients(top.detach(), sampler, known, self.cap)
        scores = torch.where(known, coefficients * top, 0.0).sum(-1)
        return inputs.advantages * scores


def _coefficients(
    top: TopTokens, sampler: TopTokens, known: Bool[Tensor, "B T K"], cap: float | None
) -> TopTokens:
    """c_v = q_v w_v − α p_v."""
    p, q = (torch.where(known, x, -torch.inf).double().exp() for x in (top, sampler))
    p_tail, q_tail = ((1 - x.sum(-1, keepdim=True)).clamp(min=SMALLEST_TAIL) for x in (p, q))
    tails = q_tail / p_tail
    if cap is None:
        return (q - tails * p).to(top.dtype)
    weighted = torch.where(known, torch.minimum(p, cap * q.clamp(min=1e-300)), 0.0)
    return (weighted - (cap * tails).clamp(max=1.0) * p).to(top.dtype)
