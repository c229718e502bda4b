"""Our losses behind verl's `ppo_loss`.

verl's `ppo_loss` sees old and new entropies but hands neither to the registered policy loss.
`ERCLoss` takes its place as the worker's loss function: it pads the entropies, calls `ppo_loss` for
everything that is verl's (KL, aggregation, importance weights), and is called back for the policy
loss.

Letters: B responses, T response tokens (index t scores token t); nats.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from erclip.integrations.verl import require_verl

require_verl()

import torch
from jaxtyping import Float
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, register_policy_loss
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from erclip.config.loss import build_loss
from erclip.errors import UserError
from erclip.integrations.verl.modes import MODES, OWN, loss_config
from erclip.losses import LossFn, LossOutput, policy_loss
from erclip.losses.types import Statistics
from erclip.runs.metrics import token_sums


@dataclass
class _Call:
    """One micro-batch on its way through verl's `ppo_loss`, and what our loss made of it."""

    loss_fn: LossFn
    num_tokens: float
    given: dict[str, Any]
    out: LossOutput | None = None


NAME = OWN  # in verl's registry
SLOPES = ("entropy_slopes", "entropy_slope_means")
"""The op's slopes, in the order of the engine's columns."""

STATISTICS, LOTS = "erclip_statistics", "erclip_lots"
FIELDS = {
    "sampler_logprobs": (
        "rollout_log_probs",
        "set actor_rollout_ref.rollout.calculate_log_probs=True",
    ),
    "reference_logprobs": ("ref_log_prob", "set actor_rollout_ref.actor.use_kl_loss=True"),
    "correct": ("rm_scores", "positive_nll needs the scores of the responses"),
}
"""Optional input → verl's field of the batch, and what to do where there is none."""

_current: ContextVar[_Call] = ContextVar("erclip_verl_call")


class ERCLoss:
    """The worker's loss function: `actor_rollout_wg.set_loss_fn(ERCLoss(actor_config))`.

    Every fraction it logs is a sum over tokens divided by the mini-batch's token count: neither
    micro-batches nor ranks change it. verl then averages over the mini-batches of a step.
    """

    def __init__(self, config: Any):
        self.config = config
        self._last: Statistics | None = None  # of the mini-batch before, for rules that adapt

    @functools.cached_property
    def loss_fn(self) -> policy_loss:
        """The composition; the engine asks it what it needs."""
        return build_loss(loss_config(self.config.policy_loss))

    def __getstate__(self) -> dict[str, Any]:
        # a rule of the user's is loaded where it runs
        return {"config": self.config, "_last": self._last}

    @functools.cached_property
    def _inner(self) -> Any:
        """The same configuration under the one name that is ours in verl's registry."""
        inner, section = copy.copy(self.config), copy.copy(self.config.policy_loss)
        object.__setattr__(section, "loss_mode", NAME)
        object.__setattr__(inner, "policy_loss", section)
        return inner

    def __call__(
        self, model_output: Any, data: Any, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Loss of one micro-batch, scaled as verl wants it (× dp_size), and its metrics."""
        if "entropy" not in data:
            raise UserError(
                "the batch holds no old entropies; ERC needs trainer.use_v1=True, "
                "trainer.v1.trainer_mode=sync or colocate_async, and no bypass mode."
            )
        call = _Call(
            loss_fn=self.loss_fn,
            num_tokens=max(data["batch_num_tokens"], 1) / data["dp_size"],
            given={
                "entropies": no_padding_2_padding(_entropies(model_output), data),
                **self._slopes(model_output, data),
                **past_inputs(data, self.loss_fn.needs),
                "statistics": tu.get_non_tensor_data(data, STATISTICS, None),
            },
        )
        ours = {"entropy", *SLOPES}
        token = _current.set(call)
        try:
            loss, metrics = ppo_loss(
                config=self._inner,
                model_output={k: v for k, v in model_output.items() if k not in ours},
                data=data,
                dp_group=dp_group,
            )
        finally:
            _current.reset(token)
        metrics.update(_pooled(call, data))
        return loss, metrics

    def prepare(self, data: Any, dp_group: Any) -> None:
        """Before a mini-batch is cut up: what its rules have to know of the whole of it."""
        if not self.loss_fn.mini_batch_rules:
            return
        if "lots" in self.loss_fn.needs:
            data[LOTS] = torch.rand_like(data["old_log_probs"], dtype=torch.float32)
        past = {name: data[name].to_padded_tensor(0.0) for name in ("old_log_probs", "advantages")}
        micro = {
            "old_logprobs": past["old_log_probs"],
            "advantages": past["advantages"],
            "mask": data["response_mask"].to_padded_tensor(0).bool(),
            **past_inputs(data, self.loss_fn.needs),
        }
        gather = functools.partial(_gather, group=dp_group)
        self._last = self.loss_fn.statistics([micro], gather, self._last)
        tu.assign_non_tensor(data, **{STATISTICS: self._last})

    def _slopes(self, model_output: Any, data: Any) -> dict[str, Tensor]:
        needed = [name for name in SLOPES if name in self.loss_fn.needs]
        if not all(name in model_output for name in needed):
            raise UserError(
                'entropy slopes, which erc_rule = "directional" needs, come from erclip\'s engine, '
                "and this worker runs another: is erclip.integrations.verl.worker in "
                "actor_rollout_ref.model.external_lib?"
            )
        return {name: no_padding_2_padding(model_output[name], data) for name in needed}


def past_inputs(data: Any, needs: Collection[str]) -> dict[str, Tensor]:
    """The optional inputs that verl's batch holds; UserError names a setting that is missing."""
    found = {"old_entropies": data["entropy"].to_padded_tensor(0.0)} if "entropy" in data else {}
    for name, (field, remedy) in FIELDS.items():
        if name not in needs:
            continue
        if field not in data:
            raise UserError(f"the loss needs {field} in the batch; {remedy}.")
        values = data[field].to_padded_tensor(0.0)
        found[name] = values.sum(-1) > 0 if name == "correct" else values
    if LOTS in data:
        found["lots"] = data[LOTS].to_padded_tensor(0.0)
    return found


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
    call.given["mask"] = response_mask.bool()
    call.out = call.loss_fn(
        logprobs=log_prob,
        old_logprobs=old_log_prob,
        advantages=advantages,
        num_tokens=call.num_tokens,
        **call.given,
    )
    return call.out.loss, {}


def _pooled(call: _Call, data: Any) -> dict[str, Metric]:
    """This micro-batch's share of each metric; verl adds micro-batches up and averages ranks."""
    assert call.out is not None
    sums = token_sums(call.out, call.given["entropies"], call.given["mask"])
    if tu.get_non_tensor_data(data, "update_in_rollout", None) == 1:  # the true ρ is still 1
        sums["erc/noise_frac"] = sums["clip/erc_frac"]
    return {
        name: Metric(value=value / call.num_tokens, aggregation=AggregationType.SUM)
        for name, value in sums.items()
    }


def _gather(values: Float[Tensor, " N"], group: Any) -> Float[Tensor, " M"]:
    """The values of all ranks of a group, in their order; N may differ."""
    if group is None or torch.distributed.get_world_size(group) == 1:
        return values
    parts: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(parts, values.cpu(), group=group)
    return torch.cat(parts).to(values.device)


def register() -> None:
    """Enter our name in verl's registry, and those of our modes that verl has no loss for.

    `ERCLoss` asks for our name whatever the mode; the others are there so that a worker without it
    says what is missing.
    """
    known = POLICY_LOSS_REGISTRY.get(NAME)
    if known is not None and known is not _policy_loss:
        raise UserError(
            f"verl has a policy loss {NAME!r} of its own ({known.__module__}); "
            "this version of erclip does not know it."
        )
    for name in (NAME, *MODES):
        if POLICY_LOSS_REGISTRY.get(name) is None:
            register_policy_loss(name)(_policy_loss)
