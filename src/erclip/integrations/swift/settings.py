"""What ms-swift can give a loss, and which of its own settings a loss of ours replaces."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from erclip.errors import UserError
from erclip.integrations.home import Home
from erclip.losses import policy_loss

HOME = Home(
    "ms-swift",
    given=frozenset(
        {"entropies", "live_entropies", "old_entropies", "entropy_slopes", "sampler_logprobs"}
        | {"reference_logprobs", "lots"}
    ),
    elsewhere={
        "kl": "is --beta in ms-swift",
        "mask_truncated": "is --overlong_filter in ms-swift",
    },
    measures="current",
)

REPLACED = (
    "chord_sft_dataset",
    "delta",
    "epsilon",
    "epsilon_high",
    "fipo_clip_high_only",
    "fipo_clip_range",
    "fipo_decay_rate",
    "fipo_safety_threshold",
    "importance_sampling_level",
    "off_policy_sequence_mask_delta",
    "real_tau",
    "rollout_importance_sampling_mode",
    "sdar_loss_coef",
    "tau_neg",
    "tau_pos",
    "top_entropy_quantile",
    "use_liger_kernel",
)
"""ms-swift's settings of its own loss, which would have no effect."""


def refuse_replaced(args: Any) -> None:
    """UserError for the first setting that would do nothing under our loss."""
    if args.loss_type not in (None, "grpo"):
        raise UserError(
            f"--loss_type {args.loss_type} has no effect under `use(loss)`; leave it out."
        )
    for name in REPLACED:
        field = type(args).__dataclass_fields__.get(name)
        if field is None:
            continue
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        value = getattr(args, name)
        if value != default:
            raise UserError(
                f"--{name} {value} has no effect under `use(loss)`, whose loss is its section; "
                f"leave it at {default}."
            )


def refuse_inert(loss_fn: policy_loss, args: Any) -> None:
    """UserError where updates and generations do not fit the loss."""
    steps, accumulated = args.steps_per_generation, args.gradient_accumulation_steps
    if steps % accumulated:
        raise UserError(
            f"--steps_per_generation {steps} is no multiple of --gradient_accumulation_steps "
            f"{accumulated}, so that an update would span two generations; make it one."
        )
    if steps * args.num_iterations == accumulated and "erc_low" in loss_fn.reports:
        raise UserError(
            f"--steps_per_generation {steps} with --gradient_accumulation_steps {accumulated} "
            "updates once per generation, where every ratio is 1 and entropy_ratio_clip does "
            f"nothing; set --steps_per_generation {8 * accumulated} (the paper's 8 updates)."
        )
    if "reference_logprobs" in loss_fn.needs and not args.beta:
        raise UserError(
            f"{loss_fn!r} needs a reference model, which ms-swift loads for --beta alone; set it."
        )
