"""Whole runs: metrics, PEFT, resume, evaluation, overlong punishment, a head that is not linear."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from torch import nn

from erclip.errors import UserError
from erclip.integrations.hf import head
from erclip.integrations.trl import ERCTrainer

from .conftest import gradients, history, next_batches

DIRECTIONAL = {"constraints": [{"kind": "entropy_ratio_clip", "rule": "directional"}]}


def test_first_update_is_on_policy_and_later_ones_are_clipped(make):
    trainer = make(learning_rate=1e-3, optim="adamw_torch", max_steps=8)
    trainer.train()
    assert history(trainer, "erc/noise_frac") == [0.0, 0.0]
    clipped = history(trainer, "clip/erc_frac")
    assert clipped[0] == clipped[4] == 0.0
    assert all(share > 0.1 for share in clipped[1:4] + clipped[5:])
    assert history(trainer, "ratio/mean")[0] == 1.0


def test_metrics_do_not_depend_on_accumulation(make):
    """The same 32 responses per update, in one micro-batch or in four of different lengths."""
    runs = []
    for split in (1, 4):
        trainer = make(
            per_device_train_batch_size=32 // split,
            gradient_accumulation_steps=split,
            steps_per_generation=split,
            num_iterations=3,
            max_steps=3,
            learning_rate=0.3,
        )
        trainer.train()
        runs.append(trainer)
    one, four = runs
    for name in ("loss", "clip/erc_frac", "policy/entropy", "erc/ratio_q95", "train/tokens"):
        assert history(one, name) == pytest.approx(history(four, name), abs=1e-5), name
        assert len(history(four, name)) == 3
    assert history(one, "clip/erc_frac")[-1] > 0.05


def test_lora_trains_the_adapter_alone(make):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    trainer = make(
        loss=DIRECTIONAL, extra={"peft_config": lora}, learning_rate=1e-2, optim="adamw_torch"
    )
    trainer.train()
    assert trainer._has_exact_head
    assert history(trainer, "ratio/mean")[0] == 1.0  # dropout is off
    assert history(trainer, "clip/erc_frac")[-1] > 0
    assert all("lora_" in name for name in gradients(trainer)[-1])
    assert max(g.abs().max() for g in gradients(trainer)[-1].values()) > 0


def test_overlong_punishment_is_a_reward_of_its_own(make):
    trainer = make(overlong={"max_length": 14, "cache": 4}, reward_weights=[2.0])
    trainer.train()
    lengths = trainer._logs["completion"]
    assert trainer.reward_weights.tolist() == [2.0, 1.0]
    assert trainer.args.reward_weights == [2.0]
    assert len(lengths) > 0
    ids = [[0] * n for n in (10, 12, 14, 15)]
    assert trainer.reward_funcs[-1](completion_ids=ids) == [0.0, -0.5, -1.0, -1.0]
    (mean,) = history(trainer, "rewards/overlong_punishment/mean")
    assert -1 < mean < 0
    (correct,) = history(trainer, "rewards/correct/mean")
    assert history(trainer, "reward")[0] == pytest.approx(2 * correct + mean)


def test_evaluation_is_on_policy_and_leaves_training_metrics_alone(make, problems):
    trainer = make(per_device_eval_batch_size=16, extra={"eval_dataset": problems.select(range(4))})
    trainer._windows["train"]._rhos.append(torch.ones(1))  # an update under way
    metrics = trainer.evaluate()
    assert metrics["eval_clip/erc_frac"] == 0.0
    assert metrics["eval_ratio/mean"] == 1.0
    assert abs(metrics["eval_loss"]) < 1.0
    assert len(trainer._windows["train"]._rhos) == 1


class Scaled(nn.Linear):
    """A head with a scale of its own, as Cohere's or Granite's."""

    def forward(self, input):
        return super().forward(input) * 0.5


def test_another_head_is_scored_by_trl_and_said_so(make):
    model = make().model
    head = model.lm_head
    model.lm_head = Scaled(head.in_features, head.out_features, bias=False)
    model.lm_head.weight = head.weight
    with pytest.warns(UserWarning, match=r"TRL's own head scores this model \(its output layer"):
        trainer = make(model=model, extra={"processing_class": make().processing_class})
    assert not trainer._has_exact_head
    with pytest.raises(UserError, match="set rule = 'paper'"):
        make(model=model, loss=DIRECTIONAL, extra={"processing_class": trainer.processing_class})


def test_trls_head_trains_too(make, monkeypatch):
    monkeypatch.setattr(head, "why_no_head", lambda _: "the test says so")
    with pytest.warns(UserWarning, match="the test says so"):
        trainer = make(learning_rate=0.3)
    trainer.train()
    assert history(trainer, "ratio/mean")[0] == 1.0
    assert history(trainer, "clip/erc_frac")[-1] > 0.1


def test_our_head_is_what_generation_and_checkpoints_know(make, tmp_path):
    trainer = make()
    assert isinstance(trainer, ERCTrainer)
    before = make().model.state_dict()
    assert trainer.model.state_dict().keys() == before.keys()
    ids = torch.arange(2, 10)[None]
    assert trainer.model(input_ids=ids).logits.shape == (1, 8, 20)
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_autocast_does_not_round_the_head(make):
    """bfloat16 by autocast: the trunk is rounded, log-probs and entropies are float32."""
    trainer = make(bf16=True)
    (batch, *_) = next_batches(trainer)
    old = batch["old_entropies"]
    assert old.dtype == torch.float32
    coarse = old.to(torch.bfloat16).float()
    assert (old != coarse).float().mean() > 0.5
    loss = trainer._compute_loss(trainer.model, batch)
    assert trainer._metrics["train"]["ratio/mean"] == [1.0]
    assert loss.dtype == torch.float32
