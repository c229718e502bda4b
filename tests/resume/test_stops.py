"""Every way a run ends that nobody wanted, and what --resume makes of it."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from erclip.config.recipes import load_recipe
from erclip.errors import Diverged, UserError, sentence
from erclip.launch import _lines
from erclip.runs.checkpoint_folders import Checkpoints, damage, read_state
from erclip.runs.run_folder import run_id
from erclip.training.checkpoints.resuming import resumed_recipe
from erclip.training.policy import load_policy
from erclip.training.trainer import Trainer
from erclip.training.updates import Updater

TINY = [
    "rollout.prompts=4", "rollout.responses=4", "sampler.max_tokens=8", "trainer.rollouts=3",
    "trainer.updates_per_rollout=2", "eval.prompts=4", "eval.responses=2",
    "rollout.dynamic_sampling=off",
]  # fmt: skip


def start(out, *overrides, **options):
    return Trainer(load_recipe("quickstart", [*TINY, *overrides]), out, **options)


def again(out, *overrides, **options):
    return Trainer(resumed_recipe(out, overrides), out, resume=True, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    start(out, "checkpoint.every=1", "checkpoint.keep_last=3").train()
    return out


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def metrics(run, name="metrics.jsonl"):
    lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time")} for line in lines]


def own(run):
    return Checkpoints(run / "checkpoints", run_id(run)).sound()


def test_two_writers_of_one_run(copy, tmp_path):
    """A running run is neither resumed nor started over, and nothing of it is touched."""
    first = again(copy, "trainer.rollouts=4")
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
    for second in (lambda: again(copy), lambda: start(copy)):
        with pytest.raises(UserError, match=r"Another `erclip train` \(process|holds another run"):
            second()
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()} == before
    first.train()
    assert not (copy / ".lock").exists()
    assert metrics(copy)[-1]["rollout"] == 4


@pytest.mark.parametrize("name", ["checkpoints/rollout_00003", "samples.jsonl", "ledger/x"])
def test_a_new_run_refuses_what_an_older_one_left(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("old")
    with pytest.raises(UserError, match="give --out a new folder"):
        start(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name.split("/")[0]]


def test_another_run_s_checkpoint_is_not_gone_on_from(copy, tmp_path):
    """A folder that was copied in, sound and complete."""
    start(tmp_path / "other", "trainer.seed=7", "checkpoint.every=1").train()
    shutil.rmtree(copy / "checkpoints" / "rollout_00003")
    shutil.copytree(
        tmp_path / "other" / "checkpoints" / "rollout_00003",
        copy / "checkpoints" / "rollout_00003",
    )
    said = []
    trainer = again(copy, log=said.append)
    assert "rollout_00003 is not used (it is another run's)" in said[0]
    assert trainer.state.counters.rollouts == 2
    trainer.train()
    assert read_state(trainer.saved)["run"] == run_id(copy)
    assert (copy / "checkpoints" / "rollout_00003.aside-1").is_dir()


def test_a_history_without_a_checkpoint_is_set_aside(copy, run):
    """All damaged: nothing is removed, and the run ends where it did."""
    for name in own(copy):
        (copy / "checkpoints" / name / "optimizer.safetensors").write_bytes(b"x")
    (copy / "ledger").mkdir()
    (copy / "ledger" / "update_notes.txt").write_text("mine")
    said = []
    again(copy, log=said.append).train()
    aside = copy / "before-resume-1"
    assert f"What the run had written before is in {aside}." in said
    assert metrics(aside) == metrics(copy) == metrics(run)
    assert (aside / "ledger" / "update_notes.txt").read_text() == "mine"
    assert sorted(path.name for path in (aside / "checkpoints").iterdir()) == [
        "rollout_00001", "rollout_00002", "rollout_00003",
    ]  # fmt: skip
    assert own(copy)[-1] == "rollout_00003"


@pytest.mark.parametrize("lost", [1, 400, 10_000_000])
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_file_that_is_shorter_than_its_checkpoint_says(name, lost, copy):
    """Cut anywhere: the run goes on after the last whole line and says so; nothing fails later."""
    file = copy / name
    os.truncate(file, max(0, file.stat().st_size - lost))
    said = []
    trainer = again(copy, "trainer.rollouts=4", log=said.append)
    assert said == [
        f"{file} is shorter than its checkpoint says: it goes on after its last whole line."
    ]
    trainer.train()
    assert all(isinstance(line, dict) for line in metrics(copy, name))
    assert metrics(copy)[-1]["kind"] == "eval"
    assert _lines(copy)[-1]["rollout"] == 4


def test_what_the_disk_had_no_room_for_is_in_the_checkpoint(tmp_path, monkeypatch, run):
    """metrics.jsonl cannot grow, checkpoints can: the run ends, and is equal when it goes on."""
    out = tmp_path / "out"
    trainer = start(out, "checkpoint.every=1", "checkpoint.keep_last=3")
    real = trainer.run._append

    def full(name, text):
        if trainer.state.counters.updates == 3:
            monkeypatch.setattr("erclip.runs.run_dir.append", refuse)
        real(name, text)

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(trainer.run, "_append", full)
    with pytest.raises(OSError, match="No space left") as caught:
        trainer.train()
    assert caught.value.__notes__ == [f"go on with: erclip train --resume {out}"]
    monkeypatch.undo()
    assert own(out)[-1] == "rollout_00001_update_000003"
    again(out).train()
    assert metrics(out) == metrics(run)
    assert metrics(out, "samples.jsonl") == metrics(run, "samples.jsonl")


def test_a_checkpoint_that_cannot_be_written_is_whole_elsewhere(copy, tmp_path, monkeypatch):
    """The rescue has the run's name, and goes on when it is put back."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    trainer = again(copy, "trainer.rollouts=5")
    monkeypatch.setattr(
        Checkpoints, "_make_way", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(UserError, match="make room, move it to") as caught:
        trainer.train()
    monkeypatch.undo()
    (rescued,) = tmp_path.glob("erclip-copy-rollout_00004-*")
    assert str(rescued) in str(caught.value)
    assert damage(rescued) is None
    shutil.move(rescued, copy / "checkpoints" / "rollout_00004")
    resumed = again(copy)
    assert resumed.state.counters.rollouts == 4
    resumed.train()
    start(tmp_path / "whole", "trainer.rollouts=5", "checkpoint.every=1").train()
    without = [line for line in metrics(copy) if line["kind"] != "eval"]
    assert without == [line for line in metrics(tmp_path / "whole") if line["kind"] != "eval"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('no')", r"fails with ValueError \(no\)"),
        ("import sys; sys.exit(0)", r"fails with SystemExit \(0\)"),
        ("import os; os._exit(0)", r"it calls os\._exit"),
        ("return float('nan')", "no finite number"),
    ],
)
def test_a_reward_that_fails_after_hours_costs_no_update(body, words, tmp_path):
    file = tmp_path / "mine.py"
    code = (
        "calls = []\ndef fn(r, g):\n    calls.append(1)\n    if len(calls) > 40: {}\n"
        "    return 1.0 * g.correct\n"
    )
    file.write_text(code.format(body))
    out = tmp_path / "out"
    trainer = start(out, f"reward.function={file}:fn", "eval.every=9")
    with pytest.raises(UserError, match=words) as caught:
        trainer.train()
    assert sentence(caught.value).endswith(f"; go on with: erclip train --resume {out}")
    assert own(out) == ["rollout_00002"]


def test_by_default_there_is_a_checkpoint_every_half_hour(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("erclip.training.checkpoints.keeper.time.monotonic", lambda: clock[0])
    real = Updater.update

    def update(self, *arguments):
        clock[0] += 11 * 60
        return real(self, *arguments)

    monkeypatch.setattr(Updater, "update", update)
    trainer = start(tmp_path / "out", "checkpoint.keep_last=9")
    assert trainer.config.checkpoint.every_minutes == 30
    trainer.train()
    assert own(tmp_path / "out") == ["rollout_00001_update_000003", "rollout_00003"]


def test_after_divergence_the_advice_works(tmp_path):
    """Weights that give NaN are no checkpoint, and the path that is named can be started from."""
    out = tmp_path / "out"
    trainer = start(out, "trainer.learning_rate=1e30", "checkpoint.every_updates=1")
    with pytest.raises(Diverged, match="NaN") as caught:
        trainer.train()
    path = sentence(caught.value).split("model.path=")[1].split()[0]
    assert own(out) == ["rollout_00000_update_000001"]  # the warm-up's first step is none
    assert path == str(out / "checkpoints" / "rollout_00000_update_000001")
    start(tmp_path / "again", f"model.path={path}", "trainer.rollouts=1").train()


def test_a_model_of_nan_is_refused_by_its_name(tmp_path):
    policy = load_policy(load_recipe("quickstart").config.model)
    next(iter(policy.model.parameters())).data.fill_(math.nan)
    policy.model.save_pretrained(tmp_path / "nan")
    policy.tokenizer.save_pretrained(tmp_path / "nan")
    with pytest.raises(UserError, match="logits are NaN or infinite: its weights are damaged"):
        load_policy(load_recipe("quickstart", [f"model.path={tmp_path / 'nan'}"]).config.model)


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True])
def test_a_lost_ssh(nohup, tmp_path):
    """SIGHUP, and a terminal that is gone: a checkpoint; under nohup the run goes on."""
    out = tmp_path / "out"
    sets = [part for change in TINY for part in ("--set", change)]
    sets += ["--set", "trainer.rollouts=400"]
    command = [sys.executable, "-m", "erclip", "train", "--out", str(out), *sets]
    reader, writer = os.pipe()
    ignore = (lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if nohup else None
    process = subprocess.Popen(command, stdout=writer, stderr=writer, preexec_fn=ignore)
    os.close(writer)
    try:
        wait_for(lambda: (out / "metrics.jsonl").exists() and "rollout" in kinds(out), process)
        os.close(reader)  # nobody reads any more
        process.send_signal(signal.SIGHUP)
        if nohup:
            seen = len(kinds(out))
            wait_for(lambda: len(kinds(out)) > seen + 30, process)
            process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    finally:
        process.kill()
    assert code == 128 + (signal.SIGTERM if nohup else signal.SIGHUP)
    assert own(out)


def kinds(out):
    return [json.loads(x)["kind"] for x in (out / "metrics.jsonl").read_text().splitlines()]


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
