"""Damage, a full disk, what may change on a resume, which checkpoints are kept, failed batches."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from command import Command
from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.runs.checkpoint_folders import Checkpoints, damage
from erclip.training.checkpoints.resuming import resumed_recipe
from erclip.training.trainer import Trainer
from erclip.training.updates import Updater

TINY = [
    "rollout.prompts=4", "rollout.responses=4", "sampler.max_tokens=8", "trainer.rollouts=3",
    "trainer.updates_per_rollout=2", "eval.prompts=4", "eval.responses=2",
    "rollout.dynamic_sampling=off",
]  # fmt: skip


def start(out, *overrides):
    trainer = Trainer(load_recipe("quickstart", [*TINY, *overrides]), out)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    start(out, "checkpoint.every=1", "checkpoint.keep_last=3")
    return out


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def names(run):
    return Checkpoints(run / "checkpoints").names()


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time")} for line in lines]


def test_a_checkpoint_is_a_sound_model_folder(run):
    assert names(run) == ["rollout_00001", "rollout_00002", "rollout_00003"]
    newest = run / "checkpoints" / "rollout_00003"
    assert damage(newest) is None
    assert AutoModelForCausalLM.from_pretrained(newest).config.model_type == "llama"
    assert not list(newest.glob("*.pt")) + list(newest.glob("*.bin")) + list(newest.glob("*.pkl"))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_newest_one_falls_back_to_the_one_before(name, copy, run):
    newest = copy / "checkpoints" / "rollout_00003"
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / name).write_bytes(data)
    said = []
    trainer = Trainer(resumed_recipe(copy), copy, resume=True, log=said.append)
    assert said == [f"Checkpoint {newest} is damaged ({name} has changed)."]
    assert trainer.state.counters.rollouts == 2
    trainer.train()
    assert metrics(copy) == metrics(run)
    assert damage(newest) is None


def test_missing_files_and_manifests_are_damage(copy):
    folder = copy / "checkpoints" / "rollout_00002"
    (folder / "model.safetensors").unlink()
    assert damage(folder) == "model.safetensors is missing"
    (folder / "manifest.json").write_text("{")
    assert damage(folder) == "manifest.json cannot be read"


def test_without_any_checkpoint_the_run_starts_again(copy, run):
    shutil.rmtree(copy / "checkpoints")
    said = []
    Trainer(resumed_recipe(copy), copy, resume=True, log=said.append).train()
    assert said[0] == "There is no checkpoint to go on from: the run starts again."
    assert said[1:] == [f"What the run had written before is in {copy / 'before-resume-1'}."]
    assert metrics(copy) == metrics(copy / "before-resume-1") == metrics(run)


def test_more_rollouts_and_other_checkpoints_may_be_asked_for(copy, run, tmp_path):
    recipe = resumed_recipe(copy, ["trainer.rollouts=4", "checkpoint.keep_last=1"])
    Trainer(recipe, copy, resume=True).train()
    start(tmp_path / "four", "trainer.rollouts=4", "checkpoint.every=1")
    four = [line for line in metrics(tmp_path / "four") if line["kind"] != "eval"]
    assert [line for line in metrics(copy) if line["kind"] != "eval"] == four
    described = json.loads((copy / "config.json").read_text())
    assert described["config"]["trainer"]["rollouts"] == 4
    assert [resumed["updates"] for resumed in described["resumed"]] == [6]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.learning_rate=1e-5", "trainer.learning_rate cannot change"),
        ("loss.surrogate=gppo_clip", "loss.surrogate"),
        ("rollout.prompts=5", "rollout.prompts cannot change"),
        ("trainer.nonsense=1", "trainer.nonsense cannot change"),
        ("trainer.rollouts=0", "trainer.rollouts = 0"),
    ],
)
def test_what_the_past_rests_on_cannot_change(override, message, run):
    with pytest.raises(UserError, match=message):
        resumed_recipe(run, [override])


def test_an_edited_config_and_too_few_rollouts_are_refused(copy):
    with pytest.raises(UserError, match="has finished 3; ask for more"):
        Trainer(resumed_recipe(copy, ["trainer.rollouts=2"]), copy, resume=True)
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace('"grad_clip": 1.0', '"grad_clip": 2.0'))
    with pytest.raises(UserError, match=r"with another .* than config\.json"):
        Trainer(resumed_recipe(copy), copy, resume=True)
    with pytest.raises(UserError, match="is not a run to resume"):
        resumed_recipe(copy / "checkpoints")


def test_the_newest_and_the_best_are_kept(tmp_path):
    store = Checkpoints(tmp_path)
    for number, score in enumerate([0.2, 0.9, 0.4, None, 0.3]):
        store.write(
            f"rollout_{number:05d}",
            lambda folder, score=score: (folder / "state.json").write_text(
                json.dumps({"score": score})
            ),
        )
        store.prune(keep_last=2, keep_best=1)
    assert store.names() == ["rollout_00001", "rollout_00003", "rollout_00004"]
    (tmp_path / "rollout_00009.partial").mkdir()
    store.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == store.names()


def full(code):
    def write(*_, **__):
        raise OSError(code, os.strerror(code))

    return write


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_one_sentence_and_keeps_what_there_is(
    code, copy, tmp_path, monkeypatch
):
    trainer = Trainer(resumed_recipe(copy, ["trainer.rollouts=5"]), copy, resume=True)
    monkeypatch.setattr("erclip.training.checkpoints.run_state.save_optimizer", full(code))
    with pytest.raises(UserError) as caught:
        trainer.train()
    sentence = str(caught.value)
    assert os.strerror(code) in sentence
    assert sentence.endswith(f"the last good one is {copy / 'checkpoints' / 'rollout_00003'}")
    assert "rollout_00003" in names(copy)
    assert all(damage(copy / "checkpoints" / name) is None for name in names(copy))
    assert not list((copy / "checkpoints").glob("*.partial"))


def test_the_final_model_is_saved_elsewhere_if_the_disk_is_full(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    trainer = Trainer(resumed_recipe(copy, ["trainer.rollouts=4"]), copy, resume=True)
    monkeypatch.setattr("erclip.training.checkpoints.run_state.save_optimizer", full(errno.ENOSPC))
    with pytest.raises(UserError, match="the trained model is in"):
        trainer.train()
    (folder,) = tmp_path.glob("erclip-copy-rollout_00004-*")
    rescued = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, value in trainer.policy.model.state_dict().items():
        assert torch.equal(rescued[name], value), name


def test_a_file_that_cannot_grow_ends_the_command_in_one_sentence(copy):
    """Really no room: the kernel refuses to let any file grow past 100 kB."""
    words = ["train", "--resume", copy, "--set", "trainer.rollouts=4"]
    limit = (resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = Command(*words, folder=copy, before=lambda: resource.setrlimit(*limit)).wait()
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("erclip: Checkpoint ")
    assert done.stderr.count("\n") == 1
    assert damage(copy / "checkpoints" / "rollout_00003") is None


def test_8bit_states_go_on_bit_for_bit(tmp_path):
    """bitsandbytes nests its states and shares its tables between parameters."""
    pytest.importorskip("bitsandbytes")
    kind = ["trainer.optimizer=adamw_8bit", "trainer.learning_rate=1e-3", "checkpoint.every=1"]
    start(tmp_path / "whole", *kind)
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "rollout_00003")
    Trainer(resumed_recipe(tmp_path / "half"), tmp_path / "half", resume=True).train()
    assert metrics(tmp_path / "half") == metrics(tmp_path / "whole")
    for name in ("model", "optimizer"):
        file = f"checkpoints/rollout_00003/{name}.safetensors"
        one, other = (load_file(tmp_path / run / file) for run in ("half", "whole"))
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items()), name


def test_five_bad_updates_in_a_row_end_the_run(tmp_path, monkeypatch):
    real, calls = Updater.update, []

    def update(self, scored, watch=None, lots=None):
        calls.append(1)
        if len(calls) == 2 or len(calls) > 3:
            scored[0].batch.advantages.fill_(math.nan)
        return real(self, scored, watch, lots)

    monkeypatch.setattr(Updater, "update", update)
    out = tmp_path / "run"
    trainer = Trainer(load_recipe("quickstart", [*TINY, "trainer.rollouts=9"]), out)
    with pytest.raises(UserError, match="5 updates in a row, the last of them update 8") as caught:
        trainer.train()
    skipped = [line["grad/skipped"] for line in metrics(out) if line["kind"] == "update"]
    assert skipped == [0, 1, 0, 1, 1, 1, 1, 1]
    assert str(out / "failed_batches" / "update_000008.jsonl") in str(caught.value)
    lines = (out / "failed_batches" / "update_000008.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 4
    assert all(json.loads(line)["samples"][0]["token_ids"] for line in lines)
    model = trainer.policy.model.state_dict()
    saved = AutoModelForCausalLM.from_pretrained(trainer.saved).state_dict()
    assert all(torch.equal(saved[name], value) for name, value in model.items())
    assert all(value.isfinite().all() for value in saved.values())
