"""TokenBatch → update: score with the old policy, then K mini-batches × E epochs of AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import erclip.losses
from erclip.batches import TokenBatch
from erclip.config import Config, LossConfig
from erclip.config.loss import EntropyRatioClip
from erclip.distributed import World
from erclip.errors import UserError
from erclip.losses import LossOutput, entropy_bonus, kl_penalty, policy_loss, positive_nll
from erclip.metrics import Pool, ratio_quantiles, token_sums
from erclip.optimizers import build_optimizer, build_schedule
from erclip.policy import Policy, Scores, load_policy
from erclip.policy.precision import fixed_order
from erclip.sharding import whole


@dataclass(frozen=True)
class ScoredBatch:
    """A micro-batch with what the old policy thought of its tokens."""

    batch: TokenBatch
    old: Scores


Watch = Callable[[ScoredBatch, Scores, LossOutput], None]
"""Whoever wants to see the tokens of an update: old scores, new scores, what fired."""


def build_loss(config: LossConfig) -> Callable[..., LossOutput]:
    """The composition that a recipe describes: each `kind` is a factory in `erclip.losses`."""
    try:
        surrogate, *constraints = (_build(part) for part in (config.surrogate, *config.constraints))
        importance = None if config.importance is None else _build(config.importance)
    except ValueError as error:
        raise UserError(f"loss: {error}") from None
    return policy_loss(surrogate, constraints, importance=importance)


def _build(part: Any) -> Callable[..., Any]:
    return getattr(erclip.losses, part.kind)(**part.model_dump(exclude={"kind"}))


def needs_slopes(config: LossConfig) -> bool:
    """Whether a constraint asks in which direction an update moves the entropy."""
    return any(
        isinstance(part, EntropyRatioClip) and part.rule == "directional"
        for part in config.constraints
    )


@torch.no_grad()
def score_old(policy: Policy, batch: TokenBatch) -> ScoredBatch:
    """The old policy's log-probs and entropies, before the rollout's first update."""
    return ScoredBatch(batch, policy.score(batch))


class Updater:
    """The optimiser and its schedule, applied to one mini-batch at a time."""

    def __init__(self, policy: Policy, config: Config, world: World | None = None):
        self.policy, self.config, self.world = policy, config, world or World()
        trainer = config.trainer
        self.loss_fn = build_loss(config.loss)
        self.reference = load_reference(policy, config, self.world)
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.parameters, trainer, self.world.size)
        self.scheduler = build_schedule(self.optimizer, trainer)

    def update(
        self, mini_batch: Sequence[ScoredBatch], watch: Watch | None = None
    ) -> dict[str, float]:
        """One optimiser step on the micro-batches of one mini-batch; its metrics.

        `mini_batch` is this process's part of it; the denominator N counts the tokens of all. A
        loss or gradient that is not finite skips the step and is counted, on every process alike
        because both are sums over all of them. `watch` sees every micro-batch, with slopes.
        """
        num_tokens, num_correct = self._counts(mini_batch)
        pool, rhos, losses = Pool(), [], []
        for scored in mini_batch:
            loss, rho = self._backward(scored, num_tokens, num_correct, pool, watch)
            losses.append(loss)
            rhos.append(rho)
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
            **pool.means(self.world),
            **(ratio_quantiles(self.world.concatenate(torch.cat(rhos))) if num_tokens else {}),
            "train/learning_rate": learning_rate,
            "train/tokens": float(num_tokens),
        }

    def score(self, batch: TokenBatch, *, slopes: bool = False) -> Scores:
        """The policy's scores, with what this loss asks of them."""
        terms = self.config.loss
        return self.policy.score(
            batch,
            slopes=slopes or needs_slopes(terms),
            entropy_gradient=terms.entropy_bonus > 0,
        )

    def judge(self, scored: ScoredBatch, new: Scores, num_tokens: int) -> LossOutput:
        """Loss of a micro-batch, and which of its tokens each rule clips."""
        batch, old = scored.batch, scored.old
        return self.loss_fn(
            logprobs=new.logprobs,
            old_logprobs=old.logprobs,
            advantages=batch.advantages,
            mask=batch.mask,
            entropies=new.entropies,
            old_entropies=old.entropies,
            entropy_slopes=new.slopes,
            sampler_logprobs=batch.sampler_logprobs,
            num_tokens=max(num_tokens, 1),
        )

    def _counts(self, mini_batch: Sequence[ScoredBatch]) -> tuple[int, int]:
        """Tokens, and tokens of correct responses, in the whole mini-batch."""
        counts = [sum(scored.batch.num_tokens for scored in mini_batch), 0]
        if self.config.loss.positive_nll:  # counting waits for the device
            counts[1] = sum(int(_correct_tokens(scored.batch).sum()) for scored in mini_batch)
        num_tokens, num_correct = self.world.sum(torch.tensor(counts)).tolist()
        return num_tokens, num_correct

    def _backward(
        self,
        scored: ScoredBatch,
        num_tokens: int,
        num_correct: int,
        pool: Pool,
        watch: Watch | None,
    ) -> tuple[Tensor, Tensor]:
        batch, terms = scored.batch, self.config.loss
        reference = self._reference_scores(batch)
        new = self.score(batch, slopes=watch is not None)
        out = self.judge(scored, new, num_tokens)
        loss = out.loss
        if num_correct:
            nll = positive_nll(new.logprobs, _correct_tokens(batch), num_correct)
            loss = loss + terms.positive_nll * nll
        if terms.entropy_bonus:
            bonus = entropy_bonus(new.entropies, batch.mask, max(num_tokens, 1))
            loss = loss + terms.entropy_bonus * bonus
            new = replace(new, entropies=new.entropies.detach())
        sums = token_sums(out, new.entropies, batch.mask)
        if terms.kl is not None and reference is not None:
            estimator, mask = terms.kl.estimator, batch.mask
            kl = kl_penalty(new.logprobs, reference.logprobs, mask, 1, estimator)  # a sum
            sums["policy/kl_ref"] = kl
            if terms.kl.weight:
                loss = loss + terms.kl.weight * kl / max(num_tokens, 1)
        if batch.num_tokens or self.world.size > 1:  # sharded layers are gathered by all or none
            with fixed_order(self.policy.device):
                loss.backward()
        pool.add(sums, batch.num_tokens)
        if watch is not None:
            watch(scored, new, out)
        assert out.entropy_ratio is not None
        return loss.detach(), out.entropy_ratio[batch.mask]

    @torch.no_grad()
    def _reference_scores(self, batch: TokenBatch) -> Scores | None:
        """Before the policy's own pass, so that only one of them holds activations."""
        if self.reference is None:
            return None
        if self.reference is self.policy:
            return self.policy.score_frozen(batch)
        return self.reference.score(batch)


def load_reference(policy: Policy, config: Config, world: World) -> Policy | None:
    """The frozen model of the KL penalty; None without one.

    It is scored during the updates, so that nothing of it has to be kept in a checkpoint. With
    LoRA it is the policy itself: the weights that the run began with lie under its adapters.
    """
    kl = config.loss.kl
    if kl is None:
        return None
    if kl.model is None and policy.has_adapters:
        return policy
    source = {"lora": None} if kl.model is None else {"lora": None, "path": kl.model}
    reference = load_policy(config.model.model_copy(update=source), policy.temperature)
    vocabularies = [p.model.config.get_text_config().vocab_size for p in (policy, reference)]
    if vocabularies[0] != vocabularies[1]:
        raise UserError(
            f"loss.kl.model = {kl.model!r} has a vocabulary of {vocabularies[1]} tokens, the model "
            f"one of {vocabularies[0]}: a reference must share the model's tokenizer."
        )
    if policy.lengths is not None:
        reference.fit(*policy.lengths)
    reference.model.requires_grad_(False)
    reference.shard(world)
    return reference


def _correct_tokens(batch: TokenBatch) -> Tensor:
    return batch.mask & batch.correct[:, None]
