"""DAPO's dynamic sampling in TRL's generation: groups that teach nothing are not trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from trl import GRPOTrainer

from erclip.config.sampling import DynamicSampling
from erclip.errors import UserError
from erclip.integrations.trl import groups
from erclip.integrations.trl.tensors import Batch, loss_mask


class DynamicSamplingTrainer(GRPOTrainer):
    """`GRPOTrainer` that keeps the groups whose rewards differ, and may draw more prompts."""

    dynamic_sampling: DynamicSampling
    _rewards: Tensor | None = None  # of the last generation, all ranks' rows

    def _refuse_sampling(self) -> None:
        kind = self.dynamic_sampling.kind
        if kind == "off":
            return
        args: Any = self.args
        by_group = args.multi_objective_aggregation == "sum_then_normalize"
        if args.scale_rewards == "batch" or not by_group:
            raise UserError(
                f"dynamic_sampling = {kind!r} drops groups from a batch that is normalised as a "
                "whole by scale_rewards = 'batch' or multi_objective_aggregation = "
                "'normalize_then_sum'; use scale_rewards = 'group'."
            )
        if self._is_vlm:
            raise UserError(f"dynamic_sampling = {kind!r} cannot move images; set it to 'off'.")
        if kind in ("refill", "oversample") and isinstance(self.train_dataset, IterableDataset):
            raise UserError(
                f"dynamic_sampling = {kind!r} draws prompts by index and the data set is a stream; "
                "use 'drop', or a map-style data set."
            )

    def _calculate_rewards(self, *args: Any, **named: Any) -> Tensor:
        self._rewards = super()._calculate_rewards(*args, **named)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[Any]) -> Batch:
        output = super()._generate_and_score_completions(inputs)
        if not self.model.training or self.dynamic_sampling.kind == "off":
            return output
        return self._keep_informative(output)

    def _keep_informative(self, output: Batch) -> Batch:
        """Drop groups whose rewards are all equal, sample more if asked, deal rows to the ranks."""
        plan, pad_id = self.dynamic_sampling, self._tokenizer.pad_token_id
        target: int = self.args.generation_batch_size
        rounds = {"refill": getattr(plan, "max_rounds", 1), "oversample": 2}.get(plan.kind, 1)
        kept, spare, sampled = [], None, 0
        for round_ in range(rounds):
            if round_:
                output = super()._generate_and_score_completions(self._fresh_rows(round_))
            rows = groups.gather_rows(output, self.accelerator, pad_id)
            assert self._rewards is not None
            keep = groups.informative(self._rewards, self.reward_weights, self.num_generations)
            kept.append(groups.select(rows, keep))
            spare, sampled = rows, sampled + len(keep)
            if sum(len(part["prompt_ids"]) for part in kept) >= target and plan.kind == "refill":
                break
        rows = groups.concatenate(kept, pad_id)
        informative = len(rows["prompt_ids"])
        self._metrics["train"]["train/groups_kept_frac"].append(informative / sampled)
        self._metrics["train"]["train/responses"].append(float(sampled))
        rows = groups.select(rows, torch.arange(informative) < target)
        if not informative:  # nothing to learn: one row without a completion
            assert spare is not None
            rows = {name: value[:1] for name, value in spare.items()}
            rows["completion_mask"] = torch.zeros_like(rows["completion_mask"])
        return self._deal(output, rows)

    def _fresh_rows(self, round_: int) -> list[Any]:
        factor = getattr(self.dynamic_sampling, "factor", 2.0) - 1
        prompts = round(self.args.generation_batch_size // self.num_generations * factor)
        seed = (self.args.seed, "dynamic sampling", self.state.global_step, self._step, round_)
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        return groups.extra_rows(
            self.train_dataset, prompts, self.num_generations, seed, rank, ranks
        )

    def _deal(self, output: Batch, rows: groups.Rows) -> Batch:
        num_items = loss_mask(rows).sum()
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        local = groups.trim(groups.deal(rows, self.args.steps_per_generation, rank, ranks))
        others = {name: value for name, value in output.items() if name not in local}
        # rows first: TRL's shuffle reads the batch size off the first entry
        return {**local, **others, "num_items_in_batch": num_items}
