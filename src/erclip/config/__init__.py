"""The settings of a run: every key of a recipe, with its bounds. Torch is loaded for rules alone.

People write TOML, machines write JSON. Unknown keys and wrong types are refused; alternatives are
tables with a `kind`, and `loss.surrogate = "gppo_clip"` is short for `{kind = "gppo_clip"}`.
"""

from __future__ import annotations

from typing import Annotated

from erclip.extras import stand_on

stand_on("train", "erclip.config")

from pydantic import BeforeValidator, Field, model_validator

from erclip.config.data import DataConfig, RewardConfig
from erclip.config.loss import LossConfig
from erclip.config.model import ModelConfig
from erclip.config.sampling import RolloutConfig, SamplerConfig, TransformersSampler
from erclip.config.section import Section, to_tuple
from erclip.config.trackers import TrackerConfig
from erclip.config.training import CheckpointConfig, EvalConfig, LedgerConfig, TrainerConfig

__all__ = [
    "Config",
    "DataConfig",
    "EvalConfig",
    "LossConfig",
    "ModelConfig",
    "RewardConfig",
    "RolloutConfig",
    "TrainerConfig",
]


class Config(Section):
    """One run. Every section has defaults; a recipe names what differs."""

    description: str = Field("", description="one line for `erclip recipes`")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampler: SamplerConfig = TransformersSampler()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    loss: LossConfig = Field(default_factory=LossConfig)
    trainer: TrainerConfig = TrainerConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ledger: LedgerConfig = LedgerConfig()
    trackers: Annotated[tuple[TrackerConfig, ...], BeforeValidator(to_tuple)] = Field(
        (), description='["wandb"], or tables: trackio, wandb, tensorboard, mlflow'
    )

    @model_validator(mode="after")
    def _settings_that_need_each_other(self) -> Config:
        if self.trainer.updates_per_rollout > self.rollout.prompts:
            raise ValueError(
                f"trainer.updates_per_rollout ({self.trainer.updates_per_rollout}) must not exceed "
                f"rollout.prompts ({self.rollout.prompts}): a mini-batch holds whole groups"
            )
        if self.model.dtype == "float16" and self.model.lora is None:
            raise ValueError(
                'model.dtype = "float16" cannot be trained, for Adam\'s ε and small steps are 0 in '
                'it; set model.dtype = "float32" (with model.autocast = "bfloat16"), or model.lora'
            )
        rounds = isinstance(self.sampler, TransformersSampler) and self.sampler.dtype != "model"
        if rounds and self.rollout.overlap is not None:
            raise ValueError(
                f"sampler.dtype = {self.sampler.dtype!r} rounds the weights before responses are "
                "drawn, and rollout.overlap changes them in between; leave one of them out"
            )
        if self.trainer.token_budget < self.sampler.max_tokens:
            raise ValueError(
                f"trainer.token_budget ({self.trainer.token_budget}) must be at least "
                f"sampler.max_tokens ({self.sampler.max_tokens}): a micro-batch holds whole "
                "responses"
            )
        if self.reward.missing_think is not None and not self.data.after_think:
            raise ValueError("reward.missing_think has no effect unless data.after_think is true")
        if self.reward.correct == self.reward.wrong:
            raise ValueError(
                f"reward.correct and reward.wrong are both {self.reward.correct:g}: "
                "there is nothing to learn"
            )
        return self
