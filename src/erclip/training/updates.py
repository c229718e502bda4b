"""TokenBatch → update: score with the old policy, then K mini-batches × E epochs of AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from erclip.config import Config
from erclip.config.loss import build_loss
from erclip.errors import UserError
from erclip.losses import LossOutput, policy_loss
from erclip.losses.parts import needs_of
from erclip.losses.types import Statistics
from erclip.machine.distributed import World
from erclip.runs.metrics import Pool, ratio_quantiles, sampler_sums, staleness, token_sums
from erclip.runs.work import Work
from erclip.text import in_a_line
from erclip.training.batches import TokenBatch
from erclip.training.optimizers import build_optimizer, build_schedule
from erclip.training.policy import Policy, Scores, load_policy
from erclip.training.policy.precision import fixed_order
from erclip.training.sharding import whole


@dataclass(frozen=True)
class ScoredBatch:
    """A micro-batch with what the old policy thought of its tokens."""

    batch: TokenBatch
    old: Scores


GIVEN = frozenset(
    {"entropies", "old_entropies", "live_entropies", "correct", "lots", "reference_logprobs"}
    | {"entropy_slopes", "entropy_slope_means"}
    | {"sampler_logprobs", "sampler_top_logprobs", "top_logprobs"}
)
"""Optional inputs of a loss that an update computes."""

SLOPES = frozenset({"entropy_slopes", "entropy_slope_means"})
"""What the op computes in one go, if either is needed."""

Lots = Callable[[TokenBatch], Tensor]
"""A uniform number in [0, 1) for every token of a micro-batch [B, T]."""

Watch = Callable[[ScoredBatch, Scores, LossOutput], None]
"""Whoever wants to see the tokens of an update: old scores, new scores, what fired."""


def uses_erc(loss_fn: policy_loss) -> bool:
    """Whether an entropy-ratio constraint is in the loss."""
    return "erc_low" in loss_fn.reports


def check_loss(loss_fn: policy_loss) -> policy_loss:
    """Refuse, before anything is sampled, a loss that fails or that needs what is not computed."""
    missing = sorted(loss_fn.needs - GIVEN)
    if missing:
        raise UserError(f"loss: {loss_fn!r} needs {', '.join(missing)}, which no update computes.")
    try:
        loss_fn.reports  # noqa: B018 - calls it on one token
    except Exception as error:  # a user's rule may raise anything; the sentence says what
        raise UserError(f"loss: {loss_fn!r} fails with {in_a_line(error)}") from error
    return loss_fn


@torch.no_grad()
def score_old(policy: Policy, batch: TokenBatch) -> ScoredBatch:
    """The old policy's log-probs and entropies, before the rollout's first update."""
    return ScoredBatch(batch, policy.score(batch))


class Updater:
    """The optimiser and its schedule, applied to one mini-batch at a time."""

    def __init__(
        self,
        policy: Policy,
        config: Config,
        world: World | None = None,
        work: Work | None = None,
    ):
        self.policy, self.config, self.world = policy, config, world or World()
        self.work = work or Work()
        trainer = config.trainer
        self.loss_fn = check_loss(build_loss(config.loss))
        if self.loss_fn.top and config.sampler.top_p < 1:
            raise UserError(
                f"loss: {self.loss_fn!r} takes means over all that the sampler could have drawn, "
                f"and sampler.top_p = {config.sampler.top_p:g} leaves some out; set it to 1."
            )
        self.statistics: Statistics | None = None  # of the last mini-batch
        needed = "reference_logprobs" in self.loss_fn.needs
        self.reference = load_reference(policy, config, self.world) if needed else None
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.parameters, trainer, self.world.size)
        self.scheduler = build_schedule(self.optimizer, trainer)

    def update(
        self,
        mini_batch: Sequence[ScoredBatch],
        watch: Watch | None = None,
        lots: Lots | None = None,
    ) -> dict[str, float]:
        """One optimiser step on the micro-batches of one mini-batch; its metrics.

        `mini_batch` is this process's part of it; the denominator N counts the tokens of all. A
        loss or gradient that is not finite skips the step and is counted, on every process alike
        because both are sums over all of them. `watch` sees every micro-batch, with slopes.
        """
        count = torch.tensor(sum(scored.batch.num_tokens for scored in mini_batch))
        num_tokens = int(self.world.sum(count))
        self.statistics = self.measure(mini_batch, lots)
        pool, rhos, losses = Pool(), [], []
        for scored in mini_batch:
            loss, rho = self._backward(scored, num_tokens, pool, watch, lots)
            losses.append(loss)
            rhos.append(rho)
            self.work.advance(scored.batch.num_tokens)
        loss = float(self.world.sum(torch.stack(losses).sum()))
        limit = self.config.trainer.grad_clip
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, limit)))
        learning_rate = float(self.scheduler.get_last_lr()[0])
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            self.optimizer.step()
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "loss/policy": loss,
            "grad/norm": norm,
            "grad/skipped": float(not finite),
            **staleness(pool.means(self.world)),
            **(ratio_quantiles(self.world.concatenate(torch.cat(rhos))) if num_tokens else {}),
            "train/learning_rate": learning_rate,
            "train/tokens": float(num_tokens),
        }

    def score(self, batch: TokenBatch, *, slopes: bool = False) -> Scores:
        """The policy's scores, with what this loss asks of them."""
        needs = self.loss_fn.needs
        return self.policy.score(
            batch,
            slopes=slopes or bool(SLOPES & needs),
            entropy_gradient="live_entropies" in needs,
            top="top_logprobs" in needs,
        )

    @torch.no_grad()
    def measure(self, mini_batch: Sequence[ScoredBatch], lots: Lots | None) -> Statistics | None:
        """What the loss's rules have to know of a whole mini-batch; a collective.

        A rule that measures the policy in training costs a forward pass of it.
        """
        rules = self.loss_fn.mini_batch_rules
        if not rules:
            return None
        needed = frozenset().union(*(needs_of(rule) for rule in rules))
        micros = []
        for scored in mini_batch:
            new = self.score(scored.batch) if self.loss_fn.measures_current else None
            asks = "reference_logprobs" in needed
            reference = self._reference_scores(scored.batch) if asks else None
            micros.append(self.tensors(scored, new, reference, lots))
        return self.loss_fn.statistics(micros, self.world.concatenate, self.statistics)

    def tensors(
        self,
        scored: ScoredBatch,
        new: Scores | None,
        reference: Scores | None = None,
        lots: Lots | None = None,
    ) -> dict[str, Any]:
        """A micro-batch as the loss's arguments."""
        batch, old = scored.batch, scored.old
        tensors = {
            "old_logprobs": old.logprobs,
            "advantages": batch.advantages,
            "mask": batch.mask,
            "old_entropies": old.entropies,
            "sampler_logprobs": batch.sampler_logprobs,
            "sampler_top_logprobs": batch.sampler_top_logprobs,
            "correct": batch.correct,
        }
        if new is not None:
            tensors |= {
                "logprobs": new.logprobs,
                "entropies": new.entropies,
                "entropy_slopes": new.slopes,
                "entropy_slope_means": new.slope_means,
                "top_logprobs": new.top_logprobs,
            }
        if reference is not None:
            tensors["reference_logprobs"] = reference.logprobs
        if lots is not None:
            tensors["lots"] = lots(batch)
        return tensors

    def _backward(
        self,
        scored: ScoredBatch,
        num_tokens: int,
        pool: Pool,
        watch: Watch | None,
        lots: Lots | None,
    ) -> tuple[Tensor, Tensor]:
        batch = scored.batch
        reference = self._reference_scores(batch)
        new = self.score(batch, slopes=watch is not None)
        out = self.loss_fn(
            **self.tensors(scored, new, reference, lots),
            num_tokens=max(num_tokens, 1),
            statistics=self.statistics,
        )
        new = replace(new, entropies=new.entropies.detach())
        sums = token_sums(out, new.entropies, batch.mask)
        if self.config.rollout.staleness:
            sums |= sampler_sums(new.logprobs, batch.sampler_logprobs, batch.mask)
        if batch.num_tokens or self.world.size > 1:  # sharded layers are gathered by all or none
            with fixed_order(self.policy.device):
                out.loss.backward()
        pool.add(sums, batch.num_tokens)
        if watch is not None:
            watch(scored, new, out)
        assert out.entropy_ratio is not None
        return out.loss.detach(), out.entropy_ratio[batch.mask]

    @torch.no_grad()
    def _reference_scores(self, batch: TokenBatch) -> Scores | None:
        """Before the policy's own pass, so that only one of them holds activations."""
        if self.reference is None:
            return None
        if self.reference is self.policy:
            return self.policy.score_frozen(batch)
        return self.reference.score(batch)


def load_reference(policy: Policy, config: Config, world: World) -> Policy:
    """The frozen model that a KL penalty measures from.

    It is scored during the updates, so that nothing of it has to be kept in a checkpoint. With
    LoRA it is the policy itself: the weights that the run began with lie under its adapters.
    """
    path = config.loss.kl and config.loss.kl.model
    if path is None and policy.has_adapters:
        return policy
    source = {"lora": None} if path is None else {"lora": None, "path": path}
    reference = load_policy(config.model.model_copy(update=source), policy.temperature)
    vocabularies = [p.model.config.get_text_config().vocab_size for p in (policy, reference)]
    if vocabularies[0] != vocabularies[1]:
        raise UserError(
            f"loss.kl.model = {path!r} has a vocabulary of {vocabularies[1]} tokens, the model "
            f"one of {vocabularies[0]}: a reference must share the model's tokenizer."
        )
    if policy.lengths is not None:
        reference.fit(*policy.lengths)
    reference.model.requires_grad_(False)
    reference.shard(world)
    return reference
