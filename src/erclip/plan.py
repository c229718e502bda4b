"""What a recipe will need in memory on each process, from the model's config.json alone.

Parameters and activations are counted, not guessed: the model is built on fake tensors, which have
shapes and no storage, and one micro-batch goes through it while every storage that autograd keeps
is added up. docs/memory.md says how near this comes.

Letters: B rows of a micro-batch, L tokens of a row, N response tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from erclip.config import Adamw8bit, Config
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError
from erclip.ops.tiles import tile_shape

Phase = Literal["always", "sampling", "update", "step"]

RUNTIME = {"cpu": 512 << 20, "cuda": 600 << 20}  # Python with torch and transformers; CUDA context
PROMPT_TOKENS = 256


class Item(NamedTuple):
    """One thing that takes memory, while a phase lasts."""

    name: str
    phase: Phase
    bytes: int
    why: str


class Plan(NamedTuple):
    """All items of one process."""

    items: tuple[Item, ...]

    def total(self, phase: Phase) -> int:
        """Bytes in use during a phase: its own items and those that are always there."""
        return sum(item.bytes for item in self.items if item.phase in ("always", phase))

    @property
    def peak(self) -> int:
        """Bytes of the phase that needs most."""
        return max(self.total(phase) for phase in ("sampling", "update", "step"))


class Counted(NamedTuple):
    """What the fake model told: parameters, and bytes that one micro-batch leaves for backward."""

    parameters: int
    largest: int
    layers: int
    kept: int
    shape: tuple[int, int]


def plan(config: Config, processes: int = 1, prompt_tokens: int = PROMPT_TOKENS) -> Plan:
    """Every item of one process, `prompt_tokens` being the length of a long prompt."""
    model_config = read_model_config(config)
    text = model_config.get_text_config()
    counted = count(config, model_config, processes, prompt_tokens)
    items = (
        *_weights(config, counted, processes),
        *_sampling(config, text, prompt_tokens, processes),
        *_update(config, text, counted, prompt_tokens),
    )
    return Plan(tuple(item for item in items if item.bytes))


def read_model_config(config: Config) -> Any:
    """config.json of the recipe's model."""
    path = config.model.path
    try:
        return AutoConfig.from_pretrained(
            embedded_model_dir() if path == "embedded" else path,
            trust_remote_code=config.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"The config.json of model {path!r} cannot be read: {first}") from error


def count(config: Config, model_config: Any, processes: int, prompt_tokens: int) -> Counted:
    """Send one full micro-batch through the model on fake tensors.

    It holds `token_budget` tokens, or a mini-batch's share of one process if that is less. Rows are
    as long as they get, so that the padding mask, of which sdpa keeps a float copy [B, L, L] per
    layer, is counted at its largest.
    """
    length = config.sampler.max_tokens + prompt_tokens
    prompts = -(-config.rollout.prompts // config.trainer.updates_per_rollout)
    share = -(-prompts * config.rollout.responses // processes)
    rows = max(1, min(config.trainer.token_budget // length, share))
    dtype = getattr(torch, config.model.dtype)
    with FakeTensorMode(), torch.device("cpu"):
        model: Any = AutoModelForCausalLM.from_config(model_config, dtype=dtype)
        sizes = [p.numel() for p in model.parameters()]
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, Any] = {}  # the storages too, lest an address is used again

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return tensor

        ids = torch.zeros(rows, length, dtype=torch.long)
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        total = sum(storage.nbytes() for storage in kept.values())
    layers = model_config.get_text_config().num_hidden_layers
    return Counted(sum(sizes), max(sizes), layers, total, (rows, length))


def _weights(config: Config, counted: Counted, processes: int) -> Iterator[Item]:
    width = _width(config)
    own = counted.parameters * width // processes
    per = f"{counted.parameters / 1e6:,.1f} M × {width} bytes"
    shared = f" / {processes}" if processes > 1 else ""
    yield Item("runtime", "always", RUNTIME[_device(config)], "Python, torch, transformers")
    yield Item("weights", "always", own, f"{per}{shared}")
    states, how = 2 * own, f"AdamW: 2 × weights{shared}"
    if config.trainer.optimizer.kind == "adamw_8bit":
        states, how = 2 * counted.parameters // processes, f"2 bytes per weight{shared}"
    yield Item("optimiser states", "always", states, how)
    if config.loss.kl is not None:
        yield Item("reference weights", "always", own, "the model of loss.kl, as large as this one")
    yield Item("gradients", "update", own, f"as the weights{shared}")
    yield Item("gradients", "step", own, f"as the weights{shared}")
    foreach = own if _device(config) == "cuda" else 2 * counted.largest * width // processes
    yield Item("optimiser scratch", "step", foreach, "all weights on CUDA, twice the largest else")
    if processes > 1:
        whole = counted.parameters * width
        yield Item("gathered weights", "sampling", whole, f"{per}: sampling needs them whole")


def _sampling(config: Config, text: Any, prompt_tokens: int, processes: int) -> Iterator[Item]:
    sampler = config.sampler
    prompts = -(-config.rollout.prompts // processes)
    rows = min(sampler.batch_size, prompts * config.rollout.responses)
    rows = max(rows // config.rollout.responses, 1) * config.rollout.responses
    length = sampler.max_tokens + prompt_tokens
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * size * rows * length * _width(config)
    why = f"2 × {text.num_hidden_layers} layers × {heads} × {size} × {rows} × {length} tokens"
    yield Item("key-value cache", "sampling", cache, f"{why} × {_width(config)} bytes")
    yield Item("cache growing", "sampling", cache // text.num_hidden_layers, "one layer at a time")
    logits = 4 * rows * text.vocab_size * 4
    yield Item("sampling logits", "sampling", logits, f"4 × {rows} × {text.vocab_size} float32")


def _update(config: Config, text: Any, counted: Counted, prompt_tokens: int) -> Iterator[Item]:
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
    device = torch.device(_device(config))
    tile = tile_shape(tokens, text.vocab_size, device, None)
    buffers = 3 * tile[0] * tile[1] * 4 + 3 * tokens * text.hidden_size * 4
    why = f"3 tiles of {tile[0]} × {tile[1]} and 3 × N × D, float32, N = {tokens}"
    yield Item("head", "update", buffers, why)


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
        after = plan(changed, count_of, prompt_tokens).peak
        found.append(Remedy(setting, after))
    before = plan(config, processes, prompt_tokens).peak
    useful = [remedy for remedy in found if remedy.peak < 0.98 * before]
    enough = [remedy for remedy in useful if remedy.peak <= available]
    return enough or sorted(useful, key=lambda remedy: remedy.peak)


def _changes(config: Config, processes: int) -> Iterator[tuple[str, Config, int]]:
    for divisor in (2, 8):
        budget = max(1, config.trainer.token_budget // divisor)
        yield _with(config, processes, "trainer.token_budget", budget)
    if not config.model.gradient_checkpointing:
        yield _with(config, processes, "model.gradient_checkpointing", True)
    yield _with(config, processes, "sampler.batch_size", max(1, config.sampler.batch_size // 4))
    if config.trainer.optimizer.kind == "adamw" and processes == 1:
        yield _with(config, processes, "trainer.optimizer", Adamw8bit())
    for more in (2 * processes, 4 * processes):
        yield f"--processes {more}", config, more
    if config.model.dtype == "float32":
        yield _with(config, processes, "model.dtype", "bfloat16")


def _with(config: Config, processes: int, key: str, value: Any) -> tuple[str, Config, int]:
    section, _, name = key.partition(".")
    changed = getattr(config, section).model_copy(update={name: value})
    shown = str(value).lower() if isinstance(value, bool) else getattr(value, "kind", value)
    return f"{key} = {shown}", config.model_copy(update={section: changed}), processes


def available_bytes(config: Config, processes: int) -> int:
    """What one process may take: its GPU's memory, or its share of this machine's free RAM."""
    if _device(config) == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    with open("/proc/meminfo", encoding="ascii") as lines:
        (free,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return free * 1024 // processes


def _device(config: Config) -> str:
    name = config.model.device
    return "cuda" if "cuda" in name or (name == "auto" and torch.cuda.is_available()) else "cpu"


def _width(config: Config) -> int:
    return getattr(torch, config.model.dtype).itemsize
