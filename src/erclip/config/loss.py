"""surrogate × importance × constraints.

A `kind` is the name of the factory in `erclip.losses`, the other keys are that factory's arguments.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from erclip.config.section import Fraction, NonNegative, Positive, Section, by_kind, to_tuple


class PpoClip(Section):
    """PPO-clip; unequal bounds are DAPO's clip-higher."""

    kind: Literal["ppo_clip"] = "ppo_clip"
    low: NonNegative = 0.2
    high: NonNegative = 0.28
    dual: Positive | None = None


class GppoClip(Section):
    """Gradient-preserving clipping."""

    kind: Literal["gppo_clip"] = "gppo_clip"
    low: NonNegative = 0.2
    high: NonNegative = 0.2
    dual: Positive | None = None


class CeGppoClip(Section):
    """GPPO with scaled gradients past the bounds."""

    kind: Literal["ce_gppo_clip"] = "ce_gppo_clip"
    low: NonNegative = 0.2
    high: NonNegative = 0.2
    beta_low: NonNegative = 0.5
    beta_high: NonNegative = 1.0
    dual: Positive | None = None


class CispoClip(Section):
    """Capped importance weights, no token without gradient."""

    kind: Literal["cispo_clip"] = "cispo_clip"
    low: NonNegative = 1.0
    high: NonNegative = 4.0


class GspoClip(Section):
    """Clipping by the ratio of whole responses."""

    kind: Literal["gspo_clip"] = "gspo_clip"
    low: NonNegative = 3e-4
    high: NonNegative = 4e-4


class Sapo(Section):
    """A soft gate in the place of a clip."""

    kind: Literal["sapo"] = "sapo"
    tau_positive: Positive = 1.0
    tau_negative: Positive = 1.05


class Reinforce(Section):
    """The plain policy gradient."""

    kind: Literal["reinforce"] = "reinforce"


class EntropyRatioClip(Section):
    """ERC: no gradient outside 1 − low < H/H_old < 1 + high."""

    kind: Literal["entropy_ratio_clip"] = "entropy_ratio_clip"
    low: NonNegative = 0.05
    high: NonNegative = 0.05
    rule: Literal["paper", "directional", "directional_sampled"] = "paper"
    min_entropy_change: NonNegative = 0.0
    softness: NonNegative = Field(
        0.0, description="outside the band a token keeps e^(−distance/softness) of its gradient"
    )


class RandomMask(Section):
    """The control: no gradient with probability `rate`."""

    kind: Literal["random_mask"] = "random_mask"
    rate: Fraction


class ShuffledErc(Section):
    """The control for a claim about which tokens ERC clips: as much of them at random."""

    kind: Literal["shuffled_erc"] = "shuffled_erc"
    low: NonNegative = 0.05
    high: NonNegative = 0.05
    rule: Literal["paper", "directional", "directional_sampled"] = "paper"
    min_entropy_change: NonNegative = 0.0
    match: Literal["tokens", "gradient"] = Field(
        "tokens", description='"gradient": until as much of it is gone as ERC would take'
    )


class TruncatedImportance(Section):
    """Weights min(π_old/π_sampler, cap)."""

    kind: Literal["truncated_importance"] = "truncated_importance"
    cap: Annotated[float, Field(ge=1)] = 2.0


class MaskedImportance(Section):
    """Weights π_old/π_sampler, 0 outside [1/cap, cap]."""

    kind: Literal["masked_importance"] = "masked_importance"
    cap: Annotated[float, Field(ge=1)] = 2.0


SurrogateConfig = Annotated[
    PpoClip | GppoClip | CeGppoClip | CispoClip | GspoClip | Sapo | Reinforce,
    Field(discriminator="kind"),
    BeforeValidator(by_kind),
]
ConstraintConfig = Annotated[
    EntropyRatioClip | RandomMask | ShuffledErc,
    Field(discriminator="kind"),
    BeforeValidator(by_kind),
]

ImportanceConfig = Annotated[
    TruncatedImportance | MaskedImportance, Field(discriminator="kind"), BeforeValidator(by_kind)
]


class KlConfig(Section):
    """A penalty for leaving a reference model, token mean with the mini-batch's N."""

    weight: NonNegative
    estimator: Literal["k1", "k2", "k3"] = Field(
        "k3", description="k3 is GRPO's; k1 and k2 have the gradient of KL(policy‖reference)"
    )
    model: str | None = Field(
        None, description="a folder or hub id; None = the weights that the run began with"
    )


class LossConfig(Section):
    """surrogate × importance × constraints, and what is added to them."""

    surrogate: SurrogateConfig = PpoClip()
    constraints: Annotated[tuple[ConstraintConfig, ...], BeforeValidator(to_tuple)] = ()
    importance: ImportanceConfig | None = Field(
        None, description="weight for tokens that an inference engine drew; None = 1"
    )
    positive_nll: NonNegative = Field(
        0.0, description="weight of the mean negative log-likelihood of correct responses"
    )
    kl: KlConfig | None = Field(None, description="KL penalty to a reference model; None = off")
    entropy_bonus: NonNegative = Field(0.0, description="weight of the mean entropy, to raise it")
    mask_truncated: bool = Field(False, description="DAPO's overlong filtering")
