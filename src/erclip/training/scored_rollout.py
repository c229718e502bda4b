"""The noun between a rollout and its updates: planned, scored by the old policy, partly trained on.

Whatever `old` means, a mini-batch is scored in the very micro-batches that are trained on, so that
at equal weights every ratio is exactly 1.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from erclip.config import Config
from erclip.machine.distributed import World
from erclip.records import Group, Sample
from erclip.runs.metrics import Pool, sampler_mismatch
from erclip.runs.work import Work
from erclip.seeds import derive_seed
from erclip.training.batches import TokenBatch, deal, empty_batch, make_batch, mini_batches
from erclip.training.packing import micro_batches
from erclip.training.policy import Policy, Scores
from erclip.training.rollouts import Rollout
from erclip.training.updates import Lots, ScoredBatch, score_old

Old = dict[int, tuple[Tensor, Tensor]]
"""Number of a sample → the old policy's log-probs and entropies, on the CPU."""


@dataclass
class ScoredRollout:
    """One rollout on its way through its updates.

    `minis` are the mini-batches as numbers of groups in `sampled`; `order` says which of them each
    update takes, `done` how many updates are behind. `version` counts the updates behind the
    weights that sampled, `scored_at` those behind the weights that scored, None before that;
    `waited_s` is how long the trainer stood still for a sampler that works beside it.
    While the rollout waits, its scores lie in `old`; once it is trained on, in `scored`, this
    process's part of each mini-batch.
    """

    number: int
    version: int
    first_prompt: int
    sampled: list[Group]
    minis: list[list[int]]
    order: list[int]
    metrics: dict[str, float] = field(default_factory=dict)
    scored_at: int | None = None
    waited_s: float | None = None
    done: int = 0
    old: Old = field(default_factory=dict)
    scored: list[list[ScoredBatch]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether every update has been made (at once, if no group was kept)."""
        return self.done == len(self.order)

    @property
    def samples(self) -> list[Sample]:
        """Everything that was sampled, by number."""
        return [sample for group in self.sampled for sample in group.samples]

    def lots(self, seed: int) -> Lots:
        """A uniform number for every token that depends on its response and place alone.

        However responses are cut into micro-batches, packed or dealt to processes, a rule that
        draws by lot draws the same tokens.
        """

        def draw(batch: TokenBatch) -> Tensor:
            lots = torch.zeros(batch.mask.shape)
            for row, sample in enumerate(batch.samples):
                if sample.number >= 0:
                    length = len(sample.response.token_ids)
                    generator = torch.Generator().manual_seed(derive_seed(seed, sample.number))
                    lots[row, :length] = torch.rand(length, generator=generator)
            return lots.to(batch.mask.device)

        return draw

    def tokens(self, minis: Iterable[int]) -> int:
        """Response tokens of some mini-batches."""
        samples = (sample for mini in minis for sample in self.mini_samples(mini))
        return sum(len(sample.response.token_ids) for sample in samples)

    def mini_samples(self, mini: int) -> list[Sample]:
        """One mini-batch's samples, those of all processes."""
        return [sample for i in self.minis[mini] for sample in self.sampled[i].samples]

    def score(
        self,
        policy: Policy,
        config: Config,
        world: World,
        updates: int,
        work: Work | None = None,
    ) -> None:
        """Let the policy as it now is, after so many `updates`, be the old one."""
        work, minis = work or Work(), range(len(self.minis))
        work.begin("scoring", self.tokens(minis) // world.size, "tokens")
        self.scored = [
            score(self.mini_samples(mini), policy, config, world, work) for mini in minis
        ]
        self.scored_at = updates

    def set_aside(self) -> None:
        """Keep the scores on the CPU until the rollout's turn has come, and no batch."""
        self.old, self.scored = self.scores(), []

    def take_up(self, policy: Policy, config: Config, world: World) -> None:
        """Make the batches that `old` belongs to."""
        for mini in range(len(self.minis)):
            batches = own_batches(self.mini_samples(mini), policy, config, world)
            self.scored.append([_with_scores(batch, self.old) for batch in batches])
        self.old = {}

    def scores(self) -> Old:
        """What has to be kept of this process's batches."""
        found = dict(self.old)
        for scored in (scored for mini in self.scored for scored in mini):
            logprobs, entropies = scored.old.logprobs.cpu(), scored.old.entropies.cpu()
            for row, sample in enumerate(scored.batch.samples):
                if sample.number >= 0:  # an empty batch's has none
                    span = slice(len(sample.response.token_ids))
                    found[sample.number] = (logprobs[row, span], entropies[row, span])
        return found

    def score_metrics(self, world: World) -> dict[str, float]:
        """Entropy of the old policy, and how far the sampler's log-probs were from its own."""
        pool = Pool()
        log_ratios = []
        for item in (item for mini in self.scored for item in mini):
            mask, old = item.batch.mask, item.old
            log_ratios.append((old.logprobs - item.batch.sampler_logprobs)[mask])
            pool.add(
                {"policy/entropy": old.entropies.where(mask, 0.0).sum()}, item.batch.num_tokens
            )
        if not log_ratios:  # no group was kept, on any process
            return {}
        everywhere = world.concatenate(torch.cat(log_ratios))
        return {**pool.means(world), **(sampler_mismatch(everywhere) if len(everywhere) else {})}

    def summary(self) -> dict[str, float]:
        """The metrics of the whole rollout, now that it is finished."""
        if self.waited_s is None:
            return self.metrics
        waited = self.waited_s / self.metrics["time/rollout_s"]
        return {**self.metrics, "time/trainer_wait_frac": waited}

    def staleness_metrics(self, updates: int) -> dict[str, float]:
        """How many of all `updates` so far came after the weights that drew each token."""
        ages = [
            updates - version
            for mini in range(len(self.minis))
            for sample in self.mini_samples(mini)
            for version in sample.response.versions
            or [self.version] * len(sample.response.token_ids)
        ]
        if not ages:
            return {}
        return {"staleness/mean": sum(ages) / len(ages), "staleness/max": float(max(ages))}


def plan_rollout(rollout: Rollout, config: Config, seed: int) -> ScoredRollout:
    """Mini-batches and their order over all epochs, fixed by `seed`; nothing is scored yet."""
    updates = config.trainer.updates_per_rollout
    minis = mini_batches(rollout.kept, updates, random.Random(seed))
    order: list[int] = []
    rng = random.Random(seed + 1)
    for epoch in range(config.trainer.epochs):
        turn = list(range(len(minis)))
        if epoch:
            rng.shuffle(turn)
        order += turn
    return ScoredRollout(
        rollout.number,
        rollout.version,
        rollout.first_prompt,
        rollout.sampled,
        [[group.number for group in mini] for mini in minis],
        order,
        {**rollout.metrics(), "time/rollout_s": rollout.waited_s},
        waited_s=None if rollout.sampler_wait_frac is None else rollout.waited_s,
    )


def own_batches(
    samples: Sequence[Sample], policy: Policy, config: Config, world: World
) -> list[TokenBatch]:
    """This process's micro-batches of a mini-batch.

    Every process gets as many as the one with the most: sharded layers work in step.
    """
    overlap = config.rollout.overlap
    where = partial(empty_batch, pad_id=policy.pad_id, device=policy.device)
    make = partial(
        make_batch,
        pad_id=policy.pad_id,
        device=policy.device,
        mask_truncated=config.loss.mask_truncated,
        one_version=overlap is not None and overlap.cut_at_new_weights,
    )
    shares, budget = deal(samples, world.size), config.trainer.token_budget
    splits = [micro_batches(policy.rows(share, budget), budget) for share in shares]
    own = splits[world.rank]
    return [make(micro) for micro in own] + [
        where() for _ in range(max(map(len, splits)) - len(own))
    ]


def score(
    samples: Sequence[Sample],
    policy: Policy,
    config: Config,
    world: World,
    work: Work | None = None,
) -> list[ScoredBatch]:
    """This process's part of a mini-batch, scored with the policy as it now is."""
    work, scored = work or Work(), []
    for batch in own_batches(samples, policy, config, world):
        scored.append(score_old(policy, batch))
        work.advance(batch.num_tokens)
    return scored


def _with_scores(batch: TokenBatch, old: Old) -> ScoredBatch:
    logprobs, entropies = torch.zeros(batch.mask.shape), torch.zeros(batch.mask.shape)
    for row, sample in enumerate(batch.samples):
        if sample.number >= 0:
            span = slice(len(sample.response.token_ids))
            logprobs[row, span], entropies[row, span] = old[sample.number]
    device = batch.mask.device
    return ScoredBatch(batch, Scores(logprobs.to(device), entropies.to(device)))
