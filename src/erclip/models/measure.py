"""The warm-up's measure: accuracy of sampled answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erclip.models.architecture import MAX_TOKENS
from erclip.records import Prompt
from erclip.seeds import prompt_seeds
from erclip.tasks.base import Task
from erclip.training.sampling import SamplingSettings, TransformersSampler


def sampled_accuracy(
    model: Any,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    samples: int = 4,
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
) -> float:
    """Share of correct answers, `samples` per prompt at temperature 1, under a fixed seed."""
    model.eval()
    sampler = TransformersSampler(model, tokenizer, batch_size=1024)
    groups = sampler.sample(
        prompts, SamplingSettings(samples, max_tokens), prompt_seeds(len(prompts), seed)
    )
    grades = task.grade([response for group in groups for response in group])
    return sum(grade.correct for grade in grades) / len(grades)
