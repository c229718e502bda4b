"""Rollouts ↔ files: samples as JSON lines, the old policy's scores as safetensors.

Resuming in the middle of a rollout's updates is exact only if the old policy's log-probs and
entropies come back as they were: the weights that made them are gone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from erclip.errors import UserError
from erclip.records import Grade, Group, Prompt, Response, Sample, TopTokens, numbered
from erclip.training.scored_rollout import Old, ScoredRollout

GROUPS = "rollout.jsonl"
SCORES = "rollout.safetensors"
NAMED = (
    "number", "version", "first_prompt", "minis", "order", "metrics", "scored_at", "waited_s",
    "done",
)  # fmt: skip

Numbers = list[dict[str, Any]]
"""What state.json holds of each rollout."""


def save_rollouts(
    rollouts: Sequence[ScoredRollout], scores: Iterable[Sequence[Old]], folder: Path
) -> Numbers:
    """Write the rollouts one after the other; `scores` are every process's, one for each of them.

    A score belongs to a response by its place among the responses of all rollouts.
    """
    starts = _starts(rollouts)
    old = {
        start + number: score
        for part in scores
        for start, own in zip(starts, part, strict=False)
        for number, score in own.items()
    }
    with (folder / GROUPS).open("w", encoding="utf-8") as file:
        for rollout in rollouts:
            file.writelines(json.dumps(group_line(group)) + "\n" for group in rollout.sampled)
    empty = [torch.zeros(0)]
    save_file(
        {
            "responses": torch.tensor(list(old), dtype=torch.long),
            "logprobs": torch.cat([score[0] for score in old.values()] or empty),
            "entropies": torch.cat([score[1] for score in old.values()] or empty),
        },
        folder / SCORES,
    )
    return [
        {"groups": len(rollout.sampled), **{name: getattr(rollout, name) for name in NAMED}}
        for rollout in rollouts
    ]


def load_rollouts(numbers: Numbers, folder: Path, prompts: Sequence[Prompt]) -> list[ScoredRollout]:
    """Put rollouts back together, all of them waiting; `prompts` are those that they sampled."""
    lines = [json.loads(line) for line in (folder / GROUPS).read_text("utf-8").splitlines()]
    groups = iter([read_group(line, prompt) for line, prompt in zip(lines, prompts, strict=True)])
    rollouts = []
    for found in numbers:
        sampled = numbered(next(groups) for _ in range(found["groups"]))
        named = {name: found[name] for name in NAMED}
        rollouts.append(ScoredRollout(sampled=sampled, **named))
    old = _read_scores(folder, [sample for rollout in rollouts for sample in rollout.samples])
    for start, rollout in zip(_starts(rollouts), rollouts, strict=False):
        places = range(start, start + len(rollout.samples))
        rollout.old = {place - start: old[place] for place in places if place in old}
    return rollouts


def group_line(group: Group) -> dict[str, Any]:
    """Everything that a TokenBatch is made of, and what was decided about it."""
    first = group.samples[0].response
    return {
        "prompt_id": first.prompt.id,
        "prompt_ids": first.prompt_ids,
        "samples": [_sample(sample) for sample in group.samples],
    }


def read_group(line: dict[str, Any], prompt: Prompt) -> Group:
    """A group that `group_line` wrote; raises UserError if it answers another prompt."""
    if line["prompt_id"] != prompt.id:
        raise UserError(
            f"The training prompts have changed since the checkpoint: {prompt.id} stands where "
            f"{line['prompt_id']} was; put the data back or start a new run"
        )
    return Group(
        tuple(
            Sample(
                Response(
                    prompt,
                    tuple(line["prompt_ids"]),
                    tuple(s["token_ids"]),
                    s["text"],
                    s["truncated"],
                    tuple(s["logprobs"]),
                    tuple(s.get("versions", ())),
                    _top_tokens(s.get("top")),
                    s.get("nucleus"),
                ),
                Grade(*s["grade"]),
                s["reward"],
                s["advantage"],
            )
            for s in line["samples"]
        )
    )


def _sample(sample: Sample) -> dict[str, Any]:
    response, grade = sample.response, sample.grade
    line = {
        "token_ids": response.token_ids,
        "text": response.text,
        "truncated": response.truncated,
        "logprobs": response.logprobs,
        "grade": [grade.correct, grade.answer, grade.reason],
        "reward": sample.reward,
        "advantage": sample.advantage,
    }
    if response.versions:
        line["versions"] = response.versions
    if response.top is not None:
        both = (response.top.ids, response.top.logprobs)
        line["top"] = [base64.b64encode(part).decode() for part in both]
    if response.nucleus is not None:
        line["nucleus"] = response.nucleus
    return line


def _top_tokens(written: Sequence[str] | None) -> TopTokens | None:
    return None if written is None else TopTokens(*map(base64.b64decode, written))


def _starts(rollouts: Sequence[ScoredRollout]) -> list[int]:
    """Responses before each rollout, and all of them at the end."""
    return list(accumulate((len(rollout.samples) for rollout in rollouts), initial=0))


def _read_scores(folder: Path, samples: Sequence[Sample]) -> Old:
    tensors = load_file(folder / SCORES)
    numbers = tensors["responses"].tolist()
    lengths = [len(samples[number].response.token_ids) for number in numbers]
    parts = (tensors[name].split(lengths) for name in ("logprobs", "entropies"))
    return dict(zip(numbers, zip(*parts, strict=True), strict=True)) if numbers else {}
