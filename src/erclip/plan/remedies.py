"""What to change in a recipe so that it fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from erclip.config import Config
from erclip.config.model import Lora
from erclip.config.sampling import TransformersSampler, VllmSampler
from erclip.config.training import Adamw8bit
from erclip.plan.memory import PROMPT_TOKENS, plan


class Remedy(NamedTuple):
    """A change of the recipe and the peak it leads to."""

    setting: str
    peak: int


def remedies(
    config: Config, available: int, processes: int, prompt_tokens: int = PROMPT_TOKENS
) -> list[Remedy]:
    """Single changes that bring the peak below `available`, else all that help, best first.

    Each is planned anew. Of those that are enough, the ones that touch results come last.
    """
    found = []
    for setting, changed, count_of in _changes(config, processes):
        after = plan(changed, count_of, prompt_tokens, available).peak
        found.append(Remedy(setting, after))
    before = plan(config, processes, prompt_tokens, available).peak
    useful = [remedy for remedy in found if remedy.peak < 0.98 * before]
    enough = [remedy for remedy in useful if remedy.peak <= available]
    return enough or sorted(useful, key=lambda remedy: remedy.peak)


def _changes(config: Config, processes: int) -> Iterator[tuple[str, Config, int]]:
    for divisor in (2, 8):
        budget = max(1, config.trainer.token_budget // divisor)
        yield _with(config, processes, "trainer.token_budget", budget)
    if not config.model.gradient_checkpointing:
        yield _with(config, processes, "model.gradient_checkpointing", True)
    if isinstance(config.sampler, VllmSampler):
        cache = config.sampler.kv_cache_gib
        name = "memory_frac" if cache is None else "kv_cache_gib"
        smaller = (config.sampler.memory_frac if cache is None else cache) / 2
        yield _with(config, processes, f"sampler.{name}", smaller)
    elif isinstance(config.sampler, TransformersSampler):
        fewer = max(1, config.sampler.batch_size // 4)
        yield _with(config, processes, "sampler.batch_size", fewer)
    if config.trainer.optimizer.kind == "adamw" and processes == 1:
        yield _with(config, processes, "trainer.optimizer", Adamw8bit())
    for more in (2 * processes, 4 * processes):
        yield f"--processes {more}", config, more
    if config.model.lora is None and config.model.autocast is None:
        yield _with(config, processes, "model.lora", Lora())
    if config.model.dtype == "float32" and config.model.autocast is None:
        yield _with(config, processes, "model.dtype", "bfloat16")


def _with(config: Config, processes: int, key: str, value: Any) -> tuple[str, Config, int]:
    section, _, name = key.partition(".")
    changed = getattr(config, section).model_copy(update={name: value})
    shown = str(value).lower() if isinstance(value, bool) else getattr(value, "kind", value)
    shown = f"{{rank = {value.rank}}}" if isinstance(value, Lora) else shown
    return f"{key} = {shown}", config.model_copy(update={section: changed}), processes
