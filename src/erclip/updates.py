"""TokenBatch → update: score with the old policy, then K mini-batches × E epochs of AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import erclip.losses
from erclip.batches import TokenBatch
from erclip.config import Config, EntropyRatioClip, LossConfig
from erclip.distributed import World
from erclip.errors import UserError
from erclip.losses import LossOutput, policy_loss, positive_nll
from erclip.metrics import Pool, ratio_quantiles, token_sums
from erclip.policy import Policy, Scores
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
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=trainer.learning_rate,
            betas=trainer.betas,
            weight_decay=trainer.weight_decay,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / max(1, trainer.warmup_updates))
        )

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
        batch, old = scored.batch, scored.old
        slopes = watch is not None or needs_slopes(self.config.loss)
        new = self.policy.score(batch, slopes=slopes)
        out = self.loss_fn(
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
        loss = out.loss
        if num_correct:
            nll = positive_nll(new.logprobs, _correct_tokens(batch), num_correct)
            loss = loss + self.config.loss.positive_nll * nll
        if batch.num_tokens or self.world.size > 1:  # sharded layers are gathered by all or none
            loss.backward()
        pool.add(token_sums(out, new.entropies, batch.mask), batch.num_tokens)
        if watch is not None:
            watch(scored, new, out)
        assert out.entropy_ratio is not None
        return loss.detach(), out.entropy_ratio[batch.mask]


def _correct_tokens(batch: TokenBatch) -> Tensor:
    return batch.mask & batch.correct[:, None]
