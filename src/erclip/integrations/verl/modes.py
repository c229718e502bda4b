"""`actor.policy_loss` → the loss section that it stands for; refused before verl is imported."""

from __future__ import annotations

from typing import Any, NamedTuple

from omegaconf import OmegaConf
from pydantic import ValidationError

from erclip.config import LossConfig
from erclip.config.loss import keep_erc
from erclip.config.rules import UNKNOWN, built_in
from erclip.errors import UserError
from erclip.integrations.home import Home

SECTION = "actor_rollout_ref.actor.policy_loss"


class Mode(NamedTuple):
    """What a `loss_mode` stands for: a factory of `erclip.losses`, with or without ERC."""

    surrogate: str
    erc: bool


OWN = "erclip"  # the mode that takes the whole composition from `loss`


def _modes() -> dict[str, Mode]:
    """Every surrogate, without ERC and with it; PPO-clip with DAPO's bounds is called dapo."""
    short = {kind: kind.removesuffix("_clip") for kind in built_in("Surrogate")} | {
        "ppo_clip": "dapo"
    }
    return {
        f"{'erc_' if erc else ''}{short[kind]}": Mode(kind, erc)
        for erc in (False, True)
        for kind in sorted(short, key=lambda kind: (not kind.endswith("ppo_clip"), kind))
    }


MODES = _modes()

# Key in the section → argument of the factory.
SURROGATE_KEYS = {
    "clip_low": "low",
    "clip_high": "high",
    "dual": "dual",
    "beta_low": "beta_low",
    "beta_high": "beta_high",
    "tau_positive": "tau_positive",
    "tau_negative": "tau_negative",
    "anchor": "anchor",
}
ERC_KEYS = {
    "erc_low": "low",
    "erc_high": "high",
    "erc_rule": "rule",
    "min_entropy_change": "min_entropy_change",
    "softness": "softness",
}
HOME = Home(
    "erclip's engine for verl",
    given=frozenset(
        {"entropies", "old_entropies", "entropy_slopes", "sampler_logprobs", "reference_logprobs"}
        | {"correct", "lots", "entropy_slope_means"}
    ),
    measures="old",
    section=SECTION,
)


def loss_config(section: Any) -> LossConfig:
    """The section as the composition that our own recipes describe; UserError for what is wrong.

    `section` is an `ERCPolicyLossConfig` (`settings`) or the mapping it is made from.
    """
    name = section.get("loss_mode")
    table = _composition(section, name) if name == OWN else _of_mode(section, name)
    try:
        config = LossConfig.model_validate(table)
    except ValidationError as error:
        raise UserError(_sentence(error, name)) from None
    if config.mask_truncated or (config.kl is not None and config.kl.model is not None):
        raise UserError(f"{SECTION}.loss: mask_truncated and kl.model are verl's business.")
    HOME.build(config)
    return config


def _of_mode(section: Any, name: str) -> dict[str, Any]:
    """A mode and its keys as a loss section."""
    mode = MODES.get(name)
    if mode is None:
        raise UserError(f"{SECTION}.loss_mode = {name!r} is none of {', '.join([*MODES, OWN])}.")
    if section.get("loss") is not None:
        raise UserError(f"{SECTION}.loss has no effect with loss_mode = {name}; use {OWN}.")
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
    return {
        "surrogate": {"kind": mode.surrogate, **_given(section, SURROGATE_KEYS)},
        "constraints": constraints,
        "positive_nll": section.get("positive_nll") or 0.0,
    }


def _composition(section: Any, name: str) -> dict[str, Any]:
    """`loss`, with ERC unless it names its constraints; the modes' keys have no place beside it."""
    for key in (*SURROGATE_KEYS, *ERC_KEYS, "random_mask_rate", "positive_nll"):
        if section.get(key) is not None:
            raise UserError(
                f"{SECTION}.{key} has no effect with loss_mode = {name}; write it into loss."
            )
    loss = section.get("loss")
    table = OmegaConf.to_container(loss) if OmegaConf.is_config(loss) else loss
    if not isinstance(table, dict):
        raise UserError(
            f"{SECTION}.loss = {loss!r}: loss_mode = {name} needs the loss section of a recipe, "
            "such as {surrogate: gspo_clip, constraints: [entropy_ratio_clip]}."
        )
    return keep_erc(table)


def _given(section: Any, keys: dict[str, str]) -> dict[str, Any]:
    return {
        argument: section.get(key) for key, argument in keys.items() if section.get(key) is not None
    }


def _sentence(error: ValidationError, mode: str) -> str:
    problem = error.errors(include_url=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    area, argument, value = problem["loc"][0], problem["loc"][-1], problem["input"]
    if mode == OWN:
        return f"{SECTION}.loss.{'.'.join(map(str, problem['loc']))} = {value!r}: {message}."
    if isinstance(value, dict):  # a factory's own bounds: their sentence begins with the argument
        argument = message.split()[0]
        value = value.get(argument)
    names = SURROGATE_KEYS if area == "surrogate" else {**ERC_KEYS, "random_mask_rate": "rate"}
    key = next((key for key, name in names.items() if name == argument), str(argument))
    if problem["type"] == UNKNOWN:
        return f"{SECTION}.{key} has no effect with loss_mode = {mode}; leave it null."
    return f"{SECTION}.{key} = {value!r}: {message}."
