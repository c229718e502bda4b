"""Our losses behind verl's `ppo_loss`.

verl's `ppo_loss` sees old and new entropies but hands neither to the registered policy loss.
`ERCLoss` takes its place as the worker's loss function: it pads the entropies, calls `ppo_loss` for
everything that is verl's (KL, aggregation, importance weights), and is called back for the policy
loss.

Letters: B responses, T response tokens (index t scores token t); nats.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, register_policy_loss
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from erclip.config import LossConfig
from erclip.errors import UserError
from erclip.integrations.verl.settings import MODES, loss_config
from erclip.losses import LossOutput, positive_nll
from erclip.metrics import token_sums
from erclip.updates import build_loss, needs_slopes


@dataclass
class _Call:
    """One micro-batch on its way through verl's `ppo_loss`, and what our loss made of it."""

    loss_fn: Callable[..., LossOutput]
    num_tokens: float
    entropies: Tensor
    old_entropies: Tensor
    slopes: Tensor | None
    logprobs: Tensor | None = None
    mask: Tensor | None = None
    out: LossOutput | None = None


_current: ContextVar[_Call] = ContextVar("erclip_verl_call")


class ERCLoss:
    """The worker's loss function: `actor_rollout_wg.set_loss_fn(ERCLoss(actor_config))`.

    Every fraction it logs is a sum over tokens divided by the mini-batch's token count: neither
    micro-batches nor ranks change it. verl then averages over the mini-batches of a step.
    """

    def __init__(self, config: Any):
        self.config = config

    @functools.cached_property
    def _settings(self) -> LossConfig:
        return loss_config(self.config.policy_loss)

    @functools.cached_property
    def _loss_fn(self) -> Callable[..., LossOutput]:
        return build_loss(self._settings)

    @property
    def needs_slopes(self) -> bool:
        """Whether the engine has to compute ⟨∇ log π, ∇H⟩ (the directional rule)."""
        return needs_slopes(self._settings)

    @property
    def positive_nll(self) -> float:
        """Weight of the negative log-likelihood; the engine counts its tokens if it is not 0."""
        return self._settings.positive_nll

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}  # closures do not travel; they are built where they run

    def __call__(
        self, model_output: Any, data: Any, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Loss of one micro-batch, scaled as verl wants it (× dp_size), and its metrics."""
        call = _Call(
            loss_fn=self._loss_fn,
            num_tokens=max(data["batch_num_tokens"], 1) / data["dp_size"],
            entropies=no_padding_2_padding(_entropies(model_output), data),
            old_entropies=_old_entropies(data),
            slopes=self._slopes(model_output, data),
        )
        ours = {"entropy", "entropy_slopes"}
        token = _current.set(call)
        try:
            loss, metrics = ppo_loss(
                config=self.config,
                model_output={k: v for k, v in model_output.items() if k not in ours},
                data=data,
                dp_group=dp_group,
            )
        finally:
            _current.reset(token)
        metrics.update(_pooled(call, data))
        if self.positive_nll:
            nll = _positive_nll(call, data)
            metrics["loss/positive_nll"] = Metric(value=nll, aggregation=AggregationType.SUM)
            loss = loss + self.positive_nll * nll
        return loss, metrics

    def _slopes(self, model_output: Any, data: Any) -> Tensor | None:
        if not self.needs_slopes:
            return None
        if "entropy_slopes" not in model_output:
            raise UserError(
                'erc_rule = "directional" needs erclip\'s engine, and this worker runs another: '
                "is erclip.integrations.verl.worker in actor_rollout_ref.model.external_lib?"
            )
        return no_padding_2_padding(model_output["entropy_slopes"], data)


def _entropies(model_output: Any) -> Tensor:
    """New entropies of our engine: float32 and without gradient, which verl's own never are."""
    entropies = model_output.get("entropy")
    if entropies is None:
        raise UserError(
            "the forward pass returned no entropies; set actor_rollout_ref.actor.calculate_entropy"
            "=True."
        )
    if entropies.requires_grad or entropies.dtype != torch.float32:
        raise UserError(
            "these entropies come from verl's own engine: is erclip.integrations.verl.worker in "
            "actor_rollout_ref.model.external_lib?"
        )
    return entropies


def _old_entropies(data: Any) -> Tensor:
    if "entropy" not in data:
        raise UserError(
            "the batch holds no old entropies; ERC needs trainer.use_v1=True, "
            "trainer.v1.trainer_mode=sync or colocate_async, and no bypass mode."
        )
    return data["entropy"].to_padded_tensor(0.0)


def _policy_loss(
    *,
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str,
    config: Any,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """verl's registered policy loss: one function for all modes, the call says which."""
    call = _current.get(None)
    if call is None or loss_agg_mode != "token-mean":
        raise UserError(
            f"loss_mode = {config.policy_loss.loss_mode} runs under `erclip verl` only (its loss "
            "needs both entropies), and with loss_agg_mode = token-mean."
        )
    if rollout_is_weights is not None:  # every surrogate is linear in the advantage
        advantages = advantages * rollout_is_weights
    call.logprobs, call.mask = log_prob, response_mask.bool()
    call.out = call.loss_fn(
        logprobs=log_prob,
        old_logprobs=old_log_prob,
        advantages=advantages,
        mask=call.mask,
        entropies=call.entropies,
        old_entropies=call.old_entropies,
        entropy_slopes=call.slopes,
        num_tokens=call.num_tokens,
    )
    return call.out.loss, {}


def _pooled(call: _Call, data: Any) -> dict[str, Metric]:
    """This micro-batch's share of each metric; verl adds micro-batches up and averages ranks."""
    assert call.out is not None
    assert call.mask is not None
    sums = token_sums(call.out, call.entropies, call.mask)
    if tu.get_non_tensor_data(data, "update_in_rollout", None) == 1:  # the true ρ is still 1
        sums["erc/noise_frac"] = sums["clip/erc_frac"]
    return {
        name: Metric(value=value / call.num_tokens, aggregation=AggregationType.SUM)
        for name, value in sums.items()
    }


def correct_rows(data: Any) -> Bool[Tensor, " B"]:
    """Responses with a score above 0, as verl's reward function gave it."""
    if "rm_scores" not in data:
        raise UserError("positive_nll needs the scores of the responses (rm_scores) in the batch.")
    return data["rm_scores"].to_padded_tensor(0.0).sum(-1) > 0


def count_correct(data: Any, dp_group: Any) -> int:
    """Tokens of correct responses in the whole mini-batch, over all ranks."""
    lengths = data["response_mask"].to_padded_tensor(0).sum(-1)
    count = (lengths * correct_rows(data)).sum().to(get_device_id())
    torch.distributed.all_reduce(count, group=dp_group)
    return int(count)


def _positive_nll(call: _Call, data: Any) -> Tensor:
    """−Σ log π over the tokens of correct responses / their number, scaled like the loss."""
    assert call.logprobs is not None
    assert call.mask is not None
    count = max(tu.get_non_tensor_data(data, "num_correct_tokens", 0), 1) / data["dp_size"]
    return positive_nll(call.logprobs, call.mask & correct_rows(data)[:, None], count)


def register() -> None:
    """Enter every mode in verl's registry; loud if a name means something else there."""
    for name in MODES:
        known = POLICY_LOSS_REGISTRY.get(name)
        if known is not None and known is not _policy_loss:
            raise UserError(
                f"verl has a policy loss {name!r} of its own ({known.__module__}); "
                "this version of erclip does not know it."
            )
        register_policy_loss(name)(_policy_loss)
