"""`erclip init`: a recipe to begin with, every line of it explained by the setting's own words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from erclip.config import Config
from erclip.config.keys import keys
from erclip.config.recipes import check, override
from erclip.config.words import toml
from erclip.errors import UserError
from erclip.machine.files import write_text
from erclip.tasks.rows import fields_of
from erclip.tasks.sources import SUFFIXES, read_rows, suffix_of

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
SMALL = {
    "sampler.max_tokens": 24,
    "sampler.batch_size": 1024,
    "rollout.prompts": 64,
    "trainer.rollouts": 60,
    "trainer.learning_rate": 1e-4,
    "trainer.token_budget": 8192,
    "eval.prompts": 256,
}
"""What suits the embedded model; the other values are for a language model."""

VALUES: Mapping[str, Any] = {
    "model.path": "embedded",
    "data.path": "countdown",
    "data.instruction": INSTRUCTION,
    "sampler.max_tokens": 1024,
    "sampler.temperature": 1.0,
    "sampler.batch_size": 128,
    "rollout.prompts": 32,
    "rollout.responses": 8,
    "rollout.dynamic_sampling": "refill",
    "loss.surrogate": {"kind": "ppo_clip", "low": 0.2, "high": 0.28, "dual": 10.0},
    "loss.constraints": [
        {"kind": "entropy_ratio_clip", "low": 0.05, "high": 0.05, "rule": "directional"}
    ],
    "trainer.rollouts": 100,
    "trainer.updates_per_rollout": 8,
    "trainer.learning_rate": 1e-6,
    "trainer.token_budget": 16_384,
    "eval.every": 10,
    "eval.prompts": 64,
    "eval.responses": 4,
    "eval.greedy": True,
}
IDEAS: Mapping[str, Any] = {
    "model.autocast": "bfloat16",
    "model.lora": {"rank": 16},
    "model.gradient_checkpointing": True,
    "data.test_path": "test.jsonl",
    "data.last_number": True,
    "reward.function": "my_rewards.py:reward",
    "checkpoint.every_minutes": 30.0,
    "ledger.every": 10,
}
"""Settings that many will want, as comments."""


def write_starter(out: Path, model: str, data: str) -> Iterator[str]:
    """Write the recipe; yields what was seen of the data. Raises UserError and writes nothing."""
    if out.exists():
        raise UserError(f"{out} is there already; give another name, or remove it.")
    if out.suffix != ".toml":
        raise UserError(f"{out}: a recipe is a TOML file; call it {out.with_suffix('.toml')}.")
    seen = list(_look(data))
    values = {**VALUES, **(SMALL if model == "embedded" else {})}
    values |= {"model.path": model, "data.path": data}
    if data == "countdown" or data.startswith("reasoning-gym:"):
        del values["data.instruction"]
    text = recipe_text(f"{Path(model).name} on {Path(data).name}", values)
    check(override({}, [f"{key}={toml(value)}" for key, value in values.items()]), str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    yield from seen


def recipe_text(description: str, values: Mapping[str, Any]) -> str:
    """The recipe with these values by key, the ideas as comments, each with its meaning."""
    meanings = {key.path: key.meaning for key in keys()}
    about = {
        "loss.surrogate": "what a token's objective is; `erclip settings loss.surrogate`",
        "loss.constraints": "which tokens get no gradient: ERC; [] for none",
        "trainer.rollouts": "length of the run; --resume can extend it",
        "trainer.learning_rate": "lower it first if training is unstable",
        "sampler.temperature": meanings["sampler.temperature"],
    }
    lines = [f"description = {toml(description)}"]
    section = ""
    entries = [(key, value, "") for key, value in values.items()]
    entries += [(key, value, "# ") for key, value in IDEAS.items()]
    sections = list(Config.model_fields)
    for key, value, comment in sorted(entries, key=lambda e: sections.index(e[0].split(".")[0])):
        own, _, name = key.partition(".")
        if own != section:
            lines += ["", f"[{own}]"]
            section = own
        said = about.get(key) or meanings.get(key, "")
        lines += [f"# {line}" for line in textwrap.wrap(said, 96)]
        lines.append(f"{comment}{name} = {toml(value)}")
    return "\n".join(lines) + "\n"


def _look(data: str) -> Iterator[str]:
    """What the first row of a local file says; a mistake is better found now."""
    if suffix_of(Path(data)) in SUFFIXES:
        first = next(iter(read_rows(data, "train")), None)
        if first is None:
            raise UserError(f"{data} has no rows; give another file.")
        asks, answers = fields_of(first.row, first.where)
        yield f"{data}: asks in `{asks}`, answers in `{answers}` (`erclip data {data}` shows more)"
