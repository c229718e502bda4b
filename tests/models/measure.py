"""What each architecture does here: `python tests/models/measure.py docs/models.csv [NAME …]`.

Rows of architectures that are not named, or that this release of transformers does not have, stay.
Numbers are the largest differences in nats (checkpointed: of the gradient, relative to its largest
entry); words are refusals.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from erclip.config import ModelConfig
from erclip.errors import UserError
from erclip.records import Grade, Prompt, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import Policy, load_policy
from erclip.training.sampling import SamplingSettings, TransformersSampler
from models.zoo import NAMES, build, config_of, naive, saved

COLUMNS = ("model", "head", "scored", "sampled", "packed", "lora", "checkpointed")
TEXTS = ("1+2?", "What is 7+9? The answer")
LORA = {"rank": 2, "alpha": 4}


def measure(name: str, folder: Path) -> dict[str, str]:
    """One row of the table."""
    path = saved(folder / "model", build(name))
    row = {"model": name, "head": "op"}
    try:
        load_policy(ModelConfig(path=str(path)))
    except UserError:
        row["head"] = "logits"
    settings = {"path": str(path), "head": row["head"]}
    fresh = AutoModelForCausalLM.from_pretrained(path).eval()
    try:
        policy = fitted(settings)
        samples = drawn(policy)
    except UserError as error:
        return {**row, "scored": f"refused: {error}".split(";")[0]}
    expected = {id(s): naive(fresh, [*ids(s)], len(s.response.prompt_ids)) for s in samples}
    row["sampled"] = number(
        (torch.tensor(s.response.logprobs) - expected[id(s)]).abs().max() for s in samples
    )
    row["scored"] = number(gaps(policy, single_rows(samples), expected))
    shared = policy.rows(samples, 512)
    row["packed"] = (
        number(gaps(policy, shared, expected)) if policy.shares_prompts else "one by one"
    )
    row["lora"] = attempt(lambda: merged_gap(settings, folder / "lora"))
    row["checkpointed"] = attempt(lambda: checkpointed_gap(settings, samples))
    return row


def fitted(settings: dict[str, Any]) -> Policy:
    """A policy that is ready for the texts drawn here."""
    policy = load_policy(ModelConfig.model_validate(settings))
    policy.fit(24, 8)
    return policy


def drawn(policy: Policy) -> list[Sample]:
    """Two responses to each of two prompts of different lengths."""
    prompts = [Prompt(t, ({"role": "user", "content": t},), None) for t in TEXTS]
    plain = policy.tokenizer
    plain.chat_template = None
    sampler = TransformersSampler(policy.model, plain)
    groups = sampler.sample(prompts, SamplingSettings(2, 8), range(2))
    return [Sample(r, Grade(False, None, "wrong"), 0.0, 1.0) for g in groups for r in g]


def ids(sample: Sample) -> list[int]:
    """Prompt and response."""
    return [*sample.response.prompt_ids, *sample.response.token_ids]


def gaps(policy: Policy, rows: Any, expected: dict[int, torch.Tensor]) -> list[torch.Tensor]:
    """|our log-probs − transformers'| of every response, all rows in one micro-batch."""
    batch = make_batch(rows, pad_id=policy.pad_id, device=policy.device)
    with torch.no_grad():
        scores = policy.score(batch).logprobs
    return [
        (scores[i, : len(expected[id(s)])] - expected[id(s)]).abs().max()
        for i, s in enumerate(batch.samples)
    ]


def merged_gap(settings: dict[str, Any], folder: Path) -> str:
    """Adapters that have learned, saved and loaded as an ordinary model."""
    policy = fitted({**settings, "lora": LORA})
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.add_(0.05 * torch.randn_like(p))
    policy.save_model(folder)
    policy.tokenizer.save_pretrained(folder)
    text = torch.tensor([[1, 50, 60, 70, 80, 90]])
    with torch.no_grad():
        live, again = (
            m(input_ids=text, use_cache=False).logits.log_softmax(-1)
            for m in (policy.model, fitted({**settings, "path": str(folder)}).model)
        )
    return number([(live - again).abs().max()])


def checkpointed_gap(settings: dict[str, Any], samples: list[Sample]) -> str:
    """The gradient with activations computed again, against the one without."""
    found = []
    for again in (False, True):
        policy = fitted({**settings, "gradient_checkpointing": again})
        batch = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
        policy.score(batch).logprobs.sum().backward()
        grads = [p.grad for p in policy.model.parameters() if p.grad is not None]
        found.append(torch.cat([g.flatten() for g in grads]))
    return number([(found[0] - found[1]).abs().max() / found[0].abs().max()])


def attempt(work: Callable[[], str]) -> str:
    """Its number, or the sentence of its refusal."""
    try:
        return work()
    except UserError as error:
        return f"refused: {error}".split(";")[0]


def number(values: Any) -> str:
    """The largest, with one digit."""
    return f"{max(float(v) for v in values):.0e}"


def known(name: str) -> bool:
    """Whether this release of transformers has the architecture."""
    try:
        config_of(name)
    except AttributeError:
        return False
    return True


def main(target: Path, names: Sequence[str]) -> None:
    """Measure architectures, and write all rows after each."""
    torch.set_num_threads(1)
    with target.open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    for name in filter(known, names or NAMES):
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(name, Path(folder))
        print(rows[name], flush=True)
        with target.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[name] for name in NAMES if name in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
