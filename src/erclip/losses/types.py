"""The records that flow through a policy loss, and the types of what they flow through.

Letters: B responses (rows), T token positions, N tokens inside the mask of a whole mini-batch,
K tokens of the vocabulary at each position.
Index t scores token t of the response. Log-probs and entropies are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "B T"]
Flags = Bool[Tensor, "B T"]
TopTokens = Float[Tensor, "B T K"]
Scalar = Float[Tensor, ""]

Statistics = Mapping[str, Mapping[str, float]]
"""What the parts of a loss measured of a whole mini-batch: part → name → number."""


@dataclass(frozen=True)
class LossInputs:
    """Everything that a part may look at; masked-out positions hold zeros.

    Gradient flows through `logprobs`, `ratio` (π_θ/π_old), `live_entropies` and `top_logprobs`,
    through nothing else. The optional fields are there if the caller gave them; a part that reads
    one says so in its `needs`.
    """

    logprobs: Tokens
    old_logprobs: Tokens
    ratio: Tokens
    advantages: Tokens
    mask: Flags
    entropies: Tokens | None = None
    old_entropies: Tokens | None = None
    live_entropies: Tokens | None = None
    """The entropies with their gradient, for terms that raise or lower them."""
    entropy_slopes: Tokens | None = None
    """⟨∇_z log π(a), ∇_z H⟩ = E_π[S] − S_a with S_j = p_j (log p_j + H): its sign times the
    advantage's is the direction in which an update on this token moves this position's entropy."""
    entropy_slope_means: Tokens | None = None
    """E_π[S] = Σ_j p_j S_j."""
    sampler_logprobs: Tokens | None = None
    """Of whoever drew the tokens, where that was not the trainer's own old policy."""
    top_logprobs: TopTokens | None = None
    """Of the K tokens that the sampler held likeliest at each position, whichever it drew."""
    sampler_top_logprobs: TopTokens | None = None
    """The sampler's own of the same, −inf where there are fewer."""
    reference_logprobs: Tokens | None = None
    """Of a frozen reference model."""
    correct: Flags | None = None
    """Tokens of correct responses."""
    lots: Tokens | None = None
    """One uniform number in [0, 1) per token, for choices by chance."""
    clipped: Mapping[str, Flags] = field(default_factory=dict)
    """What the surrogate reported; constraints and terms see it."""
    statistics: Mapping[str, float] = field(default_factory=dict)
    """This part's own statistics of the whole mini-batch."""


class SurrogateOutput(NamedTuple):
    """Objective per token (to be maximised), and by name the tokens on which each bound acts."""

    objective: Tokens
    clipped: Mapping[str, Flags] = {}


class ConstraintOutput(NamedTuple):
    """Tokens on which the rule acts, by the name it is reported under.

    A clipped token loses its gradient. If there are `weights`, they alone say which share of its
    gradient each token keeps (a product, where there are several), and `clipped` only reports.
    """

    clipped: Mapping[str, Flags] = {}
    weights: Mapping[str, Tokens] = {}


SurrogateFn = Callable[[LossInputs], SurrogateOutput]
ConstraintFn = Callable[[LossInputs], ConstraintOutput]
ImportanceFn = Callable[[LossInputs], Tokens]
Aggregate = Callable[[Tokens, Flags, "float | Tensor"], Tensor]
Gather = Callable[[Float[Tensor, " N"]], Float[Tensor, " M"]]


@dataclass(frozen=True)
class LossOutput:
    """The scalar loss, and per token what fired; every logged fraction is counted from these.

    Whatever acted is reported under the name that its part gave it. `clipped`: False outside the
    mask. `weights`: the share of gradient that each token keeps, 1 outside the mask. `terms`: costs
    before their weights, 0 outside the mask. `ratio` is π_θ/π_old; `entropy_ratio` is None when no
    entropies were given.
    """

    loss: Scalar
    ratio: Tokens
    entropy_ratio: Tokens | None
    clipped: Mapping[str, Flags] = field(default_factory=dict)
    weights: Mapping[str, Tokens] = field(default_factory=dict)
    terms: Mapping[str, Tokens] = field(default_factory=dict)

    def flags(self, name: str) -> Flags:
        """The tokens on which a rule acted; none for a rule that the loss does not have."""
        found = self.clipped.get(name)
        return torch.zeros_like(self.ratio, dtype=torch.bool) if found is None else found

    @property
    def ppo_low(self) -> Flags:
        """Below the surrogate's range, A < 0: no gradient under PPO-clip, a bounded one in GPPO."""
        return self.flags("ppo_low")

    @property
    def ppo_high(self) -> Flags:
        """Above the surrogate's range, A > 0."""
        return self.flags("ppo_high")

    @property
    def dual(self) -> Flags:
        """Past the dual clip: no gradient."""
        return self.flags("dual")

    @property
    def erc_low(self) -> Flags:
        """Entropy ratio below ERC's band: no gradient, or what a soft band leaves."""
        return self.flags("erc_low")

    @property
    def erc_high(self) -> Flags:
        """Entropy ratio above ERC's band."""
        return self.flags("erc_high")

    @property
    def random(self) -> Flags:
        """Taken away by the random mask."""
        return self.flags("random")


class LossFn(Protocol):
    """A composed policy loss, as `policy_loss(...)` makes it: what a trainer calls.

    `needs` are the optional inputs that its parts read.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Names of optional inputs."""
        ...

    def __call__(
        self,
        *,
        logprobs: Float[Tensor, "B T"],
        old_logprobs: Float[Tensor, "B T"],
        advantages: Float[Tensor, "B T"] | Float[Tensor, "B 1"] | Float[Tensor, " B"],
        mask: Bool[Tensor, "B T"],
        entropies: Float[Tensor, "B T"] | None = None,
        old_entropies: Float[Tensor, "B T"] | None = None,
        entropy_slopes: Float[Tensor, "B T"] | None = None,
        entropy_slope_means: Float[Tensor, "B T"] | None = None,
        sampler_logprobs: Float[Tensor, "B T"] | None = None,
        top_logprobs: Float[Tensor, "B T K"] | None = None,
        sampler_top_logprobs: Float[Tensor, "B T K"] | None = None,
        reference_logprobs: Float[Tensor, "B T"] | None = None,
        correct: Bool[Tensor, "B T"] | Bool[Tensor, "B 1"] | Bool[Tensor, " B"] | None = None,
        lots: Float[Tensor, "B T"] | None = None,
        num_tokens: float | Tensor | None = None,
        statistics: Statistics | None = None,
    ) -> LossOutput:
        """Loss of one (micro-)batch; see `policy_loss`."""
        ...
