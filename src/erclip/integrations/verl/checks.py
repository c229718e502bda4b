"""What verl would let pass and ERC cannot live with, refused before Ray starts.

Works on any nested mapping; verl and its config library are not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from erclip.errors import UserError

WORKER_MODULE = "erclip.integrations.verl.worker"
ACTOR = "actor_rollout_ref.actor"


class Rule(NamedTuple):
    """`path` must be one of `allowed`, for the reason `why`."""

    path: str
    allowed: tuple[Any, ...]
    why: str


NO_EFFECT = "erclip's losses do not read it (their settings are in actor.policy_loss)"
NO_LOGITS = "erclip's engine never forms the logits"
RULES = (
    Rule("trainer.use_v1", (True,), "the legacy trainer throws the old policy's entropies away"),
    Rule(
        "trainer.v1.trainer_mode",
        ("sync", "colocate_async"),
        "separate_async scores every mini-batch by itself, with older weights put back, so nothing "
        "tells ERC which update is a rollout's first",
    ),
    Rule(
        "algorithm.rollout_correction.bypass_mode",
        (False, None),
        "bypass mode never scores the rollout with the old policy, so it has no old entropies",
    ),
    Rule(f"{ACTOR}.strategy", ("fsdp", "fsdp2"), "erclip's engine is built on FSDP"),
    Rule(f"{ACTOR}.calculate_entropy", (True,), "ERC compares entropies"),
    Rule(f"{ACTOR}.loss_agg_mode", ("token-mean",), "the method's N counts all response tokens"),
    Rule(f"{ACTOR}.entropy_coeff", (0,), "erclip's entropies carry no gradient"),
    Rule(f"{ACTOR}.calculate_sum_pi_squared", (False,), NO_LOGITS),
    Rule(f"{ACTOR}.entropy_checkpointing", (False,), NO_LOGITS),
    Rule(f"{ACTOR}.entropy_from_logits_with_chunking", (False,), NO_LOGITS),
    Rule(f"{ACTOR}.use_prefix_grouper", (False,), NO_LOGITS),
    Rule("actor_rollout_ref.model.use_fused_kernels", (False,), NO_LOGITS),
    Rule("distillation.enabled", (False, None), "it replaces the policy loss"),
    Rule(f"{ACTOR}.clip_ratio", (0.2,), NO_EFFECT),
    Rule(f"{ACTOR}.clip_ratio_low", (0.2,), NO_EFFECT),
    Rule(f"{ACTOR}.clip_ratio_high", (0.2,), NO_EFFECT),
    Rule(f"{ACTOR}.clip_ratio_c", (3.0,), NO_EFFECT),
    Rule(f"{ACTOR}.tau_pos", (1.0,), NO_EFFECT),
    Rule(f"{ACTOR}.tau_neg", (1.05,), NO_EFFECT),
)


def check_config(config: Mapping[str, Any]) -> None:
    """Raise UserError for the first setting under which ERC would be wrong or silently absent."""
    for path, allowed, why in RULES:
        value = _select(config, path)
        if value not in allowed:
            wanted = allowed[0]
            raise UserError(f"{path} = {value}: {why}; set {path}={wanted}.")
    modules = _select(config, "actor_rollout_ref.model.external_lib")
    listed = [modules] if isinstance(modules, str) else list(modules or ())
    if WORKER_MODULE not in listed:
        names = ",".join([*listed, WORKER_MODULE])
        raise UserError(
            f"actor_rollout_ref.model.external_lib = {modules} leaves erclip's engine out; "
            f"set actor_rollout_ref.model.external_lib=[{names}]."
        )
    target = _select(config, f"{ACTOR}.policy_loss._target_")
    if target != "erclip.integrations.verl.settings.ERCPolicyLossConfig":
        raise UserError(
            f"{ACTOR}.policy_loss._target_ = {target} has no place for erclip's settings; start "
            "from one of erclip's recipes."
        )


def _select(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) or hasattr(config, "get") else None
    return config
