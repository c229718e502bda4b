"""Policy losses as compositions: surrogate × importance × constraints. Needs torch alone."""

from erclip.losses.constraints import entropy_ratio, entropy_ratio_clip, random_mask
from erclip.losses.controls import shuffled_erc
from erclip.losses.importance import masked_importance, truncated_importance
from erclip.losses.policy import policy_loss, token_mean
from erclip.losses.surrogates import (
    ce_gppo_clip,
    cispo_clip,
    gppo_clip,
    gspo_clip,
    ppo_clip,
    reinforce,
    sapo,
)
from erclip.losses.terms import entropy_bonus, kl_penalty, positive_nll
from erclip.losses.types import (
    ConstraintOutput,
    LossInputs,
    LossOutput,
    SurrogateOutput,
)

__all__ = [
    "ConstraintOutput",
    "LossInputs",
    "LossOutput",
    "SurrogateOutput",
    "ce_gppo_clip",
    "cispo_clip",
    "entropy_bonus",
    "entropy_ratio",
    "entropy_ratio_clip",
    "gppo_clip",
    "gspo_clip",
    "kl_penalty",
    "masked_importance",
    "policy_loss",
    "positive_nll",
    "ppo_clip",
    "random_mask",
    "reinforce",
    "sapo",
    "shuffled_erc",
    "token_mean",
    "truncated_importance",
]
