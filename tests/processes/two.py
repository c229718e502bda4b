"""What two processes do for test_two.py: one update seen from inside, and whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from erclip.config import Config, ModelConfig
from erclip.config.recipes import load_recipe
from erclip.machine.distributed import World, join_world, leave_world
from erclip.records import Grade
from erclip.tasks import load_task
from erclip.training.batches import Sample
from erclip.training.checkpoints.resuming import resumed_recipe
from erclip.training.policy import load_policy
from erclip.training.sampling import SamplingSettings, TransformersSampler
from erclip.training.scored_rollout import own_batches, score
from erclip.training.sharding import whole
from erclip.training.trainer import Trainer
from erclip.training.updates import ScoredBatch, Updater

RULES = """loss.constraints=["entropy_ratio_clip", {kind="random_mask", rate=0.2},
 {kind="top_entropy", fraction=0.7}, {kind="top_entropy", fraction=0.9, of="current"}]"""
SHORT = [
    "rollout.prompts=8", "rollout.responses=4", "trainer.rollouts=2", "eval.prompts=9",
    "eval.responses=2", "trainer.updates_per_rollout=3", "trainer.token_budget=300",
    "checkpoint.every_updates=2", "ledger.every=2", "trainer.learning_rate=1e-3",
    "rollout.dynamic_sampling=refill", "loss.positive_nll=0.1",
    RULES.replace("\n", ""),
]  # fmt: skip
AHEAD = [
    *SHORT, "trainer.rollouts=3", "rollout.staleness=1", "rollout.old_policy=sampled",
    "checkpoint.keep_last=9",
    "rollout.dynamic_sampling=off", "loss.importance={kind='truncated_importance'}",
]  # fmt: skip
ADAPTERS = [*SHORT, "model.lora={rank=4}", "loss.kl={weight=0.1}", "trainer.rollouts=1"]


def settings(*constraints, **model):
    kl = {"weight": 0.1}
    constraints = ["entropy_ratio_clip", *constraints]
    return Config.model_validate(
        {
            "model": model,
            "loss": {"constraints": constraints, "positive_nll": 0.1, "kl": kl},
            "sampler": {"max_tokens": 24},
            "trainer": {"grad_clip": math.inf, "token_budget": 150, "warmup_updates": 0},
        }
    )


KINDS = {
    "plain": settings(),
    "lora": settings(lora={"rank": 4}),
    "rules": settings(
        {"kind": "dppo_tv", "low": 0.02, "high": 0.02, "anchor": "old"},
        {"kind": "sequence_mask", "low": 0.2, "high": 0.2, "anchor": "old"},
        {"kind": "top_entropy", "fraction": 0.7},
        {"kind": "top_entropy", "fraction": 0.9, "of": "current"},
    ),
}


def drifted(config: Config, seed: int):
    """The embedded model with noise on its weights, adapters among them."""
    policy = load_policy(config.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return policy


def one_update(world: World, config: Config):
    """(metrics, gradients by name) of one update on responses that other weights scored."""
    old, new = load_policy(ModelConfig()), drifted(config, 0)
    sampler = TransformersSampler(old.model, old.tokenizer)
    prompts = list(load_task("countdown").train[:7])
    groups = sampler.sample(prompts, SamplingSettings(3, 24), range(len(prompts)))
    samples = [
        Sample(r, Grade(i % 3 == 0, None, "wrong"), 0.0, (-1.0) ** i * (1 + i / 10))
        for i, r in enumerate(response for group in groups for response in group)
    ]
    scored = [ScoredBatch(s.batch, s.old) for s in score(samples, old, config, world)]
    assert len(scored) == len(own_batches(samples, old, config, world))
    new.shard(world)
    updater = Updater(new, config, world)
    seen: dict[str, torch.Tensor] = {}

    def look(*_):
        for name, parameter in new.model.named_parameters():
            if parameter.requires_grad:
                seen[name] = whole(parameter.grad).clone()

    updater.optimizer.register_step_pre_hook(look)
    return updater.update(scored), seen


def both(folder: Path) -> None:
    """What each of the two processes does."""
    world = join_world("cpu")
    for kind, config in KINDS.items():
        metrics, gradients = one_update(world, config)
        if world.first:
            save_file(gradients, folder / f"{kind}.safetensors")
            (folder / f"{kind}.json").write_text(json.dumps(metrics))
    Trainer(load_recipe("quickstart", SHORT), folder / "run", world=world).train()
    Trainer(load_recipe("quickstart", ADAPTERS), folder / "adapters", world=world).train()
    Trainer(load_recipe("quickstart", AHEAD), folder / "ahead", world=world).train()
    for half in (folder / "half", folder / "half ahead"):
        Trainer(resumed_recipe(half), half, world=world, resume=True).train()
    leave_world()
