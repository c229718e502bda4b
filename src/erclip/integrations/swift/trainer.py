"""ms-swift's `GRPOTrainer` with our losses and our head: old entropies are kept beside log-probs.

Letters: B responses, T completion positions of a micro-batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from swift.rlhf_trainers import GRPOTrainer
from torch import Tensor
from trl.trainer import disable_dropout_in_model

from erclip.errors import UserError
from erclip.integrations.hf.head import install_head
from erclip.integrations.hf.update import Host, Update
from erclip.integrations.swift import chosen
from erclip.integrations.swift.settings import HOME, refuse_inert, refuse_replaced
from erclip.losses import kl_penalty
from erclip.training.policy import Scores


class ERCTrainer(GRPOTrainer):
    """`GRPOTrainer` whose policy loss is the section given to `use`; everything else is ms-swift's.

    L = −Σ keep · surrogate / N, N the response tokens of one update over all its micro-batches and
    ranks. Before a generation's first update the policy scores the micro-batches that are trained
    on, as ms-swift does for its own log-probs, through our head.
    """

    def __init__(self, *positional: Any, **named: Any):
        """Takes what `GRPOTrainer` takes."""
        args = named["args"]
        refuse_replaced(args)
        self.loss_fn = HOME.read(chosen())
        if args.beta and not args.kl_in_reward:
            terms = (*self.loss_fn.terms, kl_penalty(args.beta, "k3"))
            self.loss_fn = replace(self.loss_fn, terms=terms)
        refuse_inert(self.loss_fn, args)
        self._needs_slopes = "entropy_slopes" in self.loss_fn.needs
        super().__init__(*positional, **named)
        disable_dropout_in_model(self.model)  # it would make old and new differ at equal weights
        base: Any = self.accelerator.unwrap_model(self.model)
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        parallel = self.template.sequence_parallel_size > 1 or self.template.padding_free
        others = self.is_multimodal or self.is_deepspeed_enabled or parallel
        blocked = "multimodal, DeepSpeed, padding-free or sequence-parallel" if others else None
        self._exact = install_head(base, self.loss_fn.needs, blocked, "ms-swift")
        host = Host(lambda batch: self._score(self.model, batch), self._tensors)
        self._updates = {
            mode: Update(self.loss_fn, self.accelerator, base, host) for mode in ("train", "eval")
        }

    # Scores --------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self, model: Any, model_inputs: Any, grpo_batch: Any, *rest: Any, **named: Any
    ) -> tuple[Tensor, Tensor | None]:
        """What ms-swift asks for before the updates: the old policy, then a reference model."""
        if model is not self.model:
            return super()._get_per_token_logps_and_entropies(
                model, model_inputs, grpo_batch, *rest, **named
            )
        scores = self._score(model, {"model_inputs": model_inputs, "grpo_batch": grpo_batch})
        if grpo_batch.old_per_token_logps is None:
            grpo_batch.old_entropies = scores.entropies
        return scores.logprobs, scores.entropies

    def _score(self, model: Any, micro: dict[str, Any]) -> Scores:
        inputs, batch = micro["model_inputs"], micro["grpo_batch"]
        if self.dynamic_num_samples:
            raise UserError("responses of several turns that differ in number are not supported.")
        if not self._exact:
            logprobs, entropies = super()._get_per_token_logps_and_entropies(
                model, inputs, batch, compute_entropy=True
            )
            assert entropies is not None
            return Scores(logprobs.float(), entropies.detach().float(), None)
        inputs = {k: v for k, v in inputs.items() if k not in ("use_cache", "logits_to_keep")}
        targets = inputs["input_ids"][:, -batch.logits_to_keep :]
        options = {"temperature": self.temperature, "slopes": self._needs_slopes}
        with self.accelerator.autocast():
            score = (targets, batch.completion_mask.bool())
            out = model(**inputs, score=score, options=options)
        live = "live_entropies" in self.loss_fn.needs
        return Scores(out.logprobs, out.entropies if live else out.entropies.detach(), out.slopes)

    # The loss ------------------------------------------------------------------------------------

    def _compute_loss(
        self, model: Any, model_inputs: Any, grpo_batch: Any, origin_data: Any = None
    ) -> Tensor:
        mode = "train" if self.model.training else "eval"
        micro = {"model_inputs": model_inputs, "grpo_batch": grpo_batch}
        batches, first, last, scale = [micro], False, True, 1
        if mode == "train":
            args, steps = self.args, self.current_gradient_accumulation_steps
            begun = self._step - self._step % args.gradient_accumulation_steps
            place = begun % args.steps_per_generation
            batches = self._buffered_inputs[place : place + steps]
            first = begun % (args.steps_per_generation * self.num_iterations) == 0
            last, scale = self.accelerator.sync_gradients, steps  # by which `Trainer` divides
        new = self._score(model, micro)
        loss = self._updates[mode].loss(micro, new, batches, first)
        if last:
            for name, value in self._updates[mode].close().items():
                self._metrics[mode][name].append(value)
        return loss * scale

    def _tensors(self, micro: dict[str, Any], new: Scores | None) -> dict[str, Any]:
        """A micro-batch as the loss's arguments; `new` are the current policy's scores."""
        batch = micro["grpo_batch"]
        old, mask = batch.old_per_token_logps, batch.completion_mask.bool()
        if self.overlong_filter:
            mask = mask & ~batch.truncated_mask[:, None]
        sampled = batch.rollout_per_token_logps  # without vLLM the sampler is the old policy
        if "lots" in self.loss_fn.needs and not hasattr(batch, "lots"):
            batch.lots = torch.rand(mask.shape, device=mask.device)
        tensors = {
            "old_logprobs": old,
            "old_entropies": batch.old_entropies,
            "sampler_logprobs": old if sampled is None else sampled,
            "reference_logprobs": batch.ref_per_token_logps,
            "advantages": batch.advantages,
            "mask": mask,
            "lots": getattr(batch, "lots", None),
        }
        if new is None:
            return tensors
        own = {"logprobs": new.logprobs, "entropies": new.entropies, "entropy_slopes": new.slopes}
        return {**tensors, **own}
