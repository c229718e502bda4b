"""The records that flow through a policy loss, and the four roles a part can play in it.

Letters: B responses (rows), T token positions. Index t scores token t of the response.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "B T"]
Flags = Bool[Tensor, "B T"]

MAX_LOG_RATIO = 20.0  # nats; every log ratio is clamped to ± this before it is an exponent


@dataclass(frozen=True)
class LossInputs:
    """Everything a surrogate or a constraint may look at; masked-out positions hold zeros.

    Log-probabilities and entropies are in nats. Only `logprobs` and `ratio` carry gradient.
    `entropy_slopes` is ⟨∇_z log π(a_t), ∇_z H⟩: its sign times the advantage's is the direction in
    which an update on this token moves this position's entropy. `sampler_logprobs` are those of
    whoever drew the tokens, where that was not the trainer's own old policy.
    """

    logprobs: Tokens
    old_logprobs: Tokens
    ratio: Tokens
    advantages: Tokens
    mask: Flags
    entropies: Tokens | None = None
    old_entropies: Tokens | None = None
    entropy_slopes: Tokens | None = None
    sampler_logprobs: Tokens | None = None


class SurrogateOutput(NamedTuple):
    """Objective per token (to be maximised) and the tokens on which each of its bounds acts."""

    objective: Tokens
    ppo_low: Flags
    ppo_high: Flags
    dual: Flags


class ConstraintOutput(NamedTuple):
    """Tokens that lose their gradient, by the reason they lose it.

    `kept` is the share of its gradient that such a token keeps; None is nothing.
    """

    erc_low: Flags | None = None
    erc_high: Flags | None = None
    random: Flags | None = None
    kept: Tokens | None = None


Surrogate = Callable[[LossInputs], SurrogateOutput]
Constraint = Callable[[LossInputs], ConstraintOutput]
Importance = Callable[[LossInputs], Tokens]
Aggregate = Callable[[Tokens, Flags, "float | Tensor"], Tensor]


@dataclass(frozen=True)
class LossOutput:
    """The scalar loss, and per token what fired; every logged fraction is counted from these.

    All flags are False outside the mask. A token in `ppo_low`/`ppo_high` has zero gradient under
    PPO-clip, a bounded one under GPPO, and a capped weight under CISPO; a token in `dual`,
    `erc_low`, `erc_high` or `random` has zero gradient under every surrogate, or the share that a
    soft constraint leaves it.
    `entropy_ratio` is None when no entropies were given.
    """

    loss: Float[Tensor, ""]
    ratio: Tokens
    entropy_ratio: Tokens | None
    ppo_low: Flags
    ppo_high: Flags
    dual: Flags
    erc_low: Flags
    erc_high: Flags
    random: Flags
