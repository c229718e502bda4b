"""A penalty for leaving a reference model: TRL's `beta`, and `loss.kl`."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from .conftest import NO_ERC, gradients, history, next_batches

STOCK = {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}
RUN = {"max_steps": 6, "learning_rate": 0.3, "beta": 0.5}


@pytest.mark.parametrize(
    "settings",
    [
        {"use_bias_correction_kl": False},
        {"use_bias_correction_kl": True},
        {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5},
    ],
    ids=["plain", "corrected", "a reference that follows"],
)
def test_a_run_with_beta_is_stock(make, settings):
    ours = make(loss=NO_ERC, **RUN, **settings)
    ours.train()
    stock = make(GRPOTrainer, GRPOConfig, **STOCK, **RUN, **settings)
    stock.train()
    assert history(ours, "loss") == pytest.approx(history(stock, "loss"), abs=1e-6)
    assert history(ours, "policy/kl_ref")[-1] > 1e-3
    if not settings.get("use_bias_correction_kl", True):
        assert history(ours, "policy/kl_ref") == pytest.approx(history(stock, "kl"), abs=1e-6)
    for got, want in zip(gradients(ours), gradients(stock), strict=True):
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-6)


def test_with_adapters_the_reference_is_the_model_under_them(make):
    def run(*args, **settings):
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        trainer = make(
            *args, extra={"peft_config": lora}, **{**RUN, "learning_rate": 3.0}, **settings
        )
        trainer.train()
        return trainer

    ours = run(loss=NO_ERC)
    stock = run(GRPOTrainer, GRPOConfig, **STOCK)
    assert ours.ref_model is None
    assert history(ours, "loss") == pytest.approx(history(stock, "loss"), abs=1e-6)
    assert history(ours, "policy/kl_ref")[-1] > 1e-5


def test_a_reference_is_there_where_a_rule_asks_for_one(make):
    assert make().ref_model is None
    trainer = make(loss={"terms": [{"kind": "kl_penalty", "weight": 0.0}]})
    assert trainer.ref_model is not None
    assert trainer.args.beta == 0.0
    batch = next_batches(trainer)[0]
    mask = batch["completion_mask"].bool()
    assert torch.equal(batch["ref_per_token_logps"][mask], batch["old_per_token_logps"][mask])


def test_evaluation_measures_the_distance_too(make, problems):
    trainer = make(
        per_device_eval_batch_size=16, extra={"eval_dataset": problems.select(range(4))}, beta=0.1
    )
    metrics = trainer.evaluate()
    assert metrics["eval_policy/kl_ref"] == 0.0
