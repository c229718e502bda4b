"""What SkyRL can give a loss, and the settings beside which a loss of ours would be wrong."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from erclip.errors import UserError
from erclip.extras import need
from erclip.integrations.home import Home
from erclip.losses import policy_loss

ENTROPIES = frozenset({"entropies", "old_entropies"})
HOME = Home(
    "SkyRL",
    given=ENTROPIES | {"sampler_logprobs", "lots"},
    elsewhere={
        "kl": "is trainer.algorithm.use_kl_loss in SkyRL",
        "terms": "would not be divided by SkyRL's N, which is inside its advantages",
        "positive_nll": "would not be divided by SkyRL's N, which is inside its advantages",
        "entropy_bonus": "is trainer.algorithm.use_entropy_loss in SkyRL",
        "mask_truncated": "is generator.apply_overlong_filtering in SkyRL",
    },
)
REPLACED = ("eps_clip_low", "eps_clip_high", "clip_ratio_c")
"""Of `trainer.algorithm`: settings of SkyRL's own losses, which would have no effect."""

FOR_ERC = {
    "strategy": ("fsdp", "the worker that keeps entropies is FSDP's"),
    "recompute_old_logprobs_per_minibatch": (
        True,
        "another batch layout alone moves entropies out of the band",
    ),
    "algorithm.use_kl_in_reward": (
        False,
        "it reads the old log-probs, beside which the entropies lie",
    ),
}
"""Of `trainer`: what ERC needs, and why."""


def check(trainer: Any, loss_fn: policy_loss) -> None:
    """UserError for the first setting that would have no effect or make entropies incomparable."""
    algorithm = trainer.algorithm
    for name in REPLACED:
        field = type(algorithm).__dataclass_fields__[name]
        default = field.default if field.default is not MISSING else field.default_factory()
        if (value := getattr(algorithm, name)) != default:
            raise UserError(
                f"trainer.algorithm.{name} = {value} has no effect under `use(cfg, loss)`; leave "
                f"it at {default}, and write the bound into the loss."
            )
    utils = need("skyrl.backends.skyrl_train.utils.off_policy_correction_utils", "use")
    if utils.off_policy_correction_enabled(algorithm.off_policy_correction):
        raise UserError(
            "trainer.algorithm.off_policy_correction has no effect under `use(cfg, loss)`; use "
            "`importance` in the loss, or a rule with anchor = 'sampler'."
        )
    if not loss_fn.needs & ENTROPIES:
        return
    for path, (wanted, why) in FOR_ERC.items():
        value = trainer
        for name in path.split("."):
            value = getattr(value, name)
        if value != wanted:
            raise UserError(f"trainer.{path} = {value}: {why}; set it to {wanted}.")
