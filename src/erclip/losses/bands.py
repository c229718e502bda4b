"""PPO-clip whose bounds follow from a trust region in probabilities, token by token."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch

from erclip.losses.checks import at_least, one_of
from erclip.losses.parts import Surrogate
from erclip.losses.ratios import Anchor, anchor_logprobs, check_anchor, ratio_to
from erclip.losses.surrogates import clip
from erclip.losses.types import LossInputs, SurrogateOutput, Tokens

Divergence = Literal["tv", "chi2", "kl"]
HALVINGS = 60  # of an interval of probabilities: more than float64 can tell apart


@dataclass(frozen=True, repr=False)
class bandpo(Surrogate):
    """PPO-clip with the bounds on r at which the Bernoulli divergence from μ is `radius`.

    Band (2603.04918) projects a trust region on the sampled token: μ is the anchor's probability,
    and the probability π of the token may lie where, against all other tokens as one,

    - `tv`:   |π − μ| ≤ radius, so 1 ± radius/μ;
    - `chi2`: (π − μ)²/(μ (1 − μ)) ≤ radius, so 1 ± √(radius (1 − μ)/μ);
    - `kl`:   KL(μ‖π) ≤ radius nats, by bisection.

    The rarer a token, the further its ratio may go. Bounds end at the probabilities 0 and 1.
    Reported as `ppo_low` and `ppo_high`.

    >>> logprobs = torch.tensor([[0.09, 0.6]]).log().requires_grad_()
    >>> old = torch.tensor([[0.03, 0.5]]).log()  # bounds of 1 ± 1.67 and 1 ± 0.1
    >>> out = policy_loss(bandpo("tv", radius=0.05))(logprobs=logprobs, old_logprobs=old,
    ...     advantages=torch.ones(1), mask=torch.ones(1, 2).bool())
    >>> out.ppo_high.tolist()
    [[True, True]]
    """

    divergence: Divergence = "tv"
    radius: float = 0.05
    _: KW_ONLY
    anchor: Anchor = "old"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        one_of(self, "divergence", Divergence)
        at_least(self, 0, "radius")

    def __call__(self, inputs: LossInputs) -> SurrogateOutput:
        """PPO's value, and no gradient past the token's own bounds."""
        logprobs = anchor_logprobs(inputs, self.anchor)
        low, high = self.bounds(logprobs)
        return clip(ratio_to(inputs, self.anchor), inputs.advantages, 1 - low, high - 1)

    def bounds(self, logprobs: Tokens) -> tuple[Tokens, Tokens]:
        """The least and the largest ratio for tokens of these log-probs under the anchor."""
        mu = logprobs.exp()
        if self.divergence == "kl":
            lowest, highest = _kl_bounds(logprobs, self.radius)
            return lowest / mu, highest / mu
        rest = (-torch.expm1(logprobs)).clamp(min=0)
        reach = self.radius / mu if self.divergence == "tv" else (self.radius * rest / mu).sqrt()
        return (1 - reach).clamp(min=0), torch.minimum(1 + reach, 1 / mu)


def _kl_bounds(logprobs: Tokens, radius: float) -> tuple[Tokens, Tokens]:
    """The two probabilities π with KL(μ‖π) = radius: one in (0, μ], one in [μ, 1)."""
    mu, rest = logprobs.exp().clamp(max=1), (-torch.expm1(logprobs)).clamp(min=0)
    found = []
    for edge in (torch.zeros_like(mu), torch.ones_like(mu)):
        outside, inside = edge, mu
        for _ in range(HALVINGS):
            middle = (outside + inside) / 2
            near = _divergence(mu, rest, middle) <= radius
            inside, outside = torch.where(near, middle, inside), torch.where(near, outside, middle)
        found.append(inside)
    return found[0], found[1]


def _divergence(mu: Tokens, rest: Tokens, p: Tokens) -> Tokens:
    """KL(μ‖p) as Bernoulli, with rest = 1 − μ."""
    one = torch.where(mu > 0, mu * (mu / p).log(), 0.0)
    return one + torch.where(rest > 0, rest * (rest / (1 - p)).log(), 0.0)
