"""What is refused, or said, before the first rollout: a model and texts that do not go together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from erclip.config import Config
from erclip.records import Prompt
from erclip.tasks import Task
from erclip.training.policy import Policy, load_policy
from erclip.training.policy.loading import refuse_untrainable
from erclip.training.sampling.base import encode_prompts, without_template

TRIED = 64  # prompts of most characters, among which the one of most tokens is looked for


def load_trainable(
    config: Config,
    task: Task,
    say: Callable[[str], None],
    *,
    seed: int,
    checkpoint: Path | None,
) -> Policy:
    """The policy of a run; raises UserError if it cannot learn, or has no room for the task."""
    policy = load_policy(config.model, config.sampler.temperature, seed=seed, checkpoint=checkpoint)
    refuse_untrainable(policy.model, config.model.path)
    plain = without_template(policy.tokenizer, config.model.path)
    if plain is not None:
        say(plain)
    limit = config.sampler.max_prompt_tokens
    prompt = longest_prompt(policy, [*_longest(task.train), *_longest(task.test)], limit)
    said = policy.fit(prompt, max(config.sampler.max_tokens, config.eval.max_tokens or 0))
    if said is not None:
        say(said)
    return policy


def longest_prompt(policy: Policy, prompts: Sequence[Prompt], limit: int) -> int:
    """Tokens of the longest of some prompts."""
    encoded = encode_prompts(policy.tokenizer, prompts, limit) if prompts else []
    return max(map(len, encoded), default=0)


def _longest(prompts: Sequence[Prompt]) -> list[Prompt]:
    return sorted(prompts, key=_characters, reverse=True)[:TRIED]


def _characters(prompt: Prompt) -> int:
    return sum(len(message["content"]) for message in prompt.messages)
