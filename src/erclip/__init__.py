"""Entropy ratio clipping and friends: policy losses for off-policy RL on language models.

The names below need torch alone and are loaded when first used, so that the command's help, the
configuration and the grading's worker processes start without torch. The trainer behind the command
`erclip` is never loaded from here.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erclip.losses import (
        Constraint,
        ConstraintOutput,
        Importance,
        LossFn,
        LossInputs,
        LossOutput,
        MiniBatchRule,
        Part,
        Surrogate,
        SurrogateOutput,
        Term,
        adaptive_entropy,
        aspo,
        bandpo,
        ce_gppo_clip,
        cispo_clip,
        clip_b,
        clip_cov,
        clip_v,
        dgpo,
        dppo_kl,
        dppo_tv,
        drpo,
        entropy_bonus,
        entropy_ratio,
        entropy_ratio_clip,
        gmpo,
        gppo_clip,
        gspo_clip,
        icepop,
        ipo,
        kl_cov,
        kl_estimate,
        kl_penalty,
        kpop,
        log_ratio_penalty,
        m2po,
        masked_importance,
        off_policy_sequence_mask,
        policy_loss,
        positive_nll,
        ppo_clip,
        random_mask,
        reinforce,
        sapo,
        score_centering,
        sequence_mask,
        shuffled_erc,
        spo,
        token_mean,
        top_entropy,
        truncated_importance,
        truncated_reinforce,
        vespo,
    )

try:
    __version__ = version("erclip")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0.0.0"

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


if not TYPE_CHECKING:  # a checker would take it for leave to ask for any name

    def __getattr__(name: str) -> Any:
        """Load a loss the first time it is asked for (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module 'erclip' has no attribute {name!r}")
        from erclip import losses

        value = globals()[name] = getattr(losses, name)
        return value


def __dir__() -> list[str]:
    """What is there, loaded or not."""
    return sorted({*globals(), *__all__})
