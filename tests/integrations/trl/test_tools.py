"""Tools, environments and `rollout_func` of TRL with Qwen3's template: stock but for ERC."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from erclip.integrations.trl import ERCConfig, ERCTrainer

from .conftest import NO_ERC, SMALL, Gradients, gradients, history

STOCK = {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}
CALL = '<tool_call>\n{"name": "multiply", "arguments": {"a": 3, "b": %d}}\n</tool_call><|im_end|>'
NARROW = {"constraints": [{"kind": "entropy_ratio_clip", "low": 1e-4, "high": 1e-4}]}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def qwen_tokenizer():
    """Bytes, and Qwen3's template and special tokens."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
    )  # fmt: skip
    tokenizer.add_tokens(WORDS)
    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (folder / "qwen3.jinja").read_text()
    tokenizer.padding_side = "left"
    return tokenizer


def tiny(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
        initializer_range=0.1, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def multiply(a: int, b: int) -> int:
    """
    Multiplies.

    Args:
        a: one number
        b: the other

    Returns:
        The product.
    """
    return a * b


class World:
    """A game whose only move multiplies; it pays for an even product."""

    def reset(self, **_) -> str:
        self.last = 1
        return " Begin."

    def multiply(self, a: int, b: int) -> int:
        """
        Multiplies.

        Args:
            a: one number
            b: the other

        Returns:
            The product.
        """
        self.last = a * b
        return self.last

    def get_reward(self) -> float:
        return float(self.last % 2 == 0)


def even(completion_ids, **_):
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


def scripted(trainer_class):
    """First a call of the tool, then an answer; no model would learn a template in a test."""

    class Scripted(trainer_class):
        turns = 0

        def _generate_single_turn(self, prompt_ids, *rest, **named):
            self.turns += 1
            first = "<tool_response>" not in self._tokenizer.decode(prompt_ids[0])
            texts = [
                CALL % i if first else f"It is {3 * i}.<|im_end|>" for i in range(len(prompt_ids))
            ]
            called = [self._tokenizer.encode(text) for text in texts]
            return called, None

    return Scripted


def rolled_out(prompts, trainer):
    """Text of the model and of an environment in turns."""
    encode = trainer._tokenizer.encode
    rows = [
        (encode(f"I say {i}"), encode(" heard "), encode("done<|im_end|>"))
        for i in range(len(prompts))
    ]
    return {
        "prompt_ids": [encode("Say.") for _ in prompts],
        "completion_ids": [a + b + c for a, b, c in rows],
        "env_mask": [[1] * len(a) + [0] * len(b) + [1] * len(c) for a, b, c in rows],
        "logprobs": [[-1.0] * (len(a) + len(b) + len(c)) for a, b, c in rows],
    }


HOMES = {
    "tools": {"tools": [multiply], "reward_funcs": even},
    "environment": {"environment_factory": World},
    "rollout_func": {"rollout_func": rolled_out, "reward_funcs": even},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    prompts = [{"prompt": [{"role": "user", "content": f"What is 3 x {i}?"}]} for i in range(8)]

    def run(home, trainer=ERCTrainer, config=ERCConfig, **settings):
        tokenizer = qwen_tokenizer()
        args = config(
            str(tmp_path / "run"),
            **{**SMALL, "max_completion_length": 400, "learning_rate": 0.3, **settings},
        )
        built = scripted(trainer)(
            model=tiny(tokenizer), args=args, train_dataset=Dataset.from_list(prompts),
            processing_class=tokenizer, callbacks=[Gradients()], **HOMES[home],
        )  # fmt: skip
        built.train()
        return built

    return run


@pytest.mark.parametrize("home", HOMES)
def test_without_erc_a_run_is_stock(run, home):
    ours = run(home, loss=NO_ERC)
    stock = run(home, GRPOTrainer, GRPOConfig, **STOCK)
    assert history(ours, "reward") == history(stock, "reward")
    assert history(ours, "loss") == pytest.approx(history(stock, "loss"), abs=1e-6)
    for got, want in zip(gradients(ours), gradients(stock), strict=True):
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-6)
    assert max(g.abs().max() for g in gradients(ours)[0].values()) > 0
    if home != "rollout_func":
        assert history(ours, "tools/call_frequency") == [1.0]
        assert history(ours, "tools/failure_frequency") == [0.0]


@pytest.mark.parametrize("dynamic_sampling", ["off", "refill"])
@pytest.mark.parametrize("home", HOMES)
def test_erc_looks_at_the_models_own_tokens(run, home, dynamic_sampling):
    trainer = run(home, dynamic_sampling=dynamic_sampling, loss=NARROW)
    assert history(trainer, "erc/noise_frac") == [0.0]
    assert history(trainer, "clip/erc_frac")[-1] > 0
    (batch, *_) = trainer._buffered_inputs
    own = batch["completion_mask"].bool() & batch["tool_mask"].bool()
    others = batch["completion_mask"].bool() & ~batch["tool_mask"].bool()
    assert others.any()
    assert (batch["old_entropies"][others] == 0).all()
    assert (batch["old_entropies"][own] > 0).all()
    counted = sum((b["completion_mask"] * b["tool_mask"]).sum() for b in trainer._buffered_inputs)
    assert sum(history(trainer, "train/tokens")) == counted
