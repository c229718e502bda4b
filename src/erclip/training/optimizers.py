"""The optimiser and its learning-rate schedule, from a recipe's `trainer` section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from erclip.config import TrainerConfig
from erclip.errors import UserError
from erclip.extras import need


def build_optimizer(
    parameters: Sequence[nn.Parameter], config: TrainerConfig, processes: int = 1
) -> torch.optim.Optimizer:
    """AdamW, with states in the parameters' dtype or in 8 bits.

    The fused kernel reads and writes each weight and each state once, instead of once an operation.
    """
    make: Any = partial(torch.optim.AdamW, fused=True)
    if config.optimizer.kind == "adamw_8bit":
        if processes > 1:
            raise UserError(
                'trainer.optimizer = "adamw_8bit" serves one process: its kernels know no slices '
                'of weights; several processes share the states of "adamw" anyway.'
            )
        make = need("bitsandbytes", 'trainer.optimizer = "adamw_8bit"').optim.AdamW8bit
    return make(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainerConfig) -> LambdaLR:
    """transformers' schedule of that name over rollouts × updates × epochs, one step ahead.

    theirs starts at 0, which would make the first update do nothing: update k (from 1) takes what
    theirs has at step k of one step more, so warm-up is k / warmup_updates and "linear" ends just
    above 0. Rollouts of which nothing was kept make no update: the schedule then ends higher.
    """
    if config.schedule.kind == "constant":  # without transformers', whose import takes seconds
        warmup = max(config.warmup_updates, 1)
        return LambdaLR(optimizer, lambda step: min((step + 1) / warmup, 1.0))
    return LambdaLR(optimizer, _one_ahead(_theirs(optimizer, config).lr_lambdas[0]))


def _theirs(optimizer: torch.optim.Optimizer, config: TrainerConfig) -> LambdaLR:
    name = config.schedule.kind
    total = config.rollouts * config.updates_per_rollout * config.epochs + 1
    schedule = need("transformers.optimization", f"the schedule {name}").get_scheduler(
        name,
        optimizer,
        num_warmup_steps=config.warmup_updates,
        num_training_steps=None if name == "inverse_sqrt" else total,
        scheduler_specific_kwargs=config.schedule.model_dump(exclude={"kind"}, exclude_none=True),
    )
    assert isinstance(schedule, LambdaLR)
    return schedule


def _one_ahead(factor: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: factor(step + 1)
