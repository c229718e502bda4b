"""What is written is the trained model, and what cannot be trained or written is refused."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from erclip.config import Config, ModelConfig
from erclip.errors import UserError
from erclip.training.policy import load_policy
from erclip.training.policy.loading import refuse_untrainable
from models.zoo import build, saved

LORA = {"rank": 2, "alpha": 4}


def lora(folder, **more):
    return load_policy(ModelConfig.model_validate({"path": str(folder), "lora": LORA, **more}))


def learn(policy):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.add_(0.05 * torch.randn_like(p))


def test_fused_experts_are_merged_and_peft_reads_the_adapter(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = saved(tmp_path / "base", build("mixtral"))
    policy = lora(base)
    learn(policy)
    policy.save_model(tmp_path / "saved")
    settings = ModelConfig.model_validate({"path": str(base), "lora": LORA})
    back = load_policy(settings, seed=5, checkpoint=tmp_path / "saved")
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.no_grad():
        live = policy.model(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(base)
        before = plain(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(plain, tmp_path / "saved" / "adapter")
        assert (merged - live).abs().max() < 1e-4
        assert (theirs(input_ids=ids).logits - live).abs().max() < 1e-4
        assert torch.equal(back.model(input_ids=ids).logits, live)
        assert (before - live).abs().max() > 0.05


def test_persistent_buffers_are_kept(tmp_path):
    """Gemma 4 scales its layers by buffers."""
    model = build("gemma4")
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "layer_scalar" in name:
                buffer.fill_(0.5)
    policy = lora(saved(tmp_path / "base", model))
    policy.save_model(tmp_path / "saved")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("base", "saved"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_that_lacks_something_is_noticed_when_written(tmp_path, monkeypatch):
    policy = load_policy(ModelConfig(path=str(saved(tmp_path / "base", build("llama")))))
    write = policy.model.save_pretrained

    def careless(folder, **more):
        write(folder, **more)
        tensors = load_file(folder / "model.safetensors")
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(policy.model, "save_pretrained", careless)
    with pytest.raises(UserError, match=r"does not hold the trained model: missing keys"):
        policy.save_model(tmp_path / "first")


def test_other_numbers_are_noticed_when_written(tmp_path, monkeypatch):
    policy = load_policy(ModelConfig(path=str(saved(tmp_path / "base", build("llama")))))
    write = policy.model.save_pretrained

    def careless(folder, **more):
        write(folder, **more)
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] *= 1.1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(policy.model, "save_pretrained", careless)
    with pytest.raises(UserError, match="log-probs differ by"):
        policy.save_model(tmp_path / "first")


@pytest.mark.parametrize("lost", ["lm_head", "layers.1"])
def test_a_model_with_holes_is_refused(lost, tmp_path):
    folder = saved(tmp_path, build("llama"))
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if lost not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"lacks \d+ of its tensors, .*{lost}"):
        load_policy(ModelConfig(path=str(folder)))


@pytest.mark.parametrize("kind", ["T5Config", "LlavaConfig", "ViTConfig"])
def test_a_model_of_another_kind_is_refused_in_a_sentence(kind, tmp_path):
    getattr(transformers, kind)().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"not read as a causal language model; give one"):
        load_policy(ModelConfig(path=str(tmp_path)))


def test_an_adapter_beside_a_model_is_refused(tmp_path):
    base = saved(tmp_path / "base", build("llama"))
    lora(base).save_model(tmp_path / "saved")
    shutil.copy(tmp_path / "saved" / "adapter" / "adapter_config.json", base)
    with pytest.raises(UserError, match="holds an adapter"):
        load_policy(ModelConfig(path=str(base)))


def test_float16_weights_are_refused_and_adapters_on_them_are_not():
    with pytest.raises(ValidationError, match="cannot be trained"):
        Config.model_validate({"model": {"dtype": "float16"}})
    Config.model_validate({"model": {"dtype": "float16", "lora": LORA}})
    policy = load_policy(ModelConfig(dtype="float16"))  # evaluation may
    with pytest.raises(UserError, match="cannot be trained"):
        refuse_untrainable(policy.model, "embedded")


def test_quantised_weights_are_refused(tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = saved(tmp_path / "base", build("llama", hidden_size=64, intermediate_size=128))
    packed = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map="cpu"
    )
    with pytest.raises(UserError, match="quantised weights"):
        refuse_untrainable(packed, "packed")


@pytest.mark.parametrize("name", ["opt", "starcoder2", "gpt-neo"])
def test_checkpointing_turns_no_dropout_on(name, tmp_path):
    folder = saved(tmp_path, build(name))
    policy = load_policy(ModelConfig(path=str(folder), gradient_checkpointing=True))
    assert not any(module.training for module in policy.model.modules())
    norms = [m for m in policy.model.modules() if isinstance(m, torch.nn.LayerNorm)]
    calls = []
    for norm in norms:
        norm.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.tensor([[5, 50, 60, 70]])
    policy.model(input_ids=ids, use_cache=False).logits.sum().backward()
    assert len(calls) > 1.5 * len(norms)  # those of the layers ran again in the backward pass


def test_a_model_that_is_never_the_same_twice_is_refused(tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward = LlamaMLP.forward
    monkeypatch.setattr(
        LlamaMLP, "forward", lambda self, x: torch.dropout(forward(self, x), 0.1, True)
    )
    with pytest.raises(UserError, match="every ratio would be noise"):
        load_policy(ModelConfig(path=str(saved(tmp_path, build("llama")))))


def test_autocast_reaches_models_that_bypass_their_trunk(tmp_path):
    """OPT's head model calls the decoder, not the trunk around it."""
    folder = saved(tmp_path, build("opt"))
    ids = torch.tensor([[5, 50, 60, 70, 80]])
    plain, low = (
        load_policy(ModelConfig(path=str(folder), autocast=a)) for a in (None, "bfloat16")
    )
    with torch.no_grad():
        gap = (plain.model(ids).logits - low.model(ids).logits).abs().max()
    assert 1e-4 < gap < 0.5
