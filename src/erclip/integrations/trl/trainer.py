"""ERCTrainer: TRL's `GRPOTrainer` with our losses, our head and DAPO's dynamic sampling."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import trl
from torch import Tensor
from trl import GRPOTrainer

from erclip.config.data import OverlongConfig
from erclip.errors import UserError
from erclip.integrations.hf.statistics import UpdateStatistics
from erclip.integrations.hf.window import UpdateWindow
from erclip.integrations.trl.config import ERCConfig
from erclip.integrations.trl.contract import check_contract
from erclip.integrations.trl.dynamic_sampling import DynamicSamplingTrainer
from erclip.integrations.trl.resume import ResumableTrainer
from erclip.integrations.trl.scoring import ScoringTrainer
from erclip.integrations.trl.tensors import Batch, loss_tensors
from erclip.losses import policy_loss
from erclip.losses.parts import name_of
from erclip.training.rewards import overlong_punishment
from erclip.training.updates import build_loss


class ERCTrainer(ScoringTrainer, DynamicSamplingTrainer, ResumableTrainer):
    """`GRPOTrainer` whose policy loss is `args.loss`; everything else is TRL's.

    L = −Σ keep · w · surrogate / N + Σ terms, N as in TRL's `dapo` loss: the generation batch's
    response tokens, prorated to one update. `loss_fn` is the composition; its `repr` says what it
    is. Before the first update the old policy scores exactly the micro-batches that are trained
    on, so that at equal weights every ratio is 1 and batch layout clips nothing.

    Raises UserError for a TRL whose private parts have moved, and for what cannot work.
    """

    _tag_names = ["trl", "grpo", "erclip"]  # noqa: RUF012, TRL's convention

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: Any = None, *rest: Any, **named: Any
    ):
        """Take what `GRPOTrainer` takes; `args` must be an `ERCConfig`."""
        if not isinstance(args, ERCConfig):
            raise UserError(f"args must be an ERCConfig, not {type(args).__name__}.")
        check_contract(GRPOTrainer, trl.__version__)
        sections = args.sections()
        self.dynamic_sampling = sections.dynamic_sampling
        self.loss_fn = build_loss(sections.loss)
        with _asking_for_reference(args, self.loss_fn):
            super().__init__(model, reward_funcs, args, *rest, **named)
        self.beta = 0.0  # TRL would score the reference before the shuffle
        self._needs_slopes = "entropy_slopes" in self.loss_fn.needs
        self._statistics = {
            mode: UpdateStatistics(self.loss_fn, self.accelerator) for mode in ("train", "eval")
        }
        self._windows = {"train": UpdateWindow(), "eval": UpdateWindow()}
        if sections.overlong is not None:
            self._add_reward("overlong_punishment", _overlong_reward(sections.overlong))
        self._refuse_idle_importance()
        self._refuse_sampling()
        self._install_heads()

    def _refuse_idle_importance(self) -> None:
        weight = self.loss_fn.importance
        if weight is not None and not self.use_vllm and self.rollout_func is None:
            raise UserError(
                f"loss.importance = {name_of(weight)!r} weighs tokens of another sampler, and here "
                "the policy itself samples: every weight is 1; leave it out, or set use_vllm."
            )

    def _add_reward(self, name: str, reward: Any) -> None:
        """After TRL's constructor, so that nobody's list of functions or weights is changed."""
        self.reward_funcs = [*self.reward_funcs, reward]
        self.reward_func_names = [*self.reward_func_names, name]
        self.reward_processing_classes = [*self.reward_processing_classes, None]
        self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])

    def _compute_loss(self, model: Any, inputs: Batch) -> Tensor:
        mode = "train" if self.model.training else "eval"
        statistics = self._statistics[mode].of(lambda: self._past(model, inputs, mode))
        new = self._score(model, inputs, slopes=self._needs_slopes, router=self.aux_loss_enabled)
        tensors = loss_tensors(inputs, new, new if mode == "eval" else None)
        out = self.loss_fn(
            **tensors, num_tokens=self._num_tokens(inputs, mode), statistics=statistics
        )
        window = self._windows[mode]
        window.add(out, new.entropies.detach(), tensors["mask"])
        if mode == "eval" or self.accelerator.sync_gradients:
            self._statistics[mode].close()
            self._log_update(window.close(self.accelerator), mode)
        if new.router_loss is None:
            return out.loss
        return out.loss + self._router_share(new.router_loss, mode)

    def _router_share(self, router_loss: Tensor, mode: str) -> Tensor:
        """A mixture of experts' load-balancing loss, a mean over an update's micro-batches."""
        every = self.accelerator.gather_for_metrics(router_loss.detach())
        self._metrics[mode]["aux_loss"].append(every.mean().item())
        parts = self.current_gradient_accumulation_steps if mode == "train" else 1
        return self.router_aux_loss_coef * router_loss / parts

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


@contextmanager
def _asking_for_reference(args: ERCConfig, loss_fn: policy_loss) -> Generator[None]:
    """Within it, `beta` is what makes TRL load a reference model if, and only if, one is needed."""
    beta, args.beta = args.beta, float("reference_logprobs" in loss_fn.needs)
    try:
        yield
    finally:
        args.beta = beta


def _overlong_reward(config: OverlongConfig) -> Any:
    def overlong(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [
            overlong_punishment(len(ids), config.max_length, config.cache) for ids in completion_ids
        ]

    return overlong
