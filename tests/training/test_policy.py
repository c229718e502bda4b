"""Scoring through the op equals the model's own logits, for every kind of head, or is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from engines.models import make_tiny
from erclip.config import ModelConfig
from erclip.embedded import embedded_model_dir
from erclip.errors import UserError
from erclip.records import Grade, Prompt, Response, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import Policy, load_policy

SMALL = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def build(model_class, config_class, **more):
    torch.manual_seed(0)
    return model_class(config_class(**{**SMALL, **more})).eval()


MODELS = {
    "llama tied": lambda: build(LlamaForCausalLM, LlamaConfig, tie_word_embeddings=True),
    "gpt-neox": lambda: build(GPTNeoXForCausalLM, GPTNeoXConfig),
    "gemma2, softcap": lambda: build(
        Gemma2ForCausalLM, Gemma2Config, head_dim=16, final_logit_softcapping=2.0
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(embedded_model_dir())


@pytest.fixture
def batch():
    """Three made-up responses of lengths 5, 1 and 3 after prompts of lengths 2, 4 and 3."""
    generator = torch.Generator().manual_seed(0)
    prompt = Prompt("p", (), None)
    samples = []
    for prompt_length, length in ((2, 5), (4, 1), (3, 3)):
        ids = torch.randint(2, 20, (prompt_length + length,), generator=generator).tolist()
        response = Response(
            prompt,
            tuple(ids[:prompt_length]),
            tuple(ids[prompt_length:]),
            "",
            False,
            (0.0,) * length,
        )
        samples.append(Sample(response, Grade(True, "1", "correct"), 1.0, 0.5))
    return make_batch(single_rows(samples), pad_id=0, device=torch.device("cpu"))


def expected_scores(model, batch, temperature):
    """log π, H and slopes, one unpadded sequence at a time, in float64."""
    rows = []
    for sample in batch.samples:
        sequence = torch.tensor(sample.response.prompt_ids + sample.response.token_ids)
        logits = model(input_ids=sequence[None]).logits[0].double() / temperature
        start = len(sample.response.prompt_ids)
        log_p = torch.log_softmax(logits[start - 1 : -1], -1)
        token = sequence[start:, None]
        entropy = -(log_p.exp() * log_p).sum(-1)
        s = log_p.exp() * (log_p + entropy[:, None])
        slope = (log_p.exp() * s).sum(-1) - s.gather(1, token)[:, 0]
        rows.append((log_p.gather(1, token)[:, 0], entropy, slope))
    return [torch.cat(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("head", ["op", "logits"])
@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_the_models_own(name, head, tokenizer, batch):
    model = MODELS[name]()
    policy = Policy(model, tokenizer, head=head, temperature=0.7)
    with torch.no_grad():
        got = policy.score(batch, slopes=True)
        logprobs, entropies, slopes = expected_scores(model, batch, 0.7)
    for ours, theirs in (
        (got.logprobs, logprobs),
        (got.entropies, entropies),
        (got.slopes, slopes),
    ):
        assert torch.allclose(ours[batch.mask].double(), theirs, atol=2e-6, rtol=0)
        assert not ours[~batch.mask].any()


def test_gradient_equals_the_one_through_logits(tokenizer, batch):
    model = MODELS["llama tied"]()
    gradients = []
    for head in ("op", "logits"):
        model.zero_grad()
        scores = Policy(model, tokenizer, head=head).score(batch)
        scores.logprobs.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (gradients[0] - gradients[1]).abs().max() < 1e-5 * gradients[1].abs().max()


def test_a_scaled_head_is_refused_unless_asked_for(tokenizer, batch):
    model = build(CohereForCausalLM, CohereConfig, logit_scale=0.25)
    with pytest.raises(UserError, match=r'set model\.head = "logits"'):
        Policy(model, tokenizer)
    policy = Policy(model, tokenizer, head="logits")
    with torch.no_grad():
        logprobs, _, _ = expected_scores(model, batch, 1.0)
        assert torch.allclose(
            policy.score(batch).logprobs[batch.mask].double(), logprobs, atol=2e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("no/such/folder", "No model folder 'no/such/folder'"),
        ("./nowhere", "No model folder './nowhere'"),
        ("EMPTY", "is not a model folder: it has no config.json"),
        ("FILE", "is a file; model.path must name a model folder"),
        ("BROKEN", "cannot be loaded"),
    ],
)
def test_what_is_not_a_model_is_named(path, sentence, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    where = str(tmp_path / path) if path.isupper() else path
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        load_policy(ModelConfig(path=where))


@pytest.mark.parametrize("device", ["gpu", "cuda:0"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(UserError, match=f"model.device = '{device}'"):
        load_policy(ModelConfig(device=device))


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_tied_weight_is_saved_once(lora, tmp_path):
    """Also where several processes gathered the weights, each name with memory of its own."""
    make_tiny(tmp_path, tied=True)
    policy = load_policy(ModelConfig.model_validate({"path": str(tmp_path), "lora": lora}))
    whole = {name: value.clone() for name, value in policy.model.state_dict().items()}
    policy.save_model(tmp_path / "saved", whole)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "saved")
    )
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_cold_temperature_does_not_pass_for_an_unsteady_model():
    """It divides the logits, and multiplies what the layout rounds: 1e-6 nats become 0.1."""
    assert load_policy(ModelConfig(), temperature=1e-5).temperature == 1e-5
