"""The shipped model: loads as any model folder does, and starts in the band RL can lift it from."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from erclip.embedded import embedded_model_dir
from erclip.models.architecture import CHARACTERS, build_tokenizer
from erclip.models.measure import MAX_TOKENS, sampled_accuracy
from erclip.tasks import load_task
from erclip.tasks.countdown import Problem, solutions


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(embedded_model_dir()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(embedded_model_dir())


def test_size_and_files(model: torch.nn.Module) -> None:
    files = {path.name: path.stat().st_size for path in embedded_model_dir().iterdir()}
    assert files["model.safetensors"] <= 1_000_000
    assert sum(files.values()) <= 1_000_000
    assert 100_000 <= sum(p.numel() for p in model.parameters()) <= 200_000
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_hidden_states_and_head_reproduce_the_logits(model, tokenizer) -> None:
    tokens = tokenizer("3 7 8=29:3*7=21;21+8=29", return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = model(input_ids=tokens).logits
        hidden = model.model(input_ids=tokens).last_hidden_state
        assert torch.equal(logits, hidden @ model.get_output_embeddings().weight.T)


def test_no_dropout(model, tokenizer) -> None:
    tokens = tokenizer("3 7 8=29:", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.equal(model.train()(tokens).logits, model.eval()(tokens).logits)


def test_tokenizer_keeps_every_character(tokenizer) -> None:
    ids = tokenizer(CHARACTERS).input_ids
    assert len(ids) == len(CHARACTERS) == len(set(ids))
    assert tokenizer.decode(ids) == CHARACTERS
    assert tokenizer("x\n").input_ids == [tokenizer.unk_token_id] * 2
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()


def test_chat_template_puts_the_answer_right_behind_the_question(tokenizer) -> None:
    asked = {"role": "user", "content": "3 7 8=29"}
    answered = {"role": "assistant", "content": "3*7=21;21+8=29"}
    render = tokenizer.apply_chat_template
    assert render([asked], tokenize=False, add_generation_prompt=True) == "3 7 8=29:"
    assert render([asked, answered], tokenize=False) == "3 7 8=29:3*7=21;21+8=29<eos>"


def test_accuracy_at_temperature_1_starts_in_the_band(model, tokenizer) -> None:
    task = load_task("countdown")
    accuracy = sampled_accuracy(model, tokenizer, task, task.test[:128], samples=4, seed=7)
    assert 0.25 <= accuracy <= 0.35


def test_no_solution_outgrows_the_length_limit(tokenizer) -> None:
    task = load_task("countdown")
    longest = max(
        (text for prompt in [*task.train, *task.test] for text in solutions(Problem(*prompt.gold))),
        key=len,
    )
    assert len(tokenizer(longest).input_ids) < MAX_TOKENS


def test_the_folder_is_inside_the_package() -> None:
    import erclip.embedded

    assert Path(erclip.embedded.__file__).parent in embedded_model_dir().parents
