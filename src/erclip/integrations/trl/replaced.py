"""TRL's settings of its own loss and head, and which of ours say the same."""

from __future__ import annotations

from typing import Any

from erclip.errors import UserError

HEAD = "erclip's head is float32 and forms no logits"
MEAN = "the loss is a mean over all tokens of an update, as TRL's 'dapo'"
ADAPTIVE = "put {'kind': 'adaptive_entropy', 'target': …} into loss.terms"

INSTEAD = {
    "cast_lm_head_to_fp32": HEAD,
    "delta": "set loss.surrogate.dual",
    "entropy_coef": "set loss.entropy_bonus",
    "entropy_coef_delta": ADAPTIVE,
    "entropy_coef_max": ADAPTIVE,
    "entropy_coef_min": ADAPTIVE,
    "entropy_target": ADAPTIVE,
    "epsilon": "set loss.surrogate.low",
    "epsilon_high": "set loss.surrogate.high",
    "importance_sampling_level": "set loss.surrogate = 'gspo_clip'",
    "loss_type": "set loss.surrogate",
    "off_policy_mask_threshold": (
        "put {'kind': 'off_policy_sequence_mask', 'threshold': …} into loss.constraints"
    ),
    "sapo_temperature_neg": "set tau_negative of loss.surrogate = 'sapo'",
    "sapo_temperature_pos": "set tau_positive of loss.surrogate = 'sapo'",
    "top_entropy_quantile": "put {'kind': 'top_entropy', 'fraction': …} into loss.constraints",
    "use_adaptive_entropy": ADAPTIVE,
    "use_liger_kernel": HEAD,
    "vespo_k_neg": "set k_negative of loss.surrogate = 'vespo'",
    "vespo_k_pos": "set k_positive of loss.surrogate = 'vespo'",
    "vespo_lambda_neg": "set lambda_negative of loss.surrogate = 'vespo'",
    "vespo_lambda_pos": "set lambda_positive of loss.surrogate = 'vespo'",
}
"""TRL's setting → what to write in its place, or why there is nothing to write."""

LOSS_TYPES = {
    "bnpo": MEAN,
    "cispo": "set loss.surrogate = 'cispo_clip'",
    "dr_grpo": MEAN,
    "grpo": MEAN,
    "luspo": MEAN,
    "sapo": "set loss.surrogate = 'sapo'",
    "vespo": "set loss.surrogate = 'vespo'",
}


def refuse_replaced(config: Any, defaults: Any) -> None:
    """Raise UserError for the first of TRL's settings that would be ignored, with ours for it.

    `defaults` are the fields of `GRPOConfig`; a setting that this TRL does not have cannot be set.
    """
    for name, instead in INSTEAD.items():
        value = getattr(config, name, None)
        if name not in defaults or value == defaults[name].default:
            continue
        if name == "loss_type":
            instead = LOSS_TYPES.get(value, instead)
        raise UserError(
            f"{name} = {value!r} has no effect in an ERCTrainer; {instead}, and leave it at "
            f"{defaults[name].default!r}."
        )
