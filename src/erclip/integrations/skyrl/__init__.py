"""Every loss of this package in SkyRL: a policy loss of its registry, and old entropies for ERC.

    cfg = SkyRLTrainConfig.from_cli_overrides(sys.argv[1:])
    use(cfg, {"surrogate": "gspo_clip"})
    validate_cfg(cfg)

Importing this package needs nothing of SkyRL. Letters: B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from erclip.errors import UserError
from erclip.extras import need, stand_on

stand_on("train", "the adapter for SkyRL")

from erclip.integrations.home import token_means
from erclip.integrations.skyrl.settings import ENTROPIES, HOME, check
from erclip.losses import policy_loss

SUPPORTED = ("0.3", "0.4")
NAME = "erclip"  # in SkyRL's registry
entropies_now: ContextVar[Tensor | None] = ContextVar("erclip_skyrl_entropies", default=None)
"""[B, T] of the forward pass whose loss is computed; `erc.ERCPolicyWorker` sets it."""


@dataclass
class Loss:
    """A policy loss as SkyRL's registry has them; it is pickled, and built where it runs."""

    section: dict[str, Any]

    @cached_property
    def loss_fn(self) -> policy_loss:
        """The composition."""
        return HOME.read(self.section)

    def __getstate__(self) -> dict[str, Any]:
        return {"section": self.section}

    def __call__(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        config: Any,
        loss_mask: Tensor | None = None,
        rollout_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """−Σ keep · surrogate (N lies in the advantages) and its metrics, means over the tokens.

        Old log-probs are complex where old entropies came along, as their imaginary part.
        """
        mask = torch.ones_like(log_probs) if loss_mask is None else loss_mask
        entropies = entropies_now.get() if old_log_probs.is_complex() else None
        if entropies is None and self.loss_fn.needs & ENTROPIES:
            raise UserError(
                f"{self.loss_fn!r} needs old entropies; start the run with erclip.integrations."
                "skyrl.erc.ERCExp in the place of BasePPOExp."
            )
        if rollout_logprobs is None and "sampler_logprobs" in self.loss_fn.needs:
            raise UserError(
                f"{self.loss_fn!r} needs the sampler's log-probs; set "
                "generator.sampling_params.logprobs=1."
            )
        with torch.autocast(log_probs.device.type, enabled=False):  # ratios are float32
            out = self.loss_fn(
                logprobs=log_probs.float(),
                old_logprobs=old_log_probs.real.float(),
                entropies=entropies,
                old_entropies=None if entropies is None else old_log_probs.imag,
                advantages=advantages.float(),
                mask=mask > 0,
                sampler_logprobs=None if rollout_logprobs is None else rollout_logprobs.float(),
                num_tokens=1,
            )
        means = token_means(out, mask > 0, entropies)
        return out.loss, {name: value.item() for name, value in means.items()}


def use(cfg: Any, loss: Mapping[str, Any]) -> None:
    """Register this `loss` section of a recipe as SkyRL's policy loss, and choose it in `cfg`.

    Raises UserError for what is wrong with it, or what SkyRL would do beside it without effect.
    """
    stand_on("skyrl", "the adapter for SkyRL")
    check_version(version("skyrl"))
    check(cfg.trainer, HOME.read(loss))
    registry = need("skyrl.backends.skyrl_train.utils.ppo_utils", "use").PolicyLossRegistry
    registry.register(NAME, Loss(dict(loss)))
    cfg.trainer.algorithm.policy_loss_type = NAME


def check_version(found: str) -> None:
    """Refuse a SkyRL that was not read.

    >>> check_version("0.3.0"), check_version("0.4.1")
    (None, None)
    """
    if ".".join(found.split(".")[:2]) not in SUPPORTED:
        raise UserError(
            f"SkyRL {found} is not supported, only {' and '.join(SUPPORTED)}; pip install "
            "'erclip[skyrl]'."
        )
