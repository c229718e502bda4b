"""erc/rounding_frac is measured as in erclip's own trainer."""

from __future__ import annotations

import copy

import pytest
import torch

from erclip.config import Config
from erclip.training import rounding
from erclip.training.batches import make_batch
from erclip.training.packing import single_rows
from erclip.training.policy import Policy
from erclip.training.updates import Updater, score_old

from .conftest import history, next_batches
from .test_own_loss import own_samples

NARROW = {"constraints": [{"kind": "entropy_ratio_clip", "low": 1e-7, "high": 1e-7}, "top_entropy"]}


def test_it_is_our_own_trainers_number(make):
    trainer = make(loss=NARROW, per_device_train_batch_size=32, steps_per_generation=2)
    batch = next_batches(trainer)[0]
    (found,) = trainer._metrics["train"]["erc/rounding_frac"]
    policy = Policy(copy.deepcopy(make().model), trainer._tokenizer)
    updater = Updater(policy, Config.model_validate({"loss": NARROW}))
    samples = make_batch(single_rows(own_samples(batch)), pad_id=0, device=torch.device("cpu"))
    assert found == pytest.approx(rounding.rounding_share(updater, [score_old(policy, samples)]))
    assert 0.1 < found < 1.0


def test_autocast_rounds_more_and_every_tenth_generation_measures(make):
    trainer = make(bf16=True, steps_per_generation=2, max_steps=22)
    trainer.train()
    lines = [line["step"] for line in trainer.state.log_history if "erc/rounding_frac" in line]
    assert lines == [1, 21]
    assert history(trainer, "erc/rounding_frac")[0] > 0
    assert history(trainer, "erc/noise_frac")[0] == 0.0


def test_without_erc_nothing_is_measured(make):
    trainer = make(loss={"constraints": []})
    next_batches(trainer)
    assert "erc/rounding_frac" not in trainer._metrics["train"]
