"""One rollout: prompts are sampled, graded, rewarded; dynamic sampling keeps what can teach."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from erclip.config import Config
from erclip.errors import UserError
from erclip.machine.distributed import World, interleave
from erclip.records import Group, Prompt, Response, Sample, numbered
from erclip.runs.work import Work
from erclip.seeds import derive_seed, prompt_seeds
from erclip.tasks import Task
from erclip.training.advantages import group_advantages
from erclip.training.rewards import at, reward, verdict
from erclip.training.sampling import Sampler, SamplingSettings
from erclip.training.updates import build_loss


class PromptStream:
    """Endless passes over the training prompts, each in an order fixed by seed and pass."""

    def __init__(self, prompts: Sequence[Prompt], seed: int):
        if not len(prompts):
            raise UserError("The task has no training prompts; check data.path and its split.")
        self._prompts, self._seed = prompts, seed
        self._order: tuple[int, list[int]] | None = None  # a pass and its order
        self.position = 0

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        taken = []
        while len(taken) < count:
            epoch, offset = divmod(self.position, len(self._prompts))
            chosen = self._order_of(epoch)[offset : offset + count - len(taken)]
            taken.extend(self._prompts[i] for i in chosen)
            self.position += len(chosen)
        return taken

    def _order_of(self, epoch: int) -> list[int]:
        if self._order is None or self._order[0] != epoch:
            order = list(range(len(self._prompts)))
            random.Random(derive_seed(self._seed, "prompts", epoch)).shuffle(order)
            self._order = epoch, order
        return self._order[1]


@dataclass
class Rollout:
    """What was sampled, how many groups teach something, and those that are trained on.

    The prompts of its groups stand in the stream one after the other, from `first_prompt` on.
    `version` counts the updates behind the weights that drew the first token; `waited_s` is how
    long the trainer stood still for it. `sampler_wait_frac` is there if somebody else sampled: the
    share of the time that nothing was asked of them.
    """

    first_prompt: int = 0
    sampled: list[Group] = field(default_factory=list)
    kept: list[Group] = field(default_factory=list)
    teaching: int = 0
    sample_s: float = 0.0
    grade_s: float = 0.0
    number: int = 0
    version: int = 0
    waited_s: float = 0.0
    sampler_wait_frac: float | None = None

    def metrics(self) -> dict[str, float]:
        """Means over every response sampled, kept or not."""
        samples = [sample for group in self.sampled for sample in group.samples]
        count = len(samples)
        metrics = {
            "train/reward": sum(s.reward for s in samples) / count,
            "train/accuracy": sum(s.grade.correct for s in samples) / count,
            "train/response_length": sum(len(s.response.token_ids) for s in samples) / count,
            "train/truncated_frac": sum(s.response.truncated for s in samples) / count,
            "train/no_answer_frac": sum(s.grade.answer is None for s in samples) / count,
            "train/groups_kept_frac": self.teaching / len(self.sampled),
            "train/responses": float(count),
            "time/sample_s": self.sample_s,
            "time/grade_s": self.grade_s,
        }
        completed = [s.reward for s in samples if not s.response.truncated]
        if completed:
            metrics["train/completed_reward"] = sum(completed) / len(completed)
        cut = [s.response for s in samples if s.response.nucleus is not None]
        if cut:
            lengths = [len(response.token_ids) for response in cut]
            mass = sum(n * (r.nucleus or 0.0) for n, r in zip(lengths, cut, strict=True))
            metrics["sampler/nucleus_mass"] = mass / sum(lengths)
        if self.sampler_wait_frac is not None:
            metrics["time/sampler_wait_frac"] = self.sampler_wait_frac
        return metrics


def collect(
    stream: PromptStream,
    task: Task,
    sampler: Sampler,
    config: Config,
    seed: int,
    world: World | None = None,
    work: Work | None = None,
) -> Rollout:
    """Sample until dynamic sampling is content; `seed` fixes every draw.

    The processes of `world` share the prompts out and then hold all groups, so that each decides
    alike what is kept and whether another round is needed.
    """
    world = world or World()
    config = config.model_copy(update={"reward": at(config.reward, stream.position)})
    plan = config.rollout.dynamic_sampling
    target = config.rollout.prompts
    asked = round(target * plan.factor) if plan.kind == "oversample" else target
    rollout = Rollout(stream.position)
    for round_ in range(plan.max_rounds if plan.kind == "refill" else 1):
        prompts = world.share(stream.take(asked))
        seeds = world.share(prompt_seeds(asked, seed, round_))
        job = work or Work()
        parts = world.gather(_sample_groups, prompts, task, sampler, config, seeds, job)
        groups = numbered(interleave([part.groups for part in parts]), rollout.sampled)
        rollout.sample_s += max(part.sample_s for part in parts)
        rollout.grade_s += max(part.grade_s for part in parts)
        rollout.sampled += groups
        teaching = [group for group in groups if teaches(group, config)]
        rollout.teaching += len(teaching)
        rollout.kept += groups if plan.kind == "off" else teaching
        if len(rollout.kept) >= target:
            break
    rollout.kept = rollout.kept[:target]
    return rollout


class _Part(NamedTuple):
    """What one process sampled, and how long it took."""

    groups: list[Group]
    sample_s: float
    grade_s: float


def _sample_groups(
    prompts: Sequence[Prompt],
    task: Task,
    sampler: Sampler,
    config: Config,
    seeds: Sequence[int],
    work: Work,
) -> _Part:
    if not prompts:
        return _Part([], 0.0, 0.0)
    settings = SamplingSettings(
        responses=config.rollout.responses,
        max_tokens=config.sampler.max_tokens,
        temperature=config.sampler.temperature,
        top_p=config.sampler.top_p,
        max_prompt_tokens=config.sampler.max_prompt_tokens,
        top=build_loss(config.loss).top,
    )
    count = len(prompts) * settings.responses
    work.begin("sampling", count, "responses")
    started = time.perf_counter()
    responses = sampler.sample(prompts, settings, seeds)
    sampled = time.perf_counter()
    work.begin("grading", count, "responses")
    groups = _grade(responses, task, config)
    return _Part(groups, sampled - started, time.perf_counter() - sampled)


def _grade(responses: list[list[Response]], task: Task, config: Config) -> list[Group]:
    grades = iter(task.grade([response for group in responses for response in group]))
    flip, seed = config.reward.flip, config.trainer.seed
    graded = [[(r, verdict(r, next(grades), flip, seed)) for r in group] for group in responses]
    rewards = [[reward(r, g, config.reward) for r, g in group] for group in graded]
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64)).tolist()
    return [
        Group(tuple(Sample(r, g, v, a) for (r, g), v, a in zip(*row, strict=True)))
        for row in zip(graded, rewards, advantages, strict=True)
    ]


def teaches(group: Group, config: Config) -> bool:
    """Whether dynamic sampling keeps a group: rewards differ and, by accuracy, 0 < #correct < G.

    DAPO (2503.14476) and ERC's reference code filter by accuracy. With more than two rewards
    (missing_think, overlong punishment), a group without a right answer may still have differing
    ones, and would teach its least bad failure.
    """
    by = config.rollout.keep or ("reward" if config.reward.function else "accuracy")
    differ = len({sample.reward for sample in group.samples}) > 1
    return differ and (by == "reward" or len({s.grade.correct for s in group.samples}) > 1)
