"""Policy losses as compositions: surrogate × importance × constraints + terms. Torch alone."""

from erclip.losses.bands import bandpo
from erclip.losses.centering import score_centering
from erclip.losses.constraints import entropy_ratio, entropy_ratio_clip, random_mask
from erclip.losses.controls import shuffled_erc
from erclip.losses.covariance import clip_cov, kl_cov
from erclip.losses.discriminator import clip_b, clip_v
from erclip.losses.importance import icepop, masked_importance, truncated_importance
from erclip.losses.parts import (
    Constraint,
    Importance,
    MiniBatchRule,
    Part,
    Surrogate,
    Term,
)
from erclip.losses.policy import policy_loss, token_mean
from erclip.losses.responses import gmpo, vespo
from erclip.losses.selection import m2po, top_entropy
from erclip.losses.sequences import off_policy_sequence_mask, sequence_mask
from erclip.losses.smooth import aspo, dgpo, drpo, spo, truncated_reinforce
from erclip.losses.surrogates import (
    ce_gppo_clip,
    cispo_clip,
    gppo_clip,
    gspo_clip,
    ppo_clip,
    reinforce,
    sapo,
)
from erclip.losses.terms import (
    adaptive_entropy,
    entropy_bonus,
    kl_estimate,
    kl_penalty,
    log_ratio_penalty,
    positive_nll,
)
from erclip.losses.trust_region import dppo_kl, dppo_tv, ipo, kpop
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
    "adaptive_entropy",
    "aspo",
    "bandpo",
    "ce_gppo_clip",
    "cispo_clip",
    "clip_b",
    "clip_cov",
    "clip_v",
    "dgpo",
    "dppo_kl",
    "dppo_tv",
    "drpo",
    "entropy_bonus",
    "entropy_ratio",
    "entropy_ratio_clip",
    "gmpo",
    "gppo_clip",
    "gspo_clip",
    "icepop",
    "ipo",
    "kl_cov",
    "kl_estimate",
    "kl_penalty",
    "kpop",
    "log_ratio_penalty",
    "m2po",
    "masked_importance",
    "off_policy_sequence_mask",
    "policy_loss",
    "positive_nll",
    "ppo_clip",
    "random_mask",
    "reinforce",
    "sapo",
    "score_centering",
    "sequence_mask",
    "shuffled_erc",
    "spo",
    "token_mean",
    "top_entropy",
    "truncated_importance",
    "truncated_reinforce",
    "vespo",
]
