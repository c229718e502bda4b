"""Two processes are one: loss, gradients, metrics, checkpoints, and what happens if one dies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from erclip.config.recipes import load_recipe
from erclip.machine.distributed import World
from erclip.runs.checkpoint_folders import Checkpoints
from erclip.runs.ledger import read_ledger
from erclip.training.checkpoints.resuming import resumed_recipe
from erclip.training.trainer import Trainer
from processes.two import ADAPTERS, AHEAD, KINDS, SHORT, both, one_update
from together import together

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
COUNTED = ("clip/", "train/", "eval/")


def torchrun(*arguments, processes=2, **options):
    paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [*TORCHRUN, str(processes), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_metrics(got, expected):
    """Counts and shares exactly; sums of floats to their rounding."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"kind"}:
            if name.startswith(COUNTED):
                assert one[name] == other[name], name
            elif not name.startswith("time"):
                assert one[name] == pytest.approx(other[name], rel=1e-4, abs=2e-6), name


class Cut(Exception):
    """Raised by an observer, as a crash between two updates is."""


def cut_off(recipe, out):
    """A run that ends with its fifth update, after a checkpoint at the fourth."""
    trainer = Trainer(load_recipe("quickstart", recipe), out)
    updates = []

    def on_log(kind, rollout, metrics):
        updates.extend([kind] if kind == "update" else [])
        if len(updates) == 5:
            raise Cut

    trainer.observer = type("Observer", (), {"on_log": staticmethod(on_log)})
    with pytest.raises(Cut):
        trainer.train()
    assert (out / "checkpoints" / "rollout_00001_update_000004").is_dir()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process, and the same runs cut off in the middle of their second rollout's updates."""
    folder = tmp_path_factory.mktemp("one")
    for name, recipe in (("run", SHORT), ("ahead", AHEAD)):
        Trainer(load_recipe("quickstart", recipe), folder / name).train()
    cut_off(SHORT, folder / "half")
    cut_off(AHEAD, folder / "half ahead")
    return folder


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
    """Two processes: an update, whole runs, and the rest of those that were cut off."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("half", "half ahead"):
        shutil.copytree(one / name, folder / name)
    pytest.importorskip("peft")  # once, rather than by each process
    together(both, folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_one_update_has_the_same_loss_gradients_and_metrics(kind, two):
    expected, gradients = one_update(World(), KINDS[kind])
    got = json.loads((two / f"{kind}.json").read_text())
    assert expected["clip/erc_frac"] > 0.1
    assert got["loss/policy"] == pytest.approx(expected["loss/policy"], abs=1e-6)
    assert_same_metrics([got], [expected])
    sharded = load_file(two / f"{kind}.safetensors")
    assert sharded.keys() == gradients.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (sharded[name] - gradient).abs().max() <= 1e-6 * max(1.0, largest), name


def test_a_whole_run_has_the_same_metrics_samples_and_ledger(one, two):
    assert_same_metrics(lines(two / "run"), lines(one / "run"))
    for name in ("samples.jsonl", "tokens.jsonl"):
        texts = [
            [json.loads(line)["response"] for line in (folder / "run" / name).open()]
            for folder in (one, two)
        ]
        assert texts[0] == texts[1]
    files = [sorted(f.name for f in (folder / "run" / "ledger").iterdir()) for folder in (one, two)]
    assert files[0] == files[1] == [f"update_{update:06d}.parquet" for update in (2, 4, 6)]
    ledgers = [read_ledger(folder / "run") for folder in (one, two)]
    tokens = [
        sorted(zip(*(ledger.places[n].tolist() for n in ledger.places), strict=True))
        for ledger in ledgers
    ]
    assert tokens[0] == tokens[1]


def test_adapters_are_trained_and_saved_alike(two, tmp_path):
    Trainer(load_recipe("quickstart", ADAPTERS), tmp_path / "run").train()
    assert_same_metrics(lines(two / "adapters"), lines(tmp_path / "run"))
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        got, expected = (
            load_file(run / "checkpoints" / "rollout_00001" / name)
            for run in (two / "adapters", tmp_path / "run")
        )
        assert got.keys() == expected.keys()
        for key, value in got.items():
            assert (value - expected[key]).abs().max() < 1e-5, key


def test_what_one_process_saved_two_go_on_with(one, two):
    """In the middle of a rollout: counts exactly, weights to their rounding."""
    assert_same_metrics(lines(two / "half"), lines(one / "run"))


def test_rollouts_sampled_ahead_are_the_same_for_both(one, two):
    """Trained on by two, and what one process had in its queue."""
    for name in ("ahead", "half ahead"):
        assert_same_metrics(lines(two / name), lines(one / "ahead"))
    stale = [line["staleness/max"] for line in lines(two / "ahead") if line["kind"] == "rollout"]
    assert stale == [0, 3, 3]


@pytest.fixture
def cut(two, tmp_path):
    """The run of two processes as it was in the middle of its first rollout's updates."""
    run = tmp_path / "run"
    shutil.copytree(two / "run", run)
    shutil.rmtree(run / "checkpoints" / "rollout_00002")
    (middle,) = (run / "checkpoints").iterdir()
    assert middle.name == "rollout_00001_update_000004"
    return run


@pytest.fixture
def cut_ahead(two, tmp_path):
    """The same of a run that has a third rollout in its queue."""
    run = tmp_path / "ahead"
    shutil.copytree(two / "ahead", run)
    middle = run / "checkpoints" / "rollout_00001_update_000004"
    for folder in (run / "checkpoints").iterdir():
        if folder > middle:
            shutil.rmtree(folder)
    assert len(json.loads((middle / "state.json").read_text())["rollouts"]) == 2
    return run


def assert_same_end(run, expected):
    """Counts exactly, weights to their rounding."""
    assert_same_metrics(lines(run), lines(expected))
    last = Checkpoints(run / "checkpoints").names()[-1]
    name = f"checkpoints/{last}/model.safetensors"
    weights = load_file(expected / name)
    for key, value in load_file(run / name).items():
        assert (value - weights[key]).abs().max() < 1e-5, key


def test_what_two_processes_saved_one_goes_on_with(one, cut, cut_ahead):
    for run, whole in ((cut, "run"), (cut_ahead, "ahead")):
        Trainer(resumed_recipe(run), run, resume=True).train()
        assert_same_end(run, one / whole)


@pytest.mark.slow
def test_what_two_processes_saved_four_go_on_with(one, cut, cut_ahead):
    """By the command of docs/scaling.md."""
    for run, whole in ((cut, "run"), (cut_ahead, "ahead")):
        command = ("-m", "erclip", "train", "--resume", run)
        done = torchrun(*command, processes=4, timeout=200)
        assert done.returncode == 0, done.stderr
        assert_same_end(run, one / whole)


@pytest.mark.slow
def test_one_sampler_serves_two_trainers(tmp_path):
    """The first process owns it; all are given its rollouts and its evaluation."""
    settings = [f"--set={key}" for key in (*SHORT, "rollout.staleness=1", "rollout.overlap=true")]
    command = ("-m", "erclip", "train", "quickstart", "--out", tmp_path / "run", *settings)
    done = torchrun(*command, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "does not repeat itself bit for bit" in done.stdout
    kinds = [line["kind"] for line in lines(tmp_path / "run")]
    assert (kinds.count("rollout"), kinds.count("update"), kinds.count("eval")) == (2, 6, 2)
    first = next(line for line in lines(tmp_path / "run") if line["kind"] == "rollout")
    assert first["sampler/kl"] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_run_within_seconds(rank, two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two / "run", run)
    done = torchrun(HERE / "dying.py", rank, run, timeout=100)
    ended = time.time()
    assert done.returncode == 1
    assert ended - float((run / "died").read_text()) < 20
    if rank == 1:
        assert done.stderr.count("erclip:") == 1
        assert "One of the 2 processes is gone" in done.stderr
    assert f"rank      : {rank}" in done.stderr.partition("Root Cause")[2]
