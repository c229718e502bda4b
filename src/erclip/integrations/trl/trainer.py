"""ERCTrainer: TRL's `GRPOTrainer` with our losses, our head and DAPO's dynamic sampling."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from trl import GRPOTrainer

from erclip.config.data import OverlongConfig
from erclip.errors import UserError
from erclip.integrations.trl import groups
from erclip.integrations.trl.config import ERCConfig
from erclip.integrations.trl.head import add_scoring_head
from erclip.integrations.trl.tensors import Batch, UpdateStatistics, loss_mask, loss_tensors
from erclip.integrations.trl.window import UpdateWindow
from erclip.training.policy import Scores
from erclip.training.rewards import overlong_punishment
from erclip.training.updates import build_loss


class ERCTrainer(GRPOTrainer):
    """`GRPOTrainer` whose policy loss is `args.loss`; everything else is TRL's.

    L = −Σ keep · surrogate / N, N as in TRL's `dapo` loss: the generation batch's response tokens,
    prorated to one update. Before the first update the old policy scores exactly the micro-batches
    that are trained on, so that at equal weights every ratio is 1 and batch layout clips nothing.
    """

    _tag_names = ["trl", "grpo", "erclip"]  # noqa: RUF012, TRL's convention

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: Any = None, *rest: Any, **named: Any
    ):
        """Take what `GRPOTrainer` takes; `args` must be an `ERCConfig`."""
        if not isinstance(args, ERCConfig):
            raise UserError(f"args must be an ERCConfig, not {type(args).__name__}.")
        super().__init__(model, reward_funcs, args, *rest, **named)
        sections = args.sections()
        self.dynamic_sampling = sections.dynamic_sampling
        self.loss_fn = build_loss(sections.loss)
        self._needs_slopes = "entropy_slopes" in self.loss_fn.needs
        self._statistics = {
            mode: UpdateStatistics(self.loss_fn, self.accelerator) for mode in ("train", "eval")
        }
        self._windows = {"train": UpdateWindow(), "eval": UpdateWindow()}
        self._rewards: Tensor | None = None
        if sections.overlong is not None:
            self._add_reward("overlong_punishment", _overlong_reward(sections.overlong))
        self._refuse_unsupported()
        self._has_exact_head = self._install_head()

    def _refuse_unsupported(self) -> None:
        if self.aux_loss_enabled:
            raise UserError("An ERCTrainer has no router loss; set router_aux_loss_coef = 0.")
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

    def _add_reward(self, name: str, reward: Any) -> None:
        """After TRL's constructor, so that nobody's list of functions or weights is changed."""
        self.reward_funcs = [*self.reward_funcs, reward]
        self.reward_func_names = [*self.reward_func_names, name]
        self.reward_processing_classes = [*self.reward_processing_classes, None]
        self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])

    def _install_head(self) -> bool:
        model: Any = self.model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if self._is_vlm or self.is_deepspeed_enabled:
            reason: str | None = "a vision-language model or DeepSpeed wraps it"
        else:
            reason = add_scoring_head(base)
        if reason is None:
            return True
        if self._needs_slopes:
            raise UserError(
                f"rule = 'directional' needs erclip's head, which cannot serve this model "
                f"({reason}); set rule = 'paper'."
            )
        warnings.warn(
            f"TRL's own head scores this model ({reason}): entropies below 1e-4 nats lose 5 % and "
            "more there, which ERC may take for a change of the policy; see docs/noise-floor.md.",
            stacklevel=3,
        )
        return False

    # The old policy ----------------------------------------------------------------------------

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
            return self._with_lots(inputs)
        if self._buffered_inputs is not buffered:
            for batch in self._buffered_inputs:
                with torch.no_grad():
                    old = self._score(self.model, batch)
                batch["old_per_token_logps"], batch["old_entropies"] = old.logprobs, old.entropies
                self._with_lots(batch)
        return inputs

    def _with_lots(self, batch: Batch) -> Batch:
        """One number per token, the same whenever the loss looks at this micro-batch."""
        if "lots" in self.loss_fn.needs:
            mask = batch["completion_mask"]
            batch["lots"] = torch.rand(mask.shape, device=mask.device)
        return batch

    def _score(self, model: Any, batch: Batch, *, slopes: bool = False) -> Scores:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        targets = batch["completion_ids"]
        if not self._has_exact_head:
            method = super()._get_per_token_logps_and_entropies
            known = inspect.signature(method).parameters
            images = {name: value for name, value in batch.items() if name in known}
            width = targets.shape[1]
            logprobs, entropies, _ = method(
                model, ids, attention, width, compute_entropy=True, **images
            )
            assert entropies is not None
            return Scores(logprobs, entropies.detach(), None)
        options = {"temperature": self.temperature, "slopes": slopes}
        with self.accelerator.autocast():
            out = model(
                input_ids=ids,
                attention_mask=attention,
                score=(targets, loss_mask(batch)),
                options=options,
            )
        return Scores(out.logprobs, out.entropies.detach(), out.slopes)

    # The loss ----------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: Batch) -> Tensor:
        mode = "train" if self.model.training else "eval"
        statistics = self._statistics[mode].of(lambda: self._past(model, inputs, mode))
        new = self._score(model, inputs, slopes=self._needs_slopes)
        tensors = loss_tensors(inputs, new, new if mode == "eval" else None)
        out = self.loss_fn(
            **tensors, num_tokens=self._num_tokens(inputs, mode), statistics=statistics
        )
        window = self._windows[mode]
        window.add(out, new.entropies, tensors["mask"])
        if mode == "eval" or self.accelerator.sync_gradients:
            self._statistics[mode].close()
            self._log_update(window.close(self.accelerator), mode)
        return out.loss

    def _past(self, model: Any, inputs: Batch, mode: str) -> list[dict[str, Any]]:
        """All micro-batches of this update; scored now if a rule measures the current policy."""
        if mode == "eval":
            new = self._score(model, inputs, slopes=self._needs_slopes)
            return [loss_tensors(inputs, new, new)]
        assert self._buffered_inputs is not None
        first = self._step % self.args.steps_per_generation
        batches = self._buffered_inputs[first : first + self.current_gradient_accumulation_steps]
        if not self.loss_fn.measures_current:
            return [loss_tensors(batch, None) for batch in batches]
        return [
            loss_tensors(batch, self._score(model, batch, slopes=self._needs_slopes))
            for batch in batches
        ]

    def _num_tokens(self, inputs: Batch, mode: str) -> Tensor:
        """TRL's N: the generation batch's tokens over all ranks, prorated to one update."""
        count = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if mode == "train":
            count = count * self.current_gradient_accumulation_steps
            count = count / self.args.steps_per_generation
        return count

    def _log_update(self, metrics: dict[str, float], mode: str) -> None:
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        if mode == "train":
            first = self._step + 1 - self.current_gradient_accumulation_steps
            if first % (self.args.steps_per_generation * self.num_iterations) == 0:
                self._metrics[mode]["erc/noise_frac"].append(metrics["clip/erc_frac"])

    # Rewards and dynamic sampling --------------------------------------------------------------

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


def _overlong_reward(config: OverlongConfig) -> Any:
    def overlong(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [
            overlong_punishment(len(ids), config.max_length, config.cache) for ids in completion_ids
        ]

    return overlong
