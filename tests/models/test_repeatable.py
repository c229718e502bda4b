"""The same bits on every run, with several threads beside a busy process, interrupted or not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from erclip.records import Grade, Sample
from erclip.training.batches import make_batch
from erclip.training.packing import Row
from erclip.training.policy.policy import pick_rows

SETTINGS = [
    "trainer.rollouts=3", "rollout.prompts=16", "rollout.responses=8", "eval.prompts=4",
    "trainer.updates_per_rollout=4", "checkpoint.every_updates=2", "checkpoint.keep_last=20",
]  # fmt: skip


def test_rows_are_picked_in_a_fixed_order():
    """Each row for many tokens: the sum of their gradients, to the bit, with several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        values = torch.randn(50, 64, requires_grad=True)
        index = torch.randint(0, 5, (4000,))
        weight = torch.randn(4000, 64)
        found = []
        for _ in range(10):
            (gradient,) = torch.autograd.grad((pick_rows(values, index) * weight).sum(), values)
            found.append(gradient)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(pick_rows(values, index), values[index])
    assert all(torch.equal(gradient, found[0]) for gradient in found)
    expected = torch.zeros(50, 64, dtype=torch.float64).index_add_(0, index, weight.double())
    assert torch.allclose(found[0].double(), expected, atol=1e-4, rtol=0)


def test_a_shared_prompt_gives_the_same_gradient_every_time(policy, responses):
    samples = [Sample(r, Grade(True, None, "correct"), 1.0, 1.0) for r in responses[0]]
    batch = make_batch([Row(tuple(samples))], pad_id=0, device=policy.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(4):
            policy.model.zero_grad()
            policy.score(batch).logprobs.sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("threads", [2, 4])
def test_five_runs_and_a_resumed_one_are_equal(threads, tmp_path):
    with busy():
        weights = {run(tmp_path / str(i), threads) for i in range(5)}
        assert len(weights) == 1
        killed = tmp_path / "killed"
        run(killed, threads, kill_after=3)
        subprocess.run(
            [sys.executable, "-m", "erclip", "train", "--resume", str(killed)],
            env=environment(threads),
            check=True,
            capture_output=True,
        )
        assert digest(killed) in weights


def run(out: Path, threads: int, kill_after: int | None = None) -> str:
    """Train with the embedded model; `kill_after` that many updates the process kills itself."""
    arguments = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-c", PROGRAM, str(kill_after or 0), "train", "quickstart"]
    done = subprocess.run(
        [*command, *arguments, "--out", str(out)],
        env=environment(threads),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if kill_after is None else -9), done.stderr
    return digest(out) if kill_after is None else ""


PROGRAM = """
import os, signal, sys
from erclip.cli import main
from erclip.training.updates import Updater
left, update = int(sys.argv.pop(1)), Updater.update
def counted(*args):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(*args)
Updater.update = counted
main()
"""


def environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def digest(out: Path) -> str:
    last = max((out / "checkpoints").glob("rollout_00003"))
    return hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()


@contextmanager
def busy() -> Iterator[None]:
    """A process that takes a core and more, so that threads come in any order."""
    code = "import torch\na = torch.randn(600, 600)\nwhile True: a = (a @ a).tanh()"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()
