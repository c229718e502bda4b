"""Who scores what in an `ERCTrainer`: the old policy, the reference and the one in training."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import use_adapter

from erclip.integrations.hf.head import Scored, add_scoring_head, install_head
from erclip.integrations.trl.tensors import Batch, loss_mask, loss_tensors
from erclip.losses import policy_loss
from erclip.training import rounding
from erclip.training.updates import uses_erc

COUNTS = ("num_images", "num_tiles")  # of a batch with images; no input of a model
ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by accelerate's mixed precision


class ScoringTrainer(GRPOTrainer):
    """`GRPOTrainer` whose micro-batches come with the scores of the old policy and the reference.

    They are scored after the shuffle, just as they are trained on: at equal weights every ratio is
    exactly 1.
    """

    loss_fn: policy_loss

    def _install_heads(self) -> None:
        """Our head in the policy and its reference, or TRL's own and a word about it."""
        model: Any = self.model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        blocked = "DeepSpeed wraps it" if self.is_deepspeed_enabled else None
        self._has_exact_head = install_head(base, self.loss_fn.needs, blocked, "TRL")
        if self._has_exact_head and self.ref_model is not None:  # the same architecture
            add_scoring_head(self.accelerator.unwrap_model(self.ref_model))

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *rest: Any,
        **named: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What TRL asks for before it shuffles, and needs then only for vLLM's correction.

        NaN otherwise: `_prepare_inputs` scores the shuffled micro-batches instead.
        """
        if self.use_vllm and self.vllm_importance_sampling_correction:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *rest, **named
            )
        shape = (len(input_ids), logits_to_keep)
        return torch.full(shape, math.nan, device=input_ids.device), None, None

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        """TRL's micro-batch; a freshly filled buffer is first scored by the policy as it is now."""
        buffered = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.model.training:
            inputs.pop("old_per_token_logps", None)  # in evaluation old and new are one policy
            self._complete(inputs)
        elif self._buffered_inputs is not buffered:
            for batch in self._buffered_inputs:
                with torch.no_grad():
                    old = self._score(self.model, batch)
                batch["old_per_token_logps"], batch["old_entropies"] = old.logprobs, old.entropies
                self._complete(batch)
            self._measure_rounding()
        return inputs

    def _complete(self, batch: Batch) -> None:
        """What the loss needs beside the old policy: the same whenever it looks at this batch."""
        mask = batch["completion_mask"]
        if "lots" in self.loss_fn.needs:
            batch["lots"] = torch.rand(mask.shape, device=mask.device)
        if "reference_logprobs" in self.loss_fn.needs:
            batch["ref_per_token_logps"] = self._score_reference(batch)

    @torch.no_grad()
    def _score_reference(self, batch: Batch) -> Tensor:
        """The frozen model's log-probs; with adapters it is the model without them."""
        if self.ref_model is not None:
            return self._score(self.ref_model, batch).logprobs
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            return self._score(self.model, batch).logprobs

    def _score(
        self, model: Any, batch: Batch, *, slopes: bool = False, router: bool = False
    ) -> Scored:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        targets = batch["completion_ids"]
        stock = super()._get_per_token_logps_and_entropies
        known = inspect.signature(stock).parameters
        images = {name: value for name, value in batch.items() if name in known}
        if not self._has_exact_head:
            width, entropy = targets.shape[1], model is not self.ref_model
            logprobs, entropies, router_loss = stock(
                model,
                ids,
                attention,
                width,
                compute_entropy=entropy,
                compute_aux_loss=router,
                **images,
            )
            none = torch.full_like(logprobs, math.nan)
            entropies = none if entropies is None else entropies.detach()
            return Scored(logprobs, entropies, None, router_loss)
        with self.accelerator.autocast():
            out = model(
                input_ids=ids,
                attention_mask=attention,
                score=(targets, loss_mask(batch)),
                options={"temperature": self.temperature, "slopes": slopes},
                router=router,
                **{name: value for name, value in images.items() if name not in COUNTS},
            )
        live = "live_entropies" in self.loss_fn.needs
        return out if live else out._replace(entropies=out.entropies.detach())

    @torch.no_grad()
    def _measure_rounding(self) -> None:
        """What ERC clips for rounding alone, in the first update of this generation."""
        generation = self._step // (self.args.steps_per_generation * self.num_iterations)
        if not (uses_erc(self.loss_fn) and rounding.due(generation + 1)):
            return
        rules = rounding.token_rules(self.loss_fn)
        slopes = "entropy_slopes" in rules.needs
        rounded = ROUNDED.get(self.accelerator.mixed_precision)
        sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        assert self._buffered_inputs is not None
        with rounding.nudged_embeddings(self.accelerator.unwrap_model(self.model), rounded):
            for batch in self._buffered_inputs[: self.current_gradient_accumulation_steps]:
                tensors = loss_tensors(batch, self._score(self.model, batch, slopes=slopes))
                out = rules(**tensors)
                sums += torch.stack([(out.erc_low | out.erc_high).sum(), tensors["mask"].sum()])
        clipped, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        self._metrics["train"]["erc/rounding_frac"].append(clipped / max(tokens, 1.0))
