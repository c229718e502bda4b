"""The loop and the optimiser; evaluation, checkpoints and the ledger on the way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from erclip.config.schedule import ConstantSchedule, ScheduleConfig
from erclip.config.section import (
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    Positive,
    Section,
    by_kind,
    to_tuple,
)


class Adamw(Section):
    """AdamW."""

    kind: Literal["adamw"] = "adamw"


class Adamw8bit(Section):
    """AdamW with states in 8 bits, blockwise quantised: 2 bytes per weight (bitsandbytes)."""

    kind: Literal["adamw_8bit"] = "adamw_8bit"


OptimizerConfig = Annotated[
    Adamw | Adamw8bit, Field(discriminator="kind"), BeforeValidator(by_kind)
]


class TrainerConfig(Section):
    """The loop and the optimiser."""

    rollouts: Count = Field(100, description="length of the run")
    updates_per_rollout: Count = Field(8, description="mini-batches per epoch, K")
    epochs: Count = Field(1, description="passes over one rollout")
    learning_rate: Positive = Field(1e-6, description="step size after the warm-up")
    warmup_updates: CountOrZero = Field(
        10, description="linear warm-up, in updates, then `schedule`"
    )
    schedule: ScheduleConfig = Field(
        ConstantSchedule(), description="one of transformers' schedules, over all updates planned"
    )
    optimizer: OptimizerConfig = Field(
        Adamw(), description="adamw_8bit keeps 2 bytes of states per weight in the place of 8"
    )
    betas: Annotated[tuple[Fraction, Fraction], BeforeValidator(to_tuple)] = Field(
        (0.9, 0.999), description="AdamW's decay of its two running means"
    )
    weight_decay: NonNegative = Field(0.1, description="AdamW's")
    grad_clip: Annotated[float, Field(gt=0)] = Field(
        1.0, description="largest gradient norm; inf = no clipping"
    )
    token_budget: Count = Field(
        16_384, description="largest micro-batch, in padded tokens; changes memory, not results"
    )
    seed: int = Field(0, description="every use of chance derives from it")
    saved_samples: CountOrZero = Field(16, description="responses of each rollout kept for reading")


class EvalConfig(Section):
    """Held-out evaluation, before, during and after training."""

    every: CountOrZero = Field(0, description="rollouts between two; 0 = only before and after")
    prompts: CountOrZero = Field(0, description="held-out prompts used; 0 = all")
    responses: Count = Field(4, description="responses per prompt, k of avg@k")
    temperature: Positive = Field(1.0, description="of the held-out responses")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="nucleus; 1 = everything")
    max_tokens: Count | None = Field(None, description="longest response; None = the sampler's")
    greedy: bool = Field(
        False,
        description="one more response per prompt, the likeliest token each time, as a set of its "
        "own: its accuracy is not raised by falling entropy alone",
    )

    @property
    def drawn(self) -> int:
        """Responses per prompt in all."""
        return self.responses + self.greedy


class CheckpointConfig(Section):
    """When to save what a run needs to go on, and how many of these folders to keep.

    There is always one after the last rollout.
    """

    every: CountOrZero = Field(0, description="rollouts between two; 0 = only after the last")
    every_minutes: NonNegative = Field(
        30.0,
        description="longest time without one, within a rollout too; 0 = however long it takes",
    )
    every_updates: CountOrZero = Field(
        0, description="in updates, within a rollout too; 0 = none. For rollouts that take hours"
    )
    keep_last: Count = Field(
        2, description="newest ones kept; a damaged one falls back to the one before"
    )
    keep_best: CountOrZero = Field(
        1,
        description="kept besides, by held-out avg@k; an evaluation in between that is the best so "
        "far is saved too",
    )


class LedgerConfig(Section):
    """What is kept of single tokens, for `erclip ledger` and the report's token view."""

    every: CountOrZero = Field(
        0, description="in updates; each k-th leaves a row per token in ledger/ (pyarrow); 0 = none"
    )
