"""What other systems call things, and what they are called here: for answers to a wrong name."""

from __future__ import annotations

KEYS = {
    "lr": "trainer.learning_rate",
    "max_steps": "trainer.rollouts",
    "steps": "trainer.rollouts",
    "total_epochs": "trainer.rollouts",
    "num_iterations": "trainer.epochs",
    "ppo_epochs": "trainer.epochs",
    "max_grad_norm": "trainer.grad_clip",
    "clip_grad": "trainer.grad_clip",
    "warmup_steps": "trainer.warmup_updates",
    "lr_scheduler_type": "trainer.schedule",
    "optim": "trainer.optimizer",
    "micro_batch_size": "trainer.token_budget",
    "per_device_train_batch_size": "trainer.token_budget",
    "gradient_accumulation_steps": "trainer.updates_per_rollout",
    "ppo_mini_batch_size": "trainer.updates_per_rollout",
    "steps_per_generation": "trainer.updates_per_rollout",
    "train_batch_size": "rollout.prompts",
    "num_generations": "rollout.responses",
    "group_size": "rollout.responses",
    "n": "rollout.responses",
    "max_completion_length": "sampler.max_tokens",
    "max_response_length": "sampler.max_tokens",
    "max_new_tokens": "sampler.max_tokens",
    "max_prompt_length": "sampler.max_prompt_tokens",
    "use_vllm": "sampler.kind",
    "beta": "loss.kl.weight",
    "kl_coef": "loss.kl.weight",
    "kl_loss_coef": "loss.kl.weight",
    "entropy_coeff": "loss.entropy_bonus",
    "epsilon": "loss.surrogate.low",
    "clip_range": "loss.surrogate.low",
    "clip_ratio": "loss.surrogate.low",
    "epsilon_high": "loss.surrogate.high",
    "clip_ratio_high": "loss.surrogate.high",
    "loss_type": "loss.surrogate",
    "adv_estimator": "loss.surrogate",
    "algorithm": "loss.surrogate",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "load_in_8bit": "model.dtype",
    "bf16": "model.autocast",
    "fp16": "model.dtype",
    "dataset": "data.path",
    "dataset_name": "data.path",
    "train_file": "data.path",
    "train_files": "data.path",
    "val_files": "data.test_path",
    "reward_funcs": "reward.function",
    "reward_fn": "reward.function",
    "report_to": "trackers",
    "logger": "trackers",
    "save_steps": "checkpoint.every",
    "save_freq": "checkpoint.every",
    "eval_steps": "eval.every",
    "test_freq": "eval.every",
    "save_total_limit": "checkpoint.keep_last",
}
"""A setting's name elsewhere (TRL, verl, OpenRLHF) → the key."""

RULES = {
    "grpo": "ppo_clip (GRPO's group advantages are always on; loss.kl adds its penalty)",
    "ppo": "ppo_clip",
    "dapo": "ppo_clip with low = 0.2, high = 0.28",
    "dr_grpo": "ppo_clip",
    "bnpo": "ppo_clip",
    "rloo": "reinforce",
    "pg": "reinforce",
    "vanilla": "ppo_clip",
    "gppo": "gppo_clip",
    "ce_gppo": "ce_gppo_clip",
    "cispo": "cispo_clip",
    "gspo": "gspo_clip",
    "erc": "entropy_ratio_clip",
    "tis": "truncated_importance",
    "mis": "masked_importance",
    "dppo": "dppo_tv",
    "kl": "kl_penalty",
}
"""A method's name in papers → the rule that it is here."""


def rule_here(name: str) -> str | None:
    """What a method is called here, None for a name that nobody uses.

    >>> rule_here("GSPO"), rule_here("sgd")
    ('gspo_clip', None)
    """
    return RULES.get(name.lower().replace("-", "_"))
