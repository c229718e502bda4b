"""README.md of a checkpoint: what the model is, how good, how it was made, and how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from erclip.config import Config
from erclip.config.words import toml
from erclip.runs.names import avg_at
from erclip.statistics import Interval
from erclip.text import printable, redacted

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MARKS = re.compile(r"([\\`*_{}\[\]<>|~$&]|^[#+=-])")

Evaluation = Mapping[str, Any]
"""A line of metrics.jsonl of kind eval, with its `rollout`."""


def model_card(
    config: Config, rollouts: int, updates: int, evaluations: Sequence[Evaluation]
) -> str:
    """Markdown with the hub's front matter; what others wrote in it is text and nothing else."""
    paths = (config.model.path, config.data.path)
    model, data = (path.rstrip("/").rpartition("/")[2] for path in paths)
    parts = [
        _front_matter(config),
        f"# {_text(model)}, trained on {_text(data)}\n\n{_text(config.description)}".rstrip(),
        _method(config, rollouts, updates),
        f"## Evaluation\n\n{_results(config, evaluations)}",
        f"## How to load it\n\n{_loading(config)}",
        f"## Recipe\n\nWhat differs from erclip's defaults:\n\n{_fenced('toml', recipe(config))}",
    ]
    return "\n\n".join(parts) + "\n"


def recipe(config: Config) -> str:
    """The settings that differ from the defaults, as a recipe."""
    lines = []
    for section, values in _differing(config).items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
        else:
            lines.insert(0, f"{section} = {values}")
    return redacted("\n".join(lines).strip())


def _differing(config: Config) -> dict[str, Any]:
    """Section → key → TOML of what is not the default; a key without a section is TOML alone."""
    found: dict[str, Any] = {}
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        default = field.get_default(call_default_factory=True)
        if value == default:
            continue
        if not isinstance(value, BaseModel):
            found[name] = _whole(value)
            continue
        same = type(value) is type(default)
        found[name] = {
            key: _whole(own)
            for key in type(value).model_fields
            if (own := getattr(value, key)) is not None
            and not (same and own == getattr(default, key))
        }
    return found


def _whole(value: Any) -> str:
    """TOML of a value; a section with all of its keys."""
    if isinstance(value, BaseModel):
        return toml(value.model_dump(mode="json"))
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_whole, value)) + "]"
    return toml(value)


def _front_matter(config: Config) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    lines.append("tags: [reinforcement-learning, erclip]")
    if _on_a_hub(config.model.path):
        lines.append(f"base_model: {json.dumps(config.model.path)}")
    data = config.data.path.partition(":")[0]
    if _on_a_hub(data):
        lines.append(f"datasets: [{json.dumps(data)}]")
    return "---\n" + "\n".join(lines) + "\n---"


def _on_a_hub(path: str) -> bool:
    return _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def _method(config: Config, rollouts: int, updates: int) -> str:
    loss = config.loss
    rules = [loss.surrogate, *loss.constraints, *loss.terms]
    method = " with ".join(_text(repr(rule.build())) for rule in rules)
    shape = f"{config.rollout.prompts} prompts × {config.rollout.responses} responses"
    return (
        f"- **Trained from** {_text(config.model.path)}\n"
        f"- **on** {_text(config.data.path)}\n"
        f"- **by** {method}, {updates:,} updates in {rollouts:,} rollouts of {shape}, learning "
        f"rate {config.trainer.learning_rate:g}, seed {config.trainer.seed}"
    )


def _results(config: Config, evaluations: Sequence[Evaluation]) -> str:
    """A row per held-out set, a column per evaluation."""
    if not evaluations:
        return "It has not been evaluated."
    ends = [evaluations[0], *evaluations[-1:]] if len(evaluations) > 1 else [evaluations[0]]
    heads = " | ".join(_when(evaluation["rollout"]) for evaluation in ends)
    rows = [f"| held-out set | {heads} |", "|---" * (1 + len(ends)) + "|"]
    for name in ends[-1]:
        found = avg_at(name)
        if found is not None:
            cells = " | ".join(_text(_number(evaluation, name)) for evaluation in ends)
            rows.append(f"| {_text(found[0])}, avg@{found[1]} | {cells} |")
    how = f"temperature {config.eval.temperature:g}, top-p {config.eval.top_p:g}"
    return "\n".join(rows) + f"\n\nMean accuracy with its 95 % interval over problems; {how}."


def _number(evaluation: Evaluation, name: str) -> str:
    values = [evaluation.get(key) for key in (name, f"{name}_low", f"{name}_high")]
    if any(not isinstance(value, int | float) for value in values):
        return "–"
    return Interval(*values).text()  # ty: ignore[invalid-argument-type]


def _when(rollout: int) -> str:
    return "before training" if rollout == 0 else f"after rollout {rollout}"


def _loading(config: Config) -> str:
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # this folder, or the id under which it is on a hub\n'
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)"
    )
    sampled = f"In training it sampled at temperature {config.sampler.temperature:g}"
    asked = _asked(config)
    return "\n\n".join([_fenced("python", code), f"{sampled}.", *asked])


def _asked(config: Config) -> Iterator[str]:
    """What stood around every problem, which the model is used to."""
    for words, text in (
        ("A system message stood before every prompt", config.data.system_prompt),
        ("Every problem ended with", config.data.instruction),
    ):
        if text:
            yield f"{words}:\n\n{_fenced('text', text)}"


def _fenced(language: str, text: str) -> str:
    """A block of code that its text cannot end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    body = "\n".join(printable(line) for line in text.splitlines())
    return f"{fence}{language}\n{body}\n{fence}"


def _text(text: str) -> str:
    """Text that means itself in Markdown."""
    return _MARKS.sub(r"\\\1", " ".join(printable(redacted(text)).split()))
