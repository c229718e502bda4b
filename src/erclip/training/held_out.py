"""Evaluation during training: the numbers of `erclip eval` on the task's held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence

from erclip.config import Config
from erclip.machine.distributed import World, interleave
from erclip.records import Prompt
from erclip.seeds import prompt_seeds
from erclip.tasks import Task
from erclip.training.outcomes import Outcome, summarise
from erclip.training.sampling import Sampler, SamplingSettings

GREEDY = 1e-4  # temperature, at which only ties are drawn


def evaluation_settings(config: Config) -> SamplingSettings:
    """How a run samples its held-out prompts."""
    return SamplingSettings(
        responses=config.eval.responses,
        max_tokens=config.eval.max_tokens or config.sampler.max_tokens,
        temperature=config.eval.temperature,
        top_p=config.eval.top_p,
        max_prompt_tokens=config.sampler.max_prompt_tokens,
    )


def greedy_settings(settings: SamplingSettings) -> SamplingSettings:
    """One response per prompt, with the likeliest token each time."""
    return settings._replace(responses=1, temperature=GREEDY, top_p=1.0)


def evaluate(
    task: Task,
    prompts: Sequence[Prompt],
    sampler: Sampler,
    settings: SamplingSettings,
    seed: int,
    world: World | None = None,
    *,
    name: str = "",
) -> dict[str, float]:
    """`eval/<name>/…` metrics; the same seed asks the same questions with the same draws.

    `name` is the task's if none is given. The processes of `world` share the prompts and all get
    the numbers of all.
    """
    world = world or World()
    own, seeds = world.share(prompts), world.share(prompt_seeds(len(prompts), seed))
    parts = world.gather(_outcomes, task, own, sampler, settings, seeds)
    numbers = summarise(interleave(parts))
    k, average = settings.responses, numbers["avg_at_k"]
    values = {
        f"avg_at_{k}": average["mean"],
        f"avg_at_{k}_low": average["low"],
        f"avg_at_{k}_high": average["high"],
        f"pass_at_{k}": numbers["pass_at"][str(k)],
        "response_length": numbers["response_length"],
        "truncated_frac": numbers["truncated_frac"],
    }
    return {f"eval/{name or task.name}/{key}": value for key, value in values.items()}


def _outcomes(
    task: Task,
    prompts: Sequence[Prompt],
    sampler: Sampler,
    settings: SamplingSettings,
    seeds: Sequence[int],
) -> list[list[Outcome]]:
    if not prompts:
        return []
    groups = sampler.sample(prompts, settings, seeds)
    grades = iter(task.grade([response for group in groups for response in group]))
    return [[Outcome.of(response, next(grades)) for response in group] for group in groups]
