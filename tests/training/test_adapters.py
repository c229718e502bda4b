"""LoRA: what is trained, what is written, what the frozen model says, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from test_updates import config
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from erclip.config import Config, ModelConfig
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError
from erclip.records import Grade
from erclip.training.batches import Sample, make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import load_policy
from erclip.training.policy.adapters import _is_more
from erclip.training.updates import Updater, score_old

LORA = {"rank": 4, "alpha": 8}
IDS = torch.tensor([[3, 7, 2, 9, 4, 6]])


def settings(**more):
    return ModelConfig.model_validate({"lora": LORA, **more})


def move(policy, scale=0.3):
    """Adapters that have learned something: B is zero at first."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return policy


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


@pytest.fixture
def batch(responses, policy):
    grade = Grade(True, "1", "correct")
    flat = [response for group in responses[:3] for response in group]
    rows = [Sample(r, grade, 1.0, (-1.0) ** i) for i, r in enumerate(flat)]
    return make_batch(single_rows(rows), pad_id=policy.pad_id, device=policy.device)


def test_it_begins_as_the_model_and_only_float32_adapters_learn(policy, batch):
    for dtype in ("bfloat16", "float32"):
        plain = load_policy(ModelConfig(dtype=dtype))
        adapted = load_policy(settings(dtype=dtype), seed=3)
        assert torch.equal(
            score_old(plain, batch).old.logprobs, score_old(adapted, batch).old.logprobs
        )
        learning = {n: p for n, p in adapted.model.named_parameters() if p.requires_grad}
        assert len(learning) == 2 * 7 * plain.model.config.num_hidden_layers
        assert all(".lora_" in name for name in learning)
        assert {p.dtype for p in learning.values()} == {torch.float32}
    again, other = (load_policy(settings(), seed=seed) for seed in (3, 4))
    for name, value in learning.items():
        assert torch.equal(dict(again.model.named_parameters())[name], value)
        if "lora_A" in name:
            assert not torch.equal(dict(other.model.named_parameters())[name], value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_saved_is_merged_and_what_peft_reads_is_the_policy(dtype, tmp_path):
    from peft import PeftModel

    adapted = move(load_policy(settings(dtype=dtype)))
    adapted.save_model(tmp_path)
    plain = load_policy(ModelConfig(dtype=dtype)).model
    merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=plain.dtype)
    assert {n: p.dtype for n, p in merged.named_parameters()} == {
        n: p.dtype for n, p in plain.named_parameters()
    }
    tolerance = 1e-5 if dtype == "float32" else 0.1
    assert (logits(merged) - logits(adapted.model)).abs().max() < tolerance
    assert (logits(plain) - logits(adapted.model)).abs().max() > 1
    assert torch.equal(
        logits(PeftModel.from_pretrained(plain, tmp_path / "adapter")), logits(adapted.model)
    )


def test_its_settings_are_the_same_bytes_in_every_process(tmp_path):
    """peft writes sets, whose order hangs on the process."""
    load_policy(settings()).save_model(tmp_path)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert len(written["target_modules"]) == 7
    for names in written.values():
        assert not isinstance(names, list) or names == sorted(names)


class Spelled(torch.nn.Linear):
    """W x + b in words of its own, as Falcon's layers are."""

    def forward(self, x):
        return x @ self.weight.T + self.bias


class Rounded(torch.nn.Linear):
    """Something else."""

    def forward(self, x):
        return super().forward(x.mul(8).round().div(8))


def test_a_linear_layer_with_a_forward_of_its_own_is_tried():
    for kind, more in ((torch.nn.Linear, False), (Spelled, False), (Rounded, True)):
        assert _is_more(kind(16, 24)) is more


def test_a_checkpoint_brings_back_every_bit(tmp_path):
    adapted = move(load_policy(settings(), seed=3))
    adapted.save_model(tmp_path)
    back = load_policy(settings(), seed=4, checkpoint=tmp_path)
    expected = dict(adapted.model.named_parameters())
    for name, parameter in back.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
        assert parameter.requires_grad == expected[name].requires_grad


def test_adapters_for_another_model_are_refused(policy, tmp_path):
    for name, parameter in policy.model.named_parameters():
        if "layers.1.mlp.up_proj" in name:
            parameter.data.mul_(1.1)
    policy.model.save_pretrained(tmp_path / "other")
    policy.tokenizer.save_pretrained(tmp_path / "other")
    load_policy(settings()).save_model(tmp_path / "saved")
    load_policy(settings(), checkpoint=tmp_path / "saved")
    with pytest.raises(UserError, match=r"up_proj\.weight differs\); put the model back"):
        load_policy(settings(path=str(tmp_path / "other")), checkpoint=tmp_path / "saved")


def test_the_reference_is_the_model_under_the_adapters(policy, batch):
    adapted = move(load_policy(settings()))
    updater = Updater(adapted, config(kl={"weight": 0.5}))
    assert updater.reference is adapted
    frozen, plain = adapted.score_frozen(batch), score_old(policy, batch).old
    assert torch.equal(frozen.logprobs, plain.logprobs)
    assert torch.equal(frozen.entropies, plain.entropies)
    assert not torch.equal(adapted.score(batch).logprobs, plain.logprobs)
    other = Updater(adapted, config(kl={"weight": 0.5, "model": "embedded"}))
    assert other.reference is not adapted
    assert not other.reference.has_adapters
    scored = [score_old(adapted, batch)]
    mine, theirs = updater.update(scored), other.update(scored)
    assert mine["policy/kl_ref"] > 0.01
    assert mine["policy/kl_ref"] == theirs["policy/kl_ref"]


def test_an_update_moves_adapters_only(batch):
    adapted = move(load_policy(settings()))
    before = {n: p.detach().clone() for n, p in adapted.model.named_parameters()}
    learning = Config.model_validate({"trainer": {"learning_rate": 1e-3, "warmup_updates": 0}})
    assert Updater(adapted, learning).update([score_old(adapted, batch)])["grad/norm"] > 0
    for name, parameter in adapted.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (".lora_" not in name), name


def test_transposed_layers_are_merged_too(tmp_path):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())
    size = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, "eos_token_id": 1}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=None, **size))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapted = move(load_policy(settings(path=str(tmp_path / "base"))))
    adapted.save_model(tmp_path / "saved")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert (logits(merged) - logits(adapted.model)).abs().max() < 1e-5
    assert (logits(model) - logits(merged)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (["embed_tokens"], r"names model\.embed_tokens, which is no linear layer"),
        (["no_such_layer"], "does not fit: .*no_such_layer"),
    ],
)
def test_targets_that_cannot_be_are_one_sentence(targets, sentence):
    with pytest.raises(UserError, match=sentence):
        load_policy(settings(lora={"targets": targets}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapted_head_scores_saves_and_learns(policy, batch, dtype, tmp_path):
    lora = {**LORA, "targets": ["q_proj", "lm_head"]}
    adapted = move(load_policy(settings(dtype=dtype, lora=lora)))
    adapted.save_model(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    merged = load_policy(ModelConfig(path=str(tmp_path), dtype=dtype))
    mine, plain = adapted.score(batch), merged.score(batch)
    tolerance = 1e-5 if dtype == "float32" else 0.2  # merged weights are rounded to bf16
    assert (mine.logprobs - plain.logprobs).abs().max() < tolerance
    assert (mine.entropies - plain.entropies).abs().max() < tolerance
    if dtype == "float32":
        assert torch.equal(adapted.score_frozen(batch).logprobs, policy.score(batch).logprobs)
    back = load_policy(settings(dtype=dtype, lora=lora), seed=4, checkpoint=tmp_path)
    assert torch.equal(back.score(batch).logprobs, mine.logprobs)
    learning = Config.model_validate({"trainer": {"learning_rate": 1e-3, "warmup_updates": 0}})
    before = {n: p.detach().clone() for n, p in back.model.named_parameters()}
    Updater(back, learning).update([score_old(back, batch)])
    moved = {n for n, p in back.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {name for name in before if ".lora_" in name}
    assert {name for name in moved if "lm_head" in name}


def test_an_adapted_head_that_is_also_the_input_embedding_is_refused(policy, tmp_path):
    policy.model.config.tie_word_embeddings = True
    type(policy.model)(policy.model.config).save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="would adapt an output head that is also the input embed"):
        load_policy(settings(path=str(tmp_path), lora={"targets": ["lm_head"]}))


def test_autocast_beside_adapters_is_refused():
    with pytest.raises(ValidationError, match=r"set model\.dtype = bfloat16"):
        settings(autocast="bfloat16")
