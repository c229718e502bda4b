"""ms-swift's `GRPOTrainer` with our losses and our head: old entropies are kept beside log-probs.

Letters: B responses, T completion positions of a micro-batch.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from swift.rlhf_trainers import GRPOTrainer
from torch import Tensor
from trl.trainer import disable_dropout_in_model

from erclip.errors import UserError
from erclip.integrations.hf.head import add_scoring_head
from erclip.integrations.hf.statistics import UpdateStatistics
from erclip.integrations.hf.window import UpdateWindow
from erclip.integrations.swift import chosen
from erclip.integrations.swift.settings import HOME, refuse_inert, refuse_replaced
from erclip.losses import kl_penalty
from erclip.training.policy import Scores
from erclip.training.rounding import due, nudged_embeddings, token_rules
from erclip.training.updates import uses_erc


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
        self._base: Any = self.accelerator.unwrap_model(self.model)
        if hasattr(self._base, "get_base_model"):
            self._base = self._base.get_base_model()
        self._exact = self._install_head()
        modes = ("train", "eval")
        self._windows = {mode: UpdateWindow() for mode in modes}
        self._statistics = {m: UpdateStatistics(self.loss_fn, self.accelerator) for m in modes}
        self._num_tokens: Tensor | None = None  # of the update under way
        self._generations = 0

    def _install_head(self) -> bool:
        parallel = self.template.sequence_parallel_size > 1 or self.template.padding_free
        if self.is_multimodal or self.is_deepspeed_enabled or parallel:
            reason: str | None = "multimodal, DeepSpeed, padding-free or sequence-parallel"
        else:
            reason = add_scoring_head(self._base)
        if reason is None:
            return True
        if self._needs_slopes:
            raise UserError(
                f"rule = 'directional' needs erclip's head, which cannot serve this run "
                f"({reason}); set rule = 'paper'."
            )
        warnings.warn(
            f"ms-swift's own head scores this run ({reason}): entropies below 1e-4 nats lose 5 % "
            "and more there, which ERC may take for a change of the policy; see "
            "docs/noise-floor.md.",
            stacklevel=3,
        )
        return False

    # Scores --------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self, model: Any, model_inputs: Any, grpo_batch: Any, *rest: Any, **named: Any
    ) -> tuple[Tensor, Tensor | None]:
        """What ms-swift asks for before the updates: the old policy, then a reference model."""
        if model is not self.model:
            return super()._get_per_token_logps_and_entropies(
                model, model_inputs, grpo_batch, *rest, **named
            )
        scores = self._score(model, model_inputs, grpo_batch)
        if grpo_batch.old_per_token_logps is None:
            grpo_batch.old_entropies = scores.entropies
        return scores.logprobs, scores.entropies

    def _score(self, model: Any, model_inputs: Any, grpo_batch: Any) -> Scores:
        if self.dynamic_num_samples:
            raise UserError("responses of several turns that differ in number are not supported.")
        if not self._exact:
            logprobs, entropies = super()._get_per_token_logps_and_entropies(
                model, model_inputs, grpo_batch, compute_entropy=True
            )
            assert entropies is not None
            return Scores(logprobs.float(), entropies.detach().float(), None)
        inputs = {k: v for k, v in model_inputs.items() if k not in ("use_cache", "logits_to_keep")}
        targets = inputs["input_ids"][:, -grpo_batch.logits_to_keep :]
        options = {"temperature": self.temperature, "slopes": self._needs_slopes}
        with self.accelerator.autocast():
            score = (targets, grpo_batch.completion_mask.bool())
            out = model(**inputs, score=score, options=options)
        return Scores(out.logprobs, out.entropies.detach(), out.slopes)

    # The loss ------------------------------------------------------------------------------------

    def _compute_loss(
        self, model: Any, model_inputs: Any, grpo_batch: Any, origin_data: Any = None
    ) -> Tensor:
        mode = "train" if self.model.training else "eval"
        if self._num_tokens is None:
            self._begin_update(mode, grpo_batch)
        statistics = self._statistics[mode].of(lambda: self._past(model, model_inputs, grpo_batch))
        new = self._score(model, model_inputs, grpo_batch)
        tensors = self._tensors(grpo_batch, new)
        out = self.loss_fn(**tensors, num_tokens=self._num_tokens, statistics=statistics)
        self._windows[mode].add(out, new.entropies, tensors["mask"])
        if mode == "eval":
            self._end_update(mode)
            return out.loss
        if self.accelerator.sync_gradients:
            self._end_update(mode)
        return out.loss * self.current_gradient_accumulation_steps  # which `Trainer` divides by

    def _mask(self, grpo_batch: Any) -> Tensor:
        mask = grpo_batch.completion_mask.bool()
        return mask & ~grpo_batch.truncated_mask[:, None] if self.overlong_filter else mask

    def _tensors(self, grpo_batch: Any, new: Scores | None) -> dict[str, Any]:
        old, mask = grpo_batch.old_per_token_logps, self._mask(grpo_batch)
        sampled = grpo_batch.rollout_per_token_logps  # without vLLM the sampler is the old policy
        if "lots" in self.loss_fn.needs and not hasattr(grpo_batch, "lots"):
            grpo_batch.lots = torch.rand(mask.shape, device=mask.device)
        tensors = {
            "old_logprobs": old,
            "old_entropies": grpo_batch.old_entropies,
            "sampler_logprobs": old if sampled is None else sampled,
            "reference_logprobs": grpo_batch.ref_per_token_logps,
            "advantages": grpo_batch.advantages,
            "mask": mask,
            "lots": getattr(grpo_batch, "lots", None),
        }
        own = {} if new is None else {"logprobs": new.logprobs, "entropies": new.entropies}
        return {**tensors, **own, "entropy_slopes": None if new is None else new.slopes}

    # One update ----------------------------------------------------------------------------------

    def _update(self, model_inputs: Any, grpo_batch: Any) -> list[tuple[Any, Any]]:
        """The micro-batches of the update that begins with this one."""
        if not self.model.training:
            return [(model_inputs, grpo_batch)]
        first = self._step % self.args.steps_per_generation
        batches = self._buffered_inputs[first : first + self.current_gradient_accumulation_steps]
        return [(batch["model_inputs"], batch["grpo_batch"]) for batch in batches]

    def _past(self, model: Any, model_inputs: Any, grpo_batch: Any) -> list[dict[str, Any]]:
        """What the rules measure; the policy in training is scored only if one asks for it."""
        current = self.loss_fn.measures_current
        return [
            self._tensors(batch, self._score(model, inputs, batch) if current else None)
            for inputs, batch in self._update(model_inputs, grpo_batch)
        ]

    def _begin_update(self, mode: str, grpo_batch: Any) -> None:
        batches = [batch for _, batch in self._update(None, grpo_batch)]
        count = torch.stack([self._mask(batch).sum() for batch in batches]).sum()
        total = self.accelerator.reduce(count.float(), reduction="sum").clamp(min=1.0)
        self._num_tokens = total / self.accelerator.num_processes  # gradients are averaged
        if mode == "train" and self._is_first() and uses_erc(self.loss_fn):
            self._generations += 1
            if due(self._generations):
                self._metrics[mode]["erc/rounding_frac"].append(self._rounding(grpo_batch))

    def _is_first(self) -> bool:
        return self._step % (self.args.steps_per_generation * self.num_iterations) == 0

    @torch.no_grad()
    def _rounding(self, grpo_batch: Any) -> float:
        """What ERC clips for rounding alone: `erclip.training.rounding`."""
        rules, window = token_rules(self.loss_fn), UpdateWindow()
        with nudged_embeddings(self._base):
            for inputs, batch in self._update(None, grpo_batch):
                new = self._score(self.model, inputs, batch)
                tensors = self._tensors(batch, new)
                window.add(rules(**tensors, num_tokens=1), new.entropies, tensors["mask"])
        return window.close(self.accelerator)["clip/erc_frac"]

    def _end_update(self, mode: str) -> None:
        metrics = self._windows[mode].close(self.accelerator)
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        self._statistics[mode].close()
        self._num_tokens = None
        first = self._step + 1 - self.current_gradient_accumulation_steps if mode == "train" else -1
        if first % (self.args.steps_per_generation * self.num_iterations) == 0:
            self._metrics[mode]["erc/noise_frac"].append(metrics["clip/erc_frac"])
