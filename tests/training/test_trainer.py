"""The whole loop: it learns, repeats itself bit for bit, and leaves a readable run directory."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.runs.metrics import METRICS
from erclip.training.trainer import Trainer

SHORT = ["trainer.rollouts=2", "rollout.prompts=8", "trainer.updates_per_rollout=4"]


def train(out, *overrides):
    Trainer(load_recipe("quickstart", list(overrides)), out).train()
    return lines(out / "metrics.jsonl")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(metrics):
    return [{k: v for k, v in line.items() if not k.startswith("time")} for line in metrics]


def of_kind(metrics, kind):
    return [line for line in metrics if line["kind"] == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short ERC-DAPO run."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, train(out, *SHORT, "eval.prompts=8", "trainer.epochs=2")


def test_a_run_repeats_itself_bit_for_bit(run, tmp_path):
    _, first = run
    again = train(tmp_path / "again", *SHORT, "eval.prompts=8", "trainer.epochs=2")
    assert timeless(first) == timeless(again)
    other = train(tmp_path / "other", *SHORT, "eval.prompts=8", "trainer.seed=1")
    assert timeless(first)[-1] != timeless(other)[-1]


def test_a_run_directory_holds_everything(run):
    out, metrics = run
    assert len(of_kind(metrics, "rollout")) == 2
    assert len(of_kind(metrics, "update")) == 2 * 4 * 2
    assert [line["rollout"] for line in of_kind(metrics, "eval")] == [0, 2]
    update = of_kind(metrics, "update")[-1]
    assert (update["update"], update["update_in_rollout"]) == (16, 8)
    config = json.loads((out / "config.json").read_text())
    assert config["config"]["loss"]["constraints"][0]["low"] == 0.05
    assert config["versions"]["torch"]
    assert config["hardware"]["cores"]
    samples = lines(out / "samples.jsonl")
    assert {sample["rollout"] for sample in samples} == {1, 2}
    assert all(sample["correct"] == (sample["reward"] == 1.0) for sample in samples)
    model = AutoModelForCausalLM.from_pretrained(out / "checkpoints" / "rollout_00002")
    assert model.config.model_type == "llama"


def test_every_metric_is_declared(run):
    _, metrics = run
    bookkeeping = {"kind", "rollout", "time_s", "update", "update_in_rollout"}
    for line in metrics:
        for name in set(line) - bookkeeping:
            if name.startswith("eval/"):
                name = name.split("/")[-1].replace("at_4", "at_k").removesuffix("_low")
                name = name.removesuffix("_high")
            assert name in METRICS, name


def test_on_the_first_mini_batch_nothing_is_clipped(run):
    _, metrics = run
    for line in of_kind(metrics, "update"):
        if line["update_in_rollout"] == 1:
            assert line["clip/erc_frac"] == line["clip/ppo_frac"] == 0.0
    assert all(line["erc/noise_frac"] == 0.0 for line in of_kind(metrics, "rollout"))
    assert max(line["clip/erc_frac"] for line in of_kind(metrics, "update")) > 0.02


def test_erc_off_has_no_noise_floor_and_clips_nothing(tmp_path):
    metrics = train(tmp_path / "out", *SHORT, "eval.prompts=4", "loss.constraints=[]")
    assert all("erc/noise_frac" not in line for line in of_kind(metrics, "rollout"))
    assert all(line["clip/erc_frac"] == 0.0 for line in of_kind(metrics, "update"))


DIRECTIONAL = 'loss.constraints=[{kind="entropy_ratio_clip", rule="directional"}]'
RANDOM = 'loss.constraints=[{kind="random_mask", rate=0.2}]'


@pytest.mark.parametrize(
    ("overrides", "fired"),
    [
        (["loss.surrogate=gppo_clip", DIRECTIONAL], {"clip/erc_frac"}),
        (["loss.surrogate=gspo_clip", RANDOM], {"clip/random_frac"}),
        (
            [
                "rollout.dynamic_sampling=refill",
                "loss.positive_nll=0.1",
                "loss.mask_truncated=true",
            ],
            {"clip/erc_frac"},
        ),
        (
            ["rollout.dynamic_sampling=off", "reward.overlong={max_length=20, cache=8}"],
            {"clip/erc_frac"},
        ),
    ],
    ids=["directional GPPO", "GSPO, random mask", "refill, NLL, filtering", "off, overlong"],
)
def test_other_compositions_run(overrides, fired, tmp_path):
    metrics = train(tmp_path / "out", *SHORT, "eval.prompts=4", *overrides)
    updates = of_kind(metrics, "update")
    assert len(updates) == 8
    assert all(0 < line["grad/norm"] < 100 for line in updates)
    rules = ("clip/erc_frac", "clip/random_frac")
    assert {name for name in rules if max(line[name] for line in updates) > 0} == fired


def test_gradient_checkpointing_changes_memory_only(run, tmp_path):
    _, plain = run
    overrides = ["eval.prompts=8", "trainer.epochs=2", "model.gradient_checkpointing=true"]
    metrics = train(tmp_path / "out", *SHORT, *overrides)
    assert timeless(metrics) == timeless(plain)


def test_a_rollout_without_signal_is_normal(tmp_path):
    """Nobody is right in one token: no group has differing rewards, and nothing is updated."""
    metrics = train(tmp_path / "out", *SHORT, "eval.prompts=4", "sampler.max_tokens=1")
    assert not of_kind(metrics, "update")
    rollouts = of_kind(metrics, "rollout")
    assert [line["train/groups_kept_frac"] for line in rollouts] == [0.0, 0.0]
    assert [line["train/truncated_frac"] for line in rollouts] == [1.0, 1.0]


def test_another_runs_folder_is_refused_and_untouched(run):
    out, _ = run
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds another run"):
        Trainer(load_recipe("quickstart"), out)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_ten_rollouts_lift_accuracy(unchecked, tmp_path):
    """The learning test: held-out and training accuracy rise clearly, read from metrics.jsonl."""
    sizes = ["trainer.rollouts=10", "rollout.prompts=32", "eval.prompts=128"]
    rate = "trainer.learning_rate=3e-4"
    metrics = train(tmp_path / "out", *sizes, rate, "loss.constraints=[]")
    before, after = of_kind(metrics, "eval")
    name = "eval/countdown/avg_at_4"
    assert after[name] > before[name] + 0.05
    assert after[f"{name}_low"] > before[name]
