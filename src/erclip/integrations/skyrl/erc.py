"""Old entropies in SkyRL: a trainer that keeps them, a worker that computes them and hands them on.

SkyRL's workers return one list of numbers per response for the old policy, and hand one tensor of
them to the loss. Here the list is log-probs followed by entropies, and the tensor is complex: the
log-prob is its real part, the entropy its imaginary one.
"""

from __future__ import annotations

from typing import Any

import ray
import torch
from skyrl.backends.skyrl_train.workers.fsdp.fsdp_worker import FSDPPolicyWorkerBase
from skyrl.train.entrypoints.main_base import BasePPOExp
from skyrl.train.trainer import RayPPOTrainer
from torch import Tensor

from erclip.integrations.skyrl import entropies_now


class ERCPolicyWorkerBase(FSDPPolicyWorkerBase):
    """SkyRL's FSDP worker of the policy, with the entropies that it computes anyway."""

    def _forward_micro_batch(self, micro_batch: Any) -> Any:
        """Old log-probs [B, T] and, right of them, old entropies: [B, 2·T]."""
        model, self.model = self.model, _Scoring(self.model)
        try:
            output = super()._forward_micro_batch(micro_batch)
            entropies = self.model.entropies
        finally:
            self.model = model
        output["output"] = torch.cat([output["output"], entropies.to("cpu")], dim=1)
        return output

    def _forward_backward_micro(self, *positional: Any, **named: Any) -> dict[str, float]:
        """SkyRL's, whose loss finds the new entropies in `entropies_now`."""

        def keep(_: Any, __: Any, output: Any) -> None:
            logprobs, more = output
            entropies_now.set(_of_actions(more, logprobs))

        handle = self.model.register_forward_hook(keep)
        try:
            return super()._forward_backward_micro(*positional, **named)
        finally:
            handle.remove()
            entropies_now.set(None)


class _Scoring:
    """The model for one forward pass, with its entropies kept."""

    def __init__(self, model: Any):
        self._model, self.eval = model, model.eval
        self.entropies: Any = None

    def __call__(self, *positional: Any, **named: Any) -> Tensor:
        named |= {"return_output": True, "compute_entropy": True, "entropy_requires_grad": False}
        logprobs, output = self._model(*positional, **named)
        self.entropies = _of_actions(output, logprobs)
        return logprobs


def _of_actions(output: Any, logprobs: Tensor) -> Tensor:
    """The entropies of the positions that predict the response, float32 without gradient."""
    return output["entropy"][:, -logprobs.shape[1] - 1 : -1].detach().float()


class ERCTrainer(RayPPOTrainer):
    """SkyRL's trainer, with the old policy's entropies beside its log-probs."""

    def build_models(self, PolicyWorker: Any, CriticWorker: Any, RefWorker: Any) -> None:
        """SkyRL's, with our worker for the policy."""
        super().build_models(ray.remote(num_gpus=1)(ERCPolicyWorkerBase), CriticWorker, RefWorker)

    def _execute_forward_pass(self, model: str, *rest: Any, **named: Any) -> Tensor:
        scores = super()._execute_forward_pass(model, *rest, **named)
        if model != "policy":
            return scores
        logprobs, self._old_entropies = scores.chunk(2, dim=1)
        return logprobs

    def fwd_logprobs_values_reward(self, training_input: Any) -> Any:
        """SkyRL's; then the log-probs get their imaginary part."""
        batch = super().fwd_logprobs_values_reward(training_input)
        logprobs = batch["action_log_probs"]
        batch["action_log_probs"] = torch.complex(logprobs, self._old_entropies[: len(logprobs)])
        return batch


class ERCExp(BasePPOExp):
    """`BasePPOExp` with `ERCTrainer`."""

    def get_trainer(self, *positional: Any, **named: Any) -> ERCTrainer:
        """SkyRL's, of our class."""
        names = ("cfg", "tracker", "tokenizer", "train_dataset", "eval_dataset")
        names += ("inference_engine_client", "generator", "colocate_pg")
        return ERCTrainer(**dict(zip(names, positional, strict=False)), **named)
