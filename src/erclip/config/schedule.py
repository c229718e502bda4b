"""transformers' learning-rate schedules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from erclip.config.section import Count, Fraction, NonNegative, Positive, Section, by_kind


class ConstantSchedule(Section):
    """Constant after the warm-up."""

    kind: Literal["constant"] = "constant"


class LinearSchedule(Section):
    """Down to 0 at the run's end."""

    kind: Literal["linear"] = "linear"


class CosineSchedule(Section):
    """Half a cosine down to 0 at the run's end."""

    kind: Literal["cosine"] = "cosine"
    num_cycles: Positive = Field(0.5, description="waves; 0.5 ends at 0")


class CosineMinSchedule(Section):
    """A cosine down to a share of the learning rate."""

    kind: Literal["cosine_with_min_lr"] = "cosine_with_min_lr"
    min_lr_rate: Fraction = Field(0.1, description="where it ends, as a share of learning_rate")


class PolynomialSchedule(Section):
    """A power of what is left of the run."""

    kind: Literal["polynomial"] = "polynomial"
    power: Positive = Field(1.0, description="exponent; 1 = linear")
    lr_end: NonNegative = Field(1e-7, description="where it ends, below learning_rate")


class InverseSqrtSchedule(Section):
    """1/√updates after the warm-up."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale: Count | None = Field(
        None, description="updates after which it is down to 1/√2; None = the warm-up's length"
    )


class StableDecaySchedule(Section):
    """Constant, then down over the last updates."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    num_decay_steps: Count = Field(description="updates at the end over which it falls")
    min_lr_ratio: Fraction = Field(0.0, description="where it ends, as a share of learning_rate")


ScheduleConfig = Annotated[
    ConstantSchedule
    | LinearSchedule
    | CosineSchedule
    | CosineMinSchedule
    | PolynomialSchedule
    | InverseSqrtSchedule
    | StableDecaySchedule,
    Field(discriminator="kind"),
    BeforeValidator(by_kind),
]
