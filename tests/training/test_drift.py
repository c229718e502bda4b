"""KL to the start: 0 before training, the same after a resume, and what it says it is."""

from __future__ import annotations

import json

import pytest
import torch

from erclip.config.recipes import load_recipe
from erclip.machine.distributed import World
from erclip.training.drift import FILE, Drift
from erclip.training.policy import load_policy
from erclip.training.trainer import Trainer

SHORT = [
    *("trainer.rollouts=4", "rollout.prompts=16", "trainer.updates_per_rollout=4"),
    *("trainer.learning_rate=1e-3", "trainer.warmup_updates=0", "eval.every=1"),
    *("eval.prompts=8", "eval.responses=2", "checkpoint.every=1"),
]


def distances(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["policy/kl_start"] for line in lines if line["kind"] == "eval"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("drift") / "run"
    recipe = load_recipe("quickstart", SHORT)
    Trainer(recipe, out).train()
    return recipe, out


def test_it_begins_at_zero_and_grows_with_training(run):
    _, out = run
    found = distances(out)
    assert len(found) == 5
    assert found[0] == 0.0
    assert found[-1] > found[1] > 1e-4


def test_it_is_the_mean_of_w_minus_1_minus_log_w(run):
    """Token by token, with the final model from its folder, one response at a time."""
    recipe, out = run
    model = recipe.config.model.model_copy(
        update={"path": str(out / "checkpoints" / "rollout_00004")}
    )
    network = load_policy(model).model
    terms = []
    for line in (out / FILE).read_text().splitlines():
        one = json.loads(line)
        ids = torch.tensor([one["prompt_ids"] + one["token_ids"]])
        with torch.no_grad():
            logprobs = network(ids).logits.float().log_softmax(-1)[0, len(one["prompt_ids"]) - 1 :]
        own = logprobs[range(len(one["token_ids"])), one["token_ids"]].double()
        log_w = own - torch.tensor(one["logprobs"], dtype=torch.float64)
        terms.append(log_w.exp() - 1 - log_w)
    assert len(terms) == 64
    assert distances(out)[-1] == pytest.approx(float(torch.cat(terms).mean()), rel=1e-4)


def test_a_resumed_run_measures_from_the_same_start(run, tmp_path):
    recipe, out = run
    trainer = Trainer(load_recipe("quickstart", [*SHORT, "trainer.rollouts=4"]), tmp_path / "b")
    trainer.interrupts.check = stop_after(trainer, 2)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    Trainer(recipe, tmp_path / "b", resume=True).train()
    assert distances(tmp_path / "b") == distances(out)


@pytest.mark.parametrize("old", ["recomputed", "sampled"])
def test_rollouts_that_run_ahead_start_from_the_same_policy(run, old, tmp_path):
    """The first rollout is drawn and scored before any update, whatever is sampled beside it."""
    ahead = ["trainer.rollouts=2", "rollout.staleness=1", f"rollout.old_policy={old}"]
    Trainer(load_recipe("quickstart", [*SHORT, *ahead]), tmp_path / "run").train()
    assert (tmp_path / "run" / FILE).read_text() == (run[1] / FILE).read_text()


def test_a_run_whose_start_is_gone_logs_no_distance(run, tmp_path):
    recipe, _ = run
    drift = Drift(tmp_path, load_policy(recipe.config.model), recipe.config, World())
    assert drift.metrics(0) == {"policy/kl_start": 0.0}
    assert drift.metrics(3) == {}


def stop_after(trainer, rollouts):
    def check():
        if trainer.state.counters.rollouts >= rollouts:
            raise KeyboardInterrupt

    return check
