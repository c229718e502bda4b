"""Policy losses as compositions: surrogate × importance × constraints + terms. Torch alone."""

from erclip.losses.constraints import entropy_ratio, entropy_ratio_clip, random_mask
from erclip.losses.importance import masked_importance, truncated_importance
from erclip.losses.parts import (
    Constraint,
    Importance,
    MiniBatchRule,
    Part,
    Surrogate,
    Term,
)
from erclip.losses.policy import policy_loss, token_mean
from erclip.losses.selection import top_entropy
from erclip.losses.sequences import sequence_mask
from erclip.losses.surrogates import (
    ce_gppo_clip,
    cispo_clip,
    gppo_clip,
    gspo_clip,
    ppo_clip,
    reinforce,
    sapo,
)
from erclip.losses.terms import entropy_bonus, kl_estimate, kl_penalty, positive_nll
from erclip.losses.trust_region import dppo_tv
from erclip.losses.types import (
    ConstraintOutput,
    LossFn,
    LossInputs,
    LossOutput,
    SurrogateOutput,
)

__all__ = [
    "Constraint",
    "ConstraintOutput",
    "Importance",
    "LossFn",
    "LossInputs",
    "LossOutput",
    "MiniBatchRule",
    "Part",
    "Surrogate",
    "SurrogateOutput",
    "Term",
    "ce_gppo_clip",
    "cispo_clip",
    "dppo_tv",
    "entropy_bonus",
    "entropy_ratio",
    "entropy_ratio_clip",
    "gppo_clip",
    "gspo_clip",
    "kl_estimate",
    "kl_penalty",
    "masked_importance",
    "policy_loss",
    "positive_nll",
    "ppo_clip",
    "random_mask",
    "reinforce",
    "sapo",
    "sequence_mask",
    "token_mean",
    "top_entropy",
    "truncated_importance",
]
