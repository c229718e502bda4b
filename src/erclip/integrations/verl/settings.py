"""`actor.policy_loss`: which of our losses, with which bands, in verl's own configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erclip.integrations.verl import require_verl

require_verl()

from verl.workers.config import PolicyLossConfig


@dataclass
class ERCPolicyLossConfig(PolicyLossConfig):
    """verl's section with our keys; null means the factory's default.

    clip_low and clip_high are distances from 1, dual is the c of dual-clip PPO, beta_* and tau_*
    belong to CE-GPPO and SAPO, anchor is the policy that ratios are taken to, erc_* is the entropy
    band. A key that `loss_mode` has no use for is refused. `random_mask_rate` adds the control for
    a claim about ERC: a mask of that rate; `positive_nll` the weighted negative log-likelihood of
    responses with a score above 0. With loss_mode "erclip", `loss` is the `loss` section of one of
    our recipes, and takes any rule; without a word of `constraints` ERC is among them.
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
    softness: float | None = None
    anchor: str | None = None
    random_mask_rate: float | None = None
    positive_nll: float | None = None
    loss: Any = None
