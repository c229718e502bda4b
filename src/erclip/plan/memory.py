"""What a recipe will need in memory on each process, from the model's config.json alone.

Parameters and activations are counted, not guessed (`counts.py`). docs/memory.md says how near
this comes.

Letters: B rows of a micro-batch, L tokens of a row, N response tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch

from erclip.config import Config
from erclip.config.sampling import TransformersSampler, VllmSampler
from erclip.ops.tiles import tile_shape
from erclip.plan.counts import Counted, count, read_model_config
from erclip.training.policy.heads import keeps_logits
from erclip.training.updates import build_loss

Phase = Literal["always", "sampling", "update", "step", "checkpoint"]

RUNTIME = {"cpu": 512 << 20, "cuda": 600 << 20}  # Python with torch and transformers; CUDA context
PROMPT_TOKENS = 256
ROOM = 0.8  # of the memory that may be planned for: what was measured was up to a fifth more


class Item(NamedTuple):
    """One thing that takes memory, while a phase lasts."""

    name: str
    phase: Phase
    bytes: int
    why: str
    enough: bool = True  # False where the recipe grants less than a run needs to start


class Plan(NamedTuple):
    """All items of one process."""

    items: tuple[Item, ...]

    def total(self, phase: Phase) -> int:
        """Bytes in use during a phase: its own items and those that are always there."""
        return sum(item.bytes for item in self.items if item.phase in ("always", phase))

    @property
    def peak(self) -> int:
        """Bytes of the phase that needs most."""
        return max(self.total(phase) for phase in get_args(Phase) if phase != "always")

    def fits(self, available: float) -> bool:
        """Whether the peak leaves a fifth of it free, and every item has what it needs."""
        return self.peak <= ROOM * available and all(item.enough for item in self.items)


class Load(NamedTuple):
    """What a recipe does not say: prompts' length, processes, bytes that each may take."""

    prompt_tokens: int
    processes: int
    available: float | None


def plan(
    config: Config,
    processes: int = 1,
    prompt_tokens: int = PROMPT_TOKENS,
    available: float | None = None,
) -> Plan:
    """Every item of one process, `prompt_tokens` being the length of a long prompt.

    `available` bytes are what vLLM takes its share of; None asks this machine.
    """
    model_config = read_model_config(config)
    text = model_config.get_text_config()
    counted = count(config, model_config, processes, prompt_tokens)
    alone = config.rollout.overlap is not None  # one process samples for all
    load = Load(prompt_tokens, 1 if alone else processes, available)
    sampling = _sampler(config, text, counted, load)
    items = (
        *_weights(config, counted, processes),
        *(_beside(config, counted, sampling) if alone else sampling),
        *_update(config, text, counted),
    )
    return Plan(tuple(item for item in items if item.bytes or not item.enough))


def _weights(config: Config, counted: Counted, processes: int) -> Iterator[Item]:
    width = _width(config)
    frozen = counted.parameters - counted.adapters if counted.adapters else 0
    own, per = counted.trained(width)
    whole = own + frozen * width
    how = f"{frozen / 1e6:,.1f} M × {width} bytes and adapters" if frozen else per
    shared = f" / {processes}" if processes > 1 else ""
    yield Item("runtime", "always", RUNTIME[device_of(config)], "Python, torch, transformers")
    yield Item("weights", "always", whole // processes, f"{how}{shared}")
    states, reckoned = 2 * own, f"AdamW: 2 × {per}"
    if config.trainer.optimizer.kind == "adamw_8bit":
        states, reckoned = 2 * (counted.adapters or counted.parameters), "2 bytes per weight"
    yield Item("optimiser states", "always", states // processes, f"{reckoned}{shared}")
    other = config.loss.kl is not None and config.loss.kl.model is not None
    if "reference_logprobs" in build_loss(config.loss).needs and (other or not frozen):
        copy = (frozen or counted.parameters) * width // processes
        yield Item("reference weights", "always", copy, "the model of loss.kl, as large as this")
    yield Item("gradients", "update", own // processes, f"{per}{shared}")
    yield Item("gradients", "step", own // processes, f"{per}{shared}")
    foreach = own if device_of(config) == "cuda" else 2 * min(counted.largest * width, own)
    scratch = foreach // processes
    yield Item(
        "optimiser scratch", "step", scratch, "all gradients on CUDA, twice the largest else"
    )
    if processes > 1:
        yield Item("gathered weights", "sampling", whole, f"{how}: sampling needs them whole")
        if device_of(config) == "cpu":
            why = "weights and states, whole, on the first process"
            yield Item("gathered checkpoint", "checkpoint", whole + states, why)
    if frozen:
        copy = frozen * width
        yield Item("merged weights", "checkpoint", copy, "a copy with the adapters in it")


def _sampler(config: Config, text: Any, counted: Counted, load: Load) -> Iterator[Item]:
    """The sampler's memory: in this process, in vLLM's part of its device, or elsewhere."""
    sampler = config.sampler
    prompts = -(-config.rollout.prompts // load.processes)
    rows = min(sampler.batch_size, prompts * config.rollout.responses)
    length = sampler.max_tokens + load.prompt_tokens
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    numbers = 2 * text.num_hidden_layers * heads * size  # of one token
    if isinstance(sampler, TransformersSampler):
        yield from _sampling(config, text, numbers, rows, length)
    elif isinstance(sampler, VllmSampler):
        yield from _engine(config, sampler, counted, numbers, (rows, length), load)
    if counted.adapters and not isinstance(sampler, TransformersSampler):
        copy = (counted.parameters - counted.adapters) * _width(config)
        yield Item("merged weights", "sampling", copy, "a copy with the adapters in it, for vLLM")


def _beside(config: Config, counted: Counted, sampling: Iterable[Item]) -> Iterator[Item]:
    """The sampler's process, while everything else goes on; nothing on a device of its own."""
    overlap, width = config.rollout.overlap, _width(config)
    assert overlap is not None
    if overlap.device not in (None, config.model.device):
        return
    own, per = counted.trained(width)
    frozen = counted.parameters - counted.adapters if counted.adapters else 0
    runtime = RUNTIME[device_of(config)]
    yield Item("sampler's runtime", "always", runtime, "a process of its own: rollout.overlap")
    yield Item("sampler's weights", "always", own + frozen * width, "a second copy")
    if device_of(config) == "cpu":
        yield Item("hand-over", "always", own, f"{per}, in a file that both have mapped")
    for item in sampling:
        yield item._replace(phase="always")


def _sampling(config: Config, text: Any, numbers: int, rows: int, length: int) -> Iterator[Item]:
    rows = max(rows // config.rollout.responses, 1) * config.rollout.responses
    width = _width(config)
    cache = numbers * rows * length * width
    why = f"{numbers:,} numbers × {rows} × {length} tokens × {width} bytes"
    yield Item("key-value cache", "sampling", cache, why)
    yield Item("cache growing", "sampling", cache // text.num_hidden_layers, "one layer at a time")
    logits = 4 * rows * text.vocab_size * 4
    yield Item("sampling logits", "sampling", logits, f"4 × {rows} × {text.vocab_size} float32")


def _engine(
    config: Config,
    engine: VllmSampler,
    counted: Counted,
    numbers: int,
    batch: tuple[int, int],
    load: Load,
) -> Iterator[Item]:
    """What vLLM takes at the start and keeps, while updates are made too."""
    width = _width(config) if engine.dtype == "model" else getattr(torch, engine.dtype).itemsize
    weights = (counted.parameters - counted.adapters) * width // engine.tensor_parallel
    token = numbers * width // engine.tensor_parallel
    if engine.kv_cache_gib is not None:
        cache, how = engine.kv_cache_gib * 2**30, "sampler.kv_cache_gib"
    else:
        memory = load.available or available_bytes(config, load.processes)
        cache = max(engine.memory_frac * memory - weights, 0.0)
        how = f"what memory_frac = {engine.memory_frac:g} leaves"
    rows, length = batch
    holds = f"{how}: {cache / token:,.0f} tokens of the {rows * length:,} in a batch"
    enough = cache >= length * token
    if not enough:
        holds = f"{how}: {cache / token:,.0f} tokens, and one response may have {length:,}"
    parts = f" / {engine.tensor_parallel}" if engine.tensor_parallel > 1 else ""
    yield Item("vLLM weights", "always", weights, f"a copy, {width} bytes each{parts}")
    yield Item("vLLM cache", "always", int(cache), holds, enough)


def _update(config: Config, text: Any, counted: Counted) -> Iterator[Item]:
    rows, length = counted.shape
    tokens = rows * config.sampler.max_tokens
    kept, how = counted.kept, f"counted at {rows} × {length} tokens, all {counted.layers} layers"
    if config.model.gradient_checkpointing:
        inputs = rows * length * text.hidden_size * _width(config) * counted.layers
        kept, how = inputs + kept // counted.layers, "a layer's inputs, and one layer in full"
    yield Item("activations", "update", kept, how)
    wide = rows * length * max(getattr(text, "intermediate_size", 0), text.hidden_size)
    yield Item(
        "backward scratch", "update", 3 * wide * _width(config), "3 of the widest activation"
    )
    if config.model.head == "logits":
        yield Item("logits", "update", 4 * tokens * text.vocab_size * 4, "4 × N × V float32")
        return
    device = torch.device(device_of(config))
    tile = tile_shape(tokens, text.vocab_size, device, None)
    buffers = 3 * tile[0] * tile[1] * 4 + 3 * tokens * text.hidden_size * 4
    why = f"3 tiles of {tile[0]} × {tile[1]} and 3 × N × D, float32, N = {tokens}"
    yield Item("head", "update", buffers, why)
    if keeps_logits(tokens, text.vocab_size, _head_dtype(config)):
        yield Item("kept logits", "update", 4 * tokens * text.vocab_size, "N × V, float32")
    if counted.adapted_head:
        both = 2 * counted.adapted_head * 4
        yield Item("adapted head", "update", both, "weight and adapter side by side, and gradients")


def available_bytes(config: Config, processes: int) -> int:
    """What one process may take: its GPU's memory, or its share of this machine's free RAM."""
    if device_of(config) == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    with open("/proc/meminfo", encoding="ascii") as lines:
        (free,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return free * 1024 // processes


def device_of(config: Config) -> str:
    """`cpu` or `cuda`; with `model.device = "cuda"` one can plan where no GPU is."""
    name = config.model.device
    return "cuda" if "cuda" in name or (name == "auto" and torch.cuda.is_available()) else "cpu"


def _width(config: Config) -> int:
    return getattr(torch, config.model.dtype).itemsize


def _head_dtype(config: Config) -> torch.dtype:
    """Of the hidden states that reach the head."""
    return getattr(torch, config.model.autocast or config.model.dtype)
