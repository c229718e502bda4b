"""Constraints that bound how far the probability of a sampled token may move from its anchor's.

A ratio is a poor measure where probabilities are small: 1e-4 may triple and hardly change the
policy. These rules look at probabilities instead.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from erclip.losses.parts import Constraint
from erclip.losses.ratios import Anchor, anchor_logprobs, check_anchor
from erclip.losses.types import ConstraintOutput, LossInputs


@dataclass(frozen=True, repr=False)
class dppo_tv(Constraint):
    """Drop if A > 0 and π − μ > high, or A ≤ 0 and π − μ < −low; μ is the anchor's probability.

    DPPO with the total variation of the sampled token (2602.04879): a token whose probability has
    moved far enough is not pushed further out, and is always let back. Reported as `dppo_low` and
    `dppo_high`.

    >>> p = torch.tensor([[0.5, 0.003]])  # of 0.2 and 0.001: a ratio of 3 is no distance
    >>> out = policy_loss(reinforce(), [dppo_tv(0.2, 0.2)])(
    ...     logprobs=p.log(), old_logprobs=p.log(), advantages=torch.ones(1),
    ...     mask=torch.ones(1, 2).bool(), sampler_logprobs=torch.tensor([[0.2, 0.001]]).log())
    >>> out.clipped["dppo_high"].tolist()
    [[True, False]]
    """

    low: float = 0.2
    high: float = 0.2
    _: KW_ONLY
    anchor: Anchor = "sampler"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        for name in ("low", "high"):
            distance = getattr(self, name)
            if not distance >= 0:
                raise ValueError(
                    f"{name} is a difference of probabilities and must be at least 0, "
                    f"not {distance}."
                )

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Tokens that are past their bound and would move on."""
        moved = inputs.logprobs.detach().exp() - anchor_logprobs(inputs, self.anchor).exp()
        rising = inputs.advantages > 0
        return ConstraintOutput(
            {"dppo_low": ~rising & (moved < -self.low), "dppo_high": rising & (moved > self.high)}
        )
