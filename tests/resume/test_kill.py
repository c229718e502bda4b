"""kill −9 at any moment, then --resume: weights and metrics are those of an uninterrupted run."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from erclip.runs.checkpoint_folders import Checkpoints

KILLED = -9
LIVES = Path(__file__).with_name("lives.py")


class Lives:
    """The process that forks one life per task."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(LIVES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, run, **task):
        self.process.stdin.write(json.dumps({"run": str(run), **task}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def life():
    lives = Lives()
    yield lives
    lives.process.stdin.close()
    lives.process.wait(100)


@pytest.fixture(scope="module")
def whole(life, tmp_path_factory):
    """An uninterrupted run, and the kinds of its moments in order."""
    folder = tmp_path_factory.mktemp("whole")
    assert life(folder / "run", report=str(folder / "report.json")) == 0
    return folder / "run", json.loads((folder / "report.json").read_text())["moments"]


def traces(run):
    """Everything a run leaves, without times."""

    def timeless(line):
        return {k: v for k, v in json.loads(line).items() if not k.startswith("time")}

    last = Checkpoints(run / "checkpoints").names()[-1]
    lines = {
        name: [timeless(line) for line in (run / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "samples.jsonl", "tokens.jsonl")
    }
    folder = run / "checkpoints" / last
    saved = [folder / "optimizer.json", *folder.rglob("*.safetensors")]
    files = {str(file.relative_to(folder)): file.read_bytes() for file in saved}
    assert files.keys() >= {"model.safetensors", "optimizer.safetensors"}
    return {"last": last, "names": Checkpoints(run / "checkpoints").names(), **lines, **files}


def assert_same(run, whole):
    got, expected = traces(run), traces(whole)
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name] == expected[name], name


def moments_of(kinds, kind, after):
    """Numbers of the moments of one kind that come after the first checkpoint was begun."""
    first = kinds.index(after)
    return [i + 1 for i, found in enumerate(kinds) if found == kind and i > first]


def test_one_kill_of_each_kind(life, whole, tmp_path):
    """While a checkpoint is written, between two updates of a rollout, and before the first one."""
    run, kinds = whole
    files = moments_of(kinds, "save_file", "fsync")
    updates = moments_of(kinds, "update", "rename")
    for name, moment in (("file", files[-1]), ("update", updates[-2]), ("early", 2)):
        assert life(tmp_path / name, moment=moment) == KILLED
        assert life(tmp_path / name) == 0
        assert_same(tmp_path / name, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_followed_by_a_checkpoint(number, life, whole, tmp_path):
    """In the middle of an update, where nothing may be broken off."""
    run, kinds = whole
    moment = moments_of(kinds, "update", "rename")[-3]
    assert life(tmp_path / "run", moment=moment, signal=number) == 128 + number
    assert life(tmp_path / "run") == 0
    assert_same(tmp_path / "run", run)


def test_adapters_and_their_frozen_model_go_on(life, tmp_path):
    """LoRA, with a penalty to the model under the adapters: in a file, and between updates."""
    overrides = ["model.lora={rank=2}", "loss.kl={weight=0.1}", "trainer.rollouts=2"]
    report = tmp_path / "report.json"
    assert life(tmp_path / "whole", report=str(report), overrides=overrides) == 0
    kinds = json.loads(report.read_text())["moments"]
    assert "adapter/adapter_model.safetensors" in traces(tmp_path / "whole")
    for moment in (
        moments_of(kinds, "save_file", "fsync")[-2],
        moments_of(kinds, "update", "rename")[-2],
    ):
        out = tmp_path / str(moment)
        assert life(out, moment=moment, overrides=overrides) == KILLED
        assert life(out, overrides=overrides) == 0
        assert_same(out, tmp_path / "whole")


AHEAD = ["rollout.staleness=2", "trainer.rollouts=4", "checkpoint.keep_best=0"]


@pytest.fixture(scope="module")
def ahead(life, tmp_path_factory):
    """The same two rollouts ahead, with scores in the queue."""
    folder = tmp_path_factory.mktemp("ahead")
    overrides = [*AHEAD, "rollout.old_policy=sampled"]
    report = folder / "report.json"
    assert life(folder / "run", report=str(report), overrides=overrides) == 0
    return folder / "run", json.loads(report.read_text())["moments"], overrides


def test_what_was_sampled_ahead_goes_on(life, ahead, tmp_path):
    """A signal while the queue is filled, a kill while it is written, and one between updates."""
    run, kinds, overrides = ahead
    files = moments_of(kinds, "save_file", "fsync")
    updates = moments_of(kinds, "update", "rename")
    collects = [i + 1 for i, kind in enumerate(kinds) if kind == "collect"]
    assert len(collects) == 4
    for name, moment, by in (
        ("filling", collects[2], signal.SIGTERM),
        ("file", files[-5], signal.SIGKILL),
        ("update", updates[-3], signal.SIGKILL),
    ):
        code = KILLED if by == signal.SIGKILL else 128 + by
        assert life(tmp_path / name, moment=moment, signal=by, overrides=overrides) == code
        assert life(tmp_path / name) == 0
        assert_same(tmp_path / name, run)


@pytest.mark.slow
def test_recomputed_scores_go_on_too(life, tmp_path):
    report = tmp_path / "report.json"
    assert life(tmp_path / "whole", report=str(report), overrides=AHEAD) == 0
    kinds = json.loads(report.read_text())["moments"]
    moment = moments_of(kinds, "update", "rename")[-4]
    assert life(tmp_path / "run", moment=moment, overrides=AHEAD) == KILLED
    assert life(tmp_path / "run") == 0
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_twenty_five_random_moments_ahead(life, ahead, tmp_path):
    """A signal while the last checkpoint is written leaves a finished run."""
    run, kinds, overrides = ahead
    logged = len(kinds) - kinds[::-1].index("log")
    rng = random.Random(2)
    for number in range(25):
        out = tmp_path / str(number)
        moment = rng.randrange(2, len(kinds))
        by = rng.choice([signal.SIGKILL, signal.SIGTERM])
        stopped = 0 if moment > logged else 128 + signal.SIGTERM
        code = KILLED if by == signal.SIGKILL else stopped
        assert life(out, moment=moment, signal=by, overrides=overrides) == code, moment
        assert life(out) == 0, (moment, kinds[moment - 1])
        assert_same(out, run)


@pytest.mark.slow
def test_twenty_five_random_moments(life, whole, tmp_path):
    run, kinds = whole
    rng = random.Random(0)
    for number in range(25):
        out = tmp_path / str(number)
        moment = rng.randrange(2, len(kinds))
        assert life(out, moment=moment) == KILLED, moment
        assert life(out) == 0, (moment, kinds[moment - 1])
        assert_same(out, run)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again(life, whole, tmp_path):
    run, _ = whole
    rng = random.Random(1)
    deaths = 0
    while life(tmp_path / "run", moment=rng.randrange(60, 180)) == KILLED:
        deaths += 1
        assert deaths < 60
    assert deaths > 3
    assert_same(tmp_path / "run", run)


WRITES = ("write", "append", "save_file")


@pytest.mark.slow
def test_every_file_operation_of_a_checkpoint(life, tmp_path):
    """Before each, and in the middle of each write, from the log before it to the pruning after."""
    overrides = [
        "trainer.rollouts=2", "trainer.updates_per_rollout=2", "trainer.epochs=1",
        "checkpoint.every_updates=1", "checkpoint.keep_last=1", "rollout.prompts=4",
    ]  # fmt: skip
    report = tmp_path / "report.json"
    assert life(tmp_path / "whole", report=str(report), overrides=overrides) == 0
    kinds = json.loads(report.read_text())["moments"]
    logs = [i for i, kind in enumerate(kinds) if kind == "log"]
    saves = [(a, b) for a, b in itertools.pairwise(logs) if "save_file" in kinds[a:b]]
    start, end = saves[len(saves) // 2]  # in the middle of a rollout, with one before and after
    moments = [
        (number + 1, inside)
        for number in range(start, end + 1)
        for inside in ((False, True) if kinds[number] in WRITES else (False,))
    ]
    assert len(moments) > 30
    for moment, inside in moments:
        out = tmp_path / "run"
        assert life(out, moment=moment, inside=inside, overrides=overrides) == KILLED
        assert life(out) == 0, (moment, inside)
        assert_same(out, tmp_path / "whole")
        shutil.rmtree(out)
