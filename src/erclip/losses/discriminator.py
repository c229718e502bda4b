"""Rules that drop the bad tokens whose update would take the most entropy away.

To first order an update on token a moves the entropy by A · (E_π[S] − S_a), where
S_j = p_j (log p_j + H) is the entropy discriminator of 2602.03392. For A < 0 a large E_π[S] − S_a
is a rare token pushed down: entropy falls. The two rules differ in the baseline of S.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from erclip.losses.checks import at_least, share
from erclip.losses.parts import Constraint, MiniBatchRule
from erclip.losses.types import ConstraintOutput, LossInputs, Tokens


@dataclass(frozen=True, repr=False)
class clip_b(Constraint, MiniBatchRule):
    """Drop A < 0 with S − mean S < −scale · sd S, moments over the mini-batch.

    Clip_B (2602.03392), S = π_old (log π_old + H_old) of the sampled token: the old policy's, so
    that the moments cost nothing. sd divides by N. Reported as `clip_b`.

    >>> loss_fn = policy_loss(reinforce(), [clip_b(scale=1.0)])
    >>> x = torch.tensor([[0.9, 0.8, 0.9, 0.1]]).log()
    >>> out = loss_fn(logprobs=x, old_logprobs=x, advantages=-torch.ones(1),
    ...     mask=torch.ones(1, 4).bool(), old_entropies=torch.full((1, 4), 0.5))
    >>> out.clipped["clip_b"].tolist()
    [[False, False, False, True]]
    """

    scale: float = 2.5

    def __post_init__(self) -> None:
        at_least(self, 0, "scale")

    @property
    def needs(self) -> frozenset[str]:
        """The old policy's entropies."""
        return frozenset({"old_entropies"})

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """S of the sampled token."""
        return {"discriminator": _discriminator(inputs)}

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Mean and standard deviation."""
        return _moments(values["discriminator"])

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Bad tokens far below the mean."""
        mean, deviation = inputs.statistics["mean"], inputs.statistics["deviation"]
        below = _discriminator(inputs) - mean < -self.scale * deviation
        return ConstraintOutput({"clip_b": below & (inputs.advantages < 0)})


@dataclass(frozen=True, repr=False)
class clip_v(Constraint, MiniBatchRule):
    """Drop A < 0 with D = E_π[S] − S_a > scale · sd D, at most `fraction` of the tokens.

    Clip_V (2602.03392) takes the baseline over the vocabulary, E_π[S] = Σ_j p_j S_j, which makes D
    the slope ⟨∇_z log π(a), ∇_z H⟩ that the directional rule of ERC uses as well: −∂H/∂z_j = S_j,
    and ∇_z log π(a) = e_a − p. It is the current policy's, so that its moments take a forward pass
    without gradient at every update. The tokens of largest D go first, max(⌊fraction · N⌋, 1) of
    them and those that tie. sd divides by N. Reported as `clip_v`.

    >>> loss_fn = policy_loss(reinforce(), [clip_v(scale=1.0, fraction=0.25)])
    >>> x = torch.zeros(1, 4)
    >>> out = loss_fn(logprobs=x, old_logprobs=x, advantages=-torch.ones(1),
    ...     mask=torch.ones(1, 4).bool(), entropy_slopes=torch.tensor([[0.0, 0.1, 0.9, 1.0]]))
    >>> out.clipped["clip_v"].tolist()  # sd is 0.45: two are beyond it, one may go
    [[False, False, False, True]]
    """

    scale: float = 8.5
    fraction: float = 1e-4

    def __post_init__(self) -> None:
        at_least(self, 0, "scale")
        share(self, "fraction")

    @property
    def needs(self) -> frozenset[str]:
        """The slopes of the entropy."""
        return frozenset({"entropy_slopes"})

    @property
    def measures_current(self) -> bool:
        """It looks at the current policy's slopes."""
        return True

    def measure(self, inputs: LossInputs) -> Mapping[str, Tokens]:
        """D, and the advantage."""
        assert inputs.entropy_slopes is not None
        return {"slope": inputs.entropy_slopes, "advantage": inputs.advantages}

    def summarise(
        self, values: Mapping[str, Float[Tensor, " N"]], previous: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The bound on D, and the least D among the few that may go."""
        slopes = values["slope"]
        bound = self.scale * _moments(slopes)["deviation"]
        far = slopes[(slopes > bound) & (values["advantage"] < 0)]
        count = min(max(int(self.fraction * len(slopes)), 1), len(far))
        return {"bound": bound, "least": float(far.topk(count).values[-1]) if count else 0.0}

    def __call__(self, inputs: LossInputs) -> ConstraintOutput:
        """Bad tokens of the largest D."""
        slopes, found = inputs.entropy_slopes, inputs.statistics
        assert slopes is not None
        far = (slopes.double() > found["bound"]) & (slopes >= found["least"])
        return ConstraintOutput({"clip_v": far & (inputs.advantages < 0)})


def _discriminator(inputs: LossInputs) -> Tokens:
    """S = π (log π + H) of the sampled token under the old policy, in nats."""
    assert inputs.old_entropies is not None
    return inputs.old_logprobs.exp() * (inputs.old_logprobs + inputs.old_entropies)


def _moments(values: Float[Tensor, " N"]) -> dict[str, float]:
    """Mean and standard deviation (with N in the denominator); 0 and 0 of nothing."""
    if not len(values):
        return {"mean": 0.0, "deviation": 0.0}
    return {"mean": float(values.mean()), "deviation": float(values.std(correction=0))}
