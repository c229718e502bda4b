"""What to change in a recipe so that it fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from erclip.config import Config
from erclip.config.model import Lora
from erclip.config.sampling import TransformersSampler, VllmSampler
from erclip.config.training import Adamw8bit
from erclip.plan.memory import PROMPT_TOKENS, device_of, plan

SHARES = (0.4, 0.5, 0.6, 0.8)  # of a GPU, for vLLM beside the trainer


class Remedy(NamedTuple):
    """A change of the recipe and the peak it leads to."""

    setting: str
    peak: int
    enough: bool


class Here(NamedTuple):
    """The bytes that each of some processes may take, `given` or a share of this machine's."""

    available: float
    processes: int
    given: bool = True

    def each(self, config: Config, processes: int) -> float:
        """What each of so many would have: on a CPU they share the machine."""
        if self.given or device_of(config) == "cuda":
            return self.available
        return self.available * self.processes / processes


def remedies(config: Config, here: Here, prompt_tokens: int = PROMPT_TOKENS) -> list[Remedy]:
    """Single changes that make the plan fit, else all that help, best first.

    Each is planned anew. Of those that are enough, the ones that touch results come last.
    """
    found, need = [], {}
    for setting, changed, count_of in _changes(config, here.processes):
        each = here.each(changed, count_of)
        after = plan(changed, count_of, prompt_tokens, each)
        found.append(Remedy(setting, after.peak, after.fits(each)))
        need[setting] = after.peak / each
    before = plan(config, here.processes, prompt_tokens, here.available).peak / here.available
    enough = [remedy for remedy in found if remedy.enough]
    useful = [remedy for remedy in found if need[remedy.setting] < 0.98 * before]
    return enough or sorted(useful, key=lambda remedy: remedy.peak)


def _changes(config: Config, processes: int) -> Iterator[tuple[str, Config, int]]:
    for divisor in (2, 8):
        budget = max(1, config.trainer.token_budget // divisor)
        yield _with(config, processes, "trainer.token_budget", budget)
    if not config.model.gradient_checkpointing:
        yield _with(config, processes, "model.gradient_checkpointing", True)
    yield from _sampler_changes(config, processes)
    if config.trainer.optimizer.kind == "adamw" and processes == 1:
        yield _with(config, processes, "trainer.optimizer", Adamw8bit())
    for more in (2 * processes, 4 * processes):
        yield f"--processes {more}", config, more
    if config.model.lora is None and config.model.autocast is None:
        yield _with(config, processes, "model.lora", Lora())
    if config.model.dtype == "float32" and config.model.autocast is None:
        yield _with(config, processes, "model.dtype", "bfloat16")


def _sampler_changes(config: Config, processes: int) -> Iterator[tuple[str, Config, int]]:
    sampler = config.sampler
    if isinstance(sampler, VllmSampler):
        cache, share = sampler.kv_cache_gib, sampler.memory_frac
        if cache is not None:
            others = [("kv_cache_gib", cache / 2), ("kv_cache_gib", 2 * cache)]
        else:
            larger = [other for other in SHARES if other > share]
            others = [("memory_frac", other) for other in (share / 2, *larger)]
        for name, other in others:
            yield _with(config, processes, f"sampler.{name}", other)
    elif isinstance(sampler, TransformersSampler):
        fewer = max(1, sampler.batch_size // 4)
        yield _with(config, processes, "sampler.batch_size", fewer)
        if device_of(config) == "cuda":
            said = "sampler.kind = vllm, sampler.memory_frac = 0.5"
            same = sampler.model_dump(exclude={"kind"})
            engine = VllmSampler(**same, memory_frac=0.5)
            yield said, config.model_copy(update={"sampler": engine}), processes


def _with(config: Config, processes: int, key: str, value: Any) -> tuple[str, Config, int]:
    section, _, name = key.partition(".")
    changed = getattr(config, section).model_copy(update={name: value})
    shown = str(value).lower() if isinstance(value, bool) else getattr(value, "kind", value)
    shown = f"{{rank = {value.rank}}}" if isinstance(value, Lora) else shown
    return f"{key} = {shown}", config.model_copy(update={section: changed}), processes
