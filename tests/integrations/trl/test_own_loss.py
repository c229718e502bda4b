"""ERC on: the loss, gradient and clip fractions of erclip's own trainer on the same batch."""

from __future__ import annotations

import copy

import pytest
import torch

from erclip.config import Config
from erclip.integrations.trl import ERCConfig
from erclip.integrations.trl.tensors import loss_tensors
from erclip.records import Grade, Prompt, Response, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import Policy
from erclip.training.updates import Updater, score_old

from .conftest import next_batches, nudge

ERC = {"kind": "entropy_ratio_clip", "low": 0.05, "high": 0.05}
LOSSES = {
    "ERC-DAPO": {"surrogate": {"kind": "ppo_clip", "dual": 10.0}, "constraints": [ERC]},
    "ERC-GPPO": {"surrogate": "gppo_clip", "constraints": [ERC]},
    "directional": {
        "surrogate": {"kind": "ce_gppo_clip"},
        "constraints": [{**ERC, "rule": "directional", "min_entropy_change": 1e-3}],
    },
    "any rule": {
        "surrogate": "ppo_clip",
        "constraints": [
            ERC,
            {"kind": "dppo_tv", "low": 0.01, "high": 0.01, "anchor": "old"},
            {"kind": "sequence_mask", "low": 0.05, "high": 0.05, "anchor": "old"},
            {"kind": "top_entropy", "fraction": 0.5},
            {"kind": "top_entropy", "fraction": 0.9, "of": "current"},
        ],
    },
    "GSPO": {"surrogate": "gspo_clip", "constraints": [ERC]},
}


def own_samples(batch):
    """TRL's padded rows as the records of erclip's trainer."""
    samples = []
    for row in range(len(batch["prompt_ids"])):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist()
        tokens = batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()
        response = Response(
            Prompt("", (), None), tuple(prompt), tuple(tokens), "", False, (0.0,) * len(tokens)
        )
        advantage = batch["advantages"][row].item()
        samples.append(Sample(response, Grade(False, None, "wrong"), 0.0, advantage))
    return samples


@pytest.mark.parametrize("name", LOSSES)
def test_an_update_is_our_own_trainers(make, name):
    trainer = make(
        loss=LOSSES[name],
        per_device_train_batch_size=32,
        steps_per_generation=1,
        num_iterations=2,
        temperature=0.9,
    )
    policy = Policy(copy.deepcopy(make().model), trainer._tokenizer, temperature=0.9)
    (batch,) = next_batches(trainer)
    scored = score_old(
        policy, make_batch(single_rows(own_samples(batch)), pad_id=0, device=torch.device("cpu"))
    )
    nudge(trainer.model)
    nudge(policy.model)
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    config = Config.model_validate({"loss": LOSSES[name], "trainer": {"grad_clip": 1e9}})
    updater = Updater(policy, config)
    own = updater.update([scored])

    logged = {key: values[-1] for key, values in trainer._metrics["train"].items()}
    assert loss.item() == pytest.approx(own["loss/policy"], abs=1e-6)
    grads = [p.grad.norm() for p in trainer.model.parameters()]
    assert float(torch.stack(grads).norm()) == pytest.approx(own["grad/norm"], rel=1e-5)
    assert logged["train/tokens"] == own["train/tokens"]
    shared = [key for key in own if key.startswith(("clip/", "erc/", "policy/", "ratio/"))]
    assert {key: logged[key] for key in shared} == pytest.approx(
        {key: own[key] for key in shared}, abs=1e-5
    )
    assert 0.01 < own["clip/erc_frac"] < 0.95


def test_a_rule_over_the_mini_batch_sees_all_micro_batches_of_an_update(make):
    """One threshold for the four micro-batches of an update, another one for the next four."""
    trainer = make(
        loss={"surrogate": "ppo_clip", "constraints": [{"kind": "top_entropy", "fraction": 0.2}]},
        per_device_train_batch_size=8,
        gradient_accumulation_steps=4,
        steps_per_generation=8,
    )
    batches = next_batches(trainer)
    found = []
    for step, batch in enumerate(batches):
        trainer._step = step
        trainer.accelerator.gradient_state._set_sync_gradients(step in (3, 7))
        trainer._compute_loss(trainer.model, batch)
        found.append(trainer._statistics["train"].last)
    updates = [
        trainer.loss_fn.statistics([loss_tensors(batch, None) for batch in part])
        for part in (batches[:4], batches[4:])
    ]
    assert updates[0] != updates[1]
    assert found == [updates[0]] * 4 + [updates[1]] * 4


def test_the_default_loss_is_erc_dapo():
    args = ERCConfig("unused", steps_per_generation=8, bf16=False, use_cpu=True, report_to=[])
    assert args.loss["surrogate"]["kind"] == "ppo_clip"
    assert [part["kind"] for part in args.loss["constraints"]] == ["entropy_ratio_clip"]
