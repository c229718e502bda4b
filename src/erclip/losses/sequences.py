"""Constraints that look at whole responses: a row of [B, T] must be one, not packed tokens."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from erclip.losses.parts import Constraint
from erclip.losses.ratios import (
    Anchor,
    Rows,
    check_anchor,
    log_ratio,
    row_max,
    row_mean,
)
from erclip.losses.trust_region import Threshold
from erclip.losses.types import ConstraintOutput, LossInputs

Statistic = Literal["geometric", "k2_max", "k3_mean"]


@dataclass(frozen=True, repr=False)
class sequence_mask(Constraint):
    """Drop a response whose tokens, taken together, have moved too far from the anchor's.

    With x_t = log π_θ − log π_anchor, the response's number s is, by `statistic`,

    - `geometric`: exp(mean_t x_t), kept in [1 − low, 1 + high], 0.01 on both sides if not given
      (as in verl's and SkyRL's geometric masks);
    - `k2_max`: max_t x_t²/2, and `k3_mean`: mean_t (e^x_t − 1 − x_t), which estimates
      KL(anchor‖θ); kept up to `high` nats (Trust Region Masking, 2512.23075). They have no `low`.

    Reported as `sequence_low` and `sequence_high`.

    >>> loss_fn = policy_loss(reinforce(), [sequence_mask("geometric", low=0.1, high=0.1)])
    >>> logprobs = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
    >>> out = loss_fn(logprobs=logprobs, old_logprobs=logprobs, advantages=torch.ones(2),
    ...     mask=torch.ones(2, 2).bool(),
    ...     sampler_logprobs=torch.tensor([[-1.3, -1.1], [-1.3, -0.7]]))
    >>> out.clipped["sequence_high"].tolist()  # e^0.2 and e^0
    [[True, True], [False, False]]
    """

    statistic: Statistic = "geometric"
    low: float | None = None
    high: float | None = None
    _: KW_ONLY
    anchor: Anchor = "sampler"

    def __post_init__(self) -> None:
        check_anchor(self.anchor)
        if self.statistic not in get_args(Statistic):
            known = ", ".join(get_args(Statistic))
            raise ValueError(f"statistic must be one of {known}, not {self.statistic!r}.")
        for name in ("low", "high"):
            bound = getattr(self, name)
            if bound is not None and not bound >= 0:
                raise ValueError(f"{name} of sequence_mask must be at least 0, not {bound}.")
        if self.statistic != "geometric" and (self.low is not None or self.high is None):
            raise ValueError(
                f"{self.statistic} grows from 0 and is bounded by `high` alone, in nats, which "
                f"has no default; low is {self.low} and high is {self.high}."
            )

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """All tokens of the responses that are out of bounds."""
        lowest, highest = self._bounds()
        number = self._number(inputs)
        return ConstraintOutput(
            {"sequence_low": number < lowest, "sequence_high": ~(number <= highest)}
        )

    def _bounds(self) -> tuple[float, float]:
        if self.statistic != "geometric":
            assert self.high is not None
            return -math.inf, self.high
        low = 0.01 if self.low is None else self.low
        return 1 - low, 1 + (0.01 if self.high is None else self.high)

    def _number(self, inputs: LossInputs) -> Rows:
        gap = log_ratio(inputs, self.anchor).detach()
        if self.statistic == "geometric":
            return row_mean(gap, inputs.mask).exp()
        if self.statistic == "k2_max":
            return row_max(gap**2 / 2, inputs.mask)
        return row_mean(gap.exp() - 1 - gap, inputs.mask)


@dataclass(frozen=True, repr=False)
class off_policy_sequence_mask(Threshold):
    """Drop a response with A < 0 if mean_t (log π_anchor − log π_θ) > threshold, in nats.

    DeepSeek-V3.2's off-policy sequence mask: a bad response that the policy has already left
    teaches little and pushes far. A response may have tokens of both signs; those with A < 0 are
    dropped. Reported as `off_policy_sequence`.

    >>> loss_fn = policy_loss(reinforce(), [off_policy_sequence_mask(threshold=0.1)])
    >>> logprobs = torch.tensor([[-1.5, -1.1], [-1.5, -1.1]])
    >>> out = loss_fn(logprobs=logprobs, old_logprobs=logprobs, mask=torch.ones(2, 2).bool(),
    ...     advantages=torch.tensor([-1.0, 1.0]), sampler_logprobs=-torch.ones(2, 2))
    >>> out.clipped["off_policy_sequence"].tolist()  # both have left by 0.3 nats
    [[True, True], [False, False]]
    """

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """The tokens of A < 0 in responses that have gone too far."""
        gone = -row_mean(log_ratio(inputs, self.anchor).detach(), inputs.mask)
        far = (gone > self.threshold) & (inputs.advantages < 0)
        return ConstraintOutput({"off_policy_sequence": far})
