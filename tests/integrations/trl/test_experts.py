"""A mixture of experts: its routers' loss is TRL's, through our head."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM
from trl import GRPOConfig, GRPOTrainer

from erclip.embedded import embedded_model_dir

from .conftest import NO_ERC, gradients, history

STOCK = {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}


@pytest.fixture
def experts(make):
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir())

    def experts(*args, **settings):
        torch.manual_seed(0)
        config = MixtralConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, num_local_experts=4,
            max_position_embeddings=128, initializer_range=0.3,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        trainer = make(
            *args,
            model=MixtralForCausalLM(config),
            extra={"processing_class": AutoTokenizer.from_pretrained(embedded_model_dir())},
            learning_rate=0.1,
            gradient_accumulation_steps=2,
            max_steps=3,
            **settings,
        )
        trainer.reward_funcs = [even]
        trainer.train()
        return trainer

    return experts


def even(completion_ids, **_):
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


@pytest.mark.parametrize("coefficient", [0.5, 0.0])
def test_the_routers_loss_is_stock(experts, coefficient):
    ours = experts(loss=NO_ERC, router_aux_loss_coef=coefficient)
    stock = experts(GRPOTrainer, GRPOConfig, router_aux_loss_coef=coefficient, **STOCK)
    assert ours._has_exact_head
    assert history(ours, "loss") == pytest.approx(history(stock, "loss"), abs=1e-6)
    assert history(ours, "aux_loss") == pytest.approx(history(stock, "aux_loss"), abs=1e-6)
    assert bool(history(ours, "aux_loss")) == bool(coefficient)
    for got, want in zip(gradients(ours), gradients(stock), strict=True):
        assert got.keys() == want.keys()
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=5e-6)


def test_the_routers_change_no_ratio(experts):
    ours = experts(router_aux_loss_coef=0.01)
    assert history(ours, "erc/noise_frac") == [0.0, 0.0]
    assert history(ours, "clip/erc_frac")[1] > 0
