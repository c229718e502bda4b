"""Evaluation during training: the numbers of `erclip eval` on the task's held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence

from erclip.config import Config
from erclip.evaluation.outcomes import Outcome, summarise
from erclip.records import Prompt
from erclip.sampling import Sampler, SamplingSettings
from erclip.seeds import prompt_seeds
from erclip.tasks import Task


def evaluate(
    task: Task, prompts: Sequence[Prompt], sampler: Sampler, config: Config, seed: int
) -> dict[str, float]:
    """`eval/<task>/…` metrics; the same seed asks the same questions with the same draws."""
    settings = SamplingSettings(
        responses=config.eval.responses,
        max_tokens=config.eval.max_tokens or config.sampler.max_tokens,
        temperature=config.eval.temperature,
        top_p=config.eval.top_p,
        max_prompt_tokens=config.sampler.max_prompt_tokens,
    )
    groups = sampler.sample(prompts, settings, prompt_seeds(len(prompts), seed))
    grades = iter(task.grade([response for group in groups for response in group]))
    outcomes = [[Outcome.of(response, next(grades)) for response in group] for group in groups]
    numbers = summarise(outcomes)
    k, average = settings.responses, numbers["avg_at_k"]
    values = {
        f"avg_at_{k}": average["mean"],
        f"avg_at_{k}_low": average["low"],
        f"avg_at_{k}_high": average["high"],
        f"pass_at_{k}": numbers["pass_at"][str(k)],
        "response_length": numbers["response_length"],
        "truncated_frac": numbers["truncated_frac"],
    }
    return {f"eval/{task.name}/{name}": value for name, value in values.items()}
