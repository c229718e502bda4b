"""`actor.policy_loss`: which of our losses, with which bands, in verl's own configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from erclip.integrations.verl import require_verl

require_verl()

from pydantic import ValidationError
from verl.workers.config import PolicyLossConfig

from erclip.config import LossConfig
from erclip.errors import UserError

SECTION = "actor_rollout_ref.actor.policy_loss"


class Mode(NamedTuple):
    """What a `loss_mode` stands for: a factory of `erclip.losses`, with or without ERC."""

    surrogate: str
    erc: bool


MODES: dict[str, Mode] = {
    "dapo": Mode("ppo_clip", erc=False),
    "gppo": Mode("gppo_clip", erc=False),
    "ce_gppo": Mode("ce_gppo_clip", erc=False),
    "erc_dapo": Mode("ppo_clip", erc=True),
    "erc_gppo": Mode("gppo_clip", erc=True),
    "erc_ce_gppo": Mode("ce_gppo_clip", erc=True),
    "erc_cispo": Mode("cispo_clip", erc=True),
    "erc_gspo": Mode("gspo_clip", erc=True),
    "erc_sapo": Mode("sapo", erc=True),
}

# Key in the section → argument of the factory.
SURROGATE_KEYS = {
    "clip_low": "low",
    "clip_high": "high",
    "dual": "dual",
    "beta_low": "beta_low",
    "beta_high": "beta_high",
    "tau_positive": "tau_positive",
    "tau_negative": "tau_negative",
}
ERC_KEYS = {
    "erc_low": "low",
    "erc_high": "high",
    "erc_rule": "rule",
    "min_entropy_change": "min_entropy_change",
}


@dataclass
class ERCPolicyLossConfig(PolicyLossConfig):
    """verl's section with our keys; null means the factory's default.

    clip_low and clip_high are distances from 1, dual is the c of dual-clip PPO, beta_* and tau_*
    belong to CE-GPPO and SAPO, erc_* is the entropy band. A key that `loss_mode` has no use for is
    refused. `random_mask_rate` adds the control for a claim about ERC: a mask of that rate;
    `positive_nll` the weighted negative log-likelihood of responses with a score above 0.
    """

    loss_mode: str = "erc_dapo"
    clip_low: float | None = None
    clip_high: float | None = None
    dual: float | None = None
    beta_low: float | None = None
    beta_high: float | None = None
    tau_positive: float | None = None
    tau_negative: float | None = None
    erc_low: float | None = None
    erc_high: float | None = None
    erc_rule: str | None = None
    min_entropy_change: float | None = None
    random_mask_rate: float | None = None
    positive_nll: float | None = None


def loss_config(section: Any) -> LossConfig:
    """The section as the composition that our own recipes describe; UserError for what is wrong.

    `section` is an `ERCPolicyLossConfig` or the mapping it is made from.
    """
    name = section.get("loss_mode")
    mode = MODES.get(name)
    if mode is None:
        raise UserError(f"{SECTION}.loss_mode = {name!r} is none of {', '.join(MODES)}.")
    if not mode.erc:
        for key in ERC_KEYS:
            if section.get(key) is not None:
                raise UserError(
                    f"{SECTION}.{key} = {section.get(key)} has no effect with loss_mode = {name}; "
                    f"use erc_{name}, or leave it null."
                )
    constraints = []
    if mode.erc:
        constraints.append({"kind": "entropy_ratio_clip", **_given(section, ERC_KEYS)})
    if section.get("random_mask_rate") is not None:
        constraints.append({"kind": "random_mask", "rate": section.get("random_mask_rate")})
    surrogate = {"kind": mode.surrogate, **_given(section, SURROGATE_KEYS)}
    try:
        return LossConfig.model_validate(
            {
                "surrogate": surrogate,
                "constraints": constraints,
                "positive_nll": section.get("positive_nll") or 0.0,
            }
        )
    except ValidationError as error:
        raise UserError(_sentence(error, name)) from None


def _given(section: Any, keys: dict[str, str]) -> dict[str, Any]:
    return {
        argument: section.get(key) for key, argument in keys.items() if section.get(key) is not None
    }


def _sentence(error: ValidationError, mode: str) -> str:
    problem = error.errors(include_url=False)[0]
    area, argument = problem["loc"][0], problem["loc"][-1]
    names = SURROGATE_KEYS if area == "surrogate" else {**ERC_KEYS, "random_mask_rate": "rate"}
    key = next((key for key, name in names.items() if name == argument), str(argument))
    if problem["type"] == "extra_forbidden":
        return f"{SECTION}.{key} has no effect with loss_mode = {mode}; leave it null."
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{SECTION}.{key} = {problem['input']!r}: {message}."
