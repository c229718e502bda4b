"""One short real run with a ledger of every second update, shared by the tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erclip.config.recipes import load_recipe
from erclip.training.trainer import Trainer

SHORT = (
    "trainer.rollouts=2",
    "rollout.prompts=16",
    "trainer.updates_per_rollout=4",
    "trainer.warmup_updates=0",
    "trainer.learning_rate=3e-4",
    "eval.prompts=2",
    "eval.responses=1",
)


def train(out: Path, *overrides: str) -> list[dict]:
    Trainer(load_recipe("quickstart", [*SHORT, *overrides]), out).train()
    return lines(out / "metrics.jsonl")


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """(folder, metrics) of a run whose updates 2, 4, 6 and 8 are in the ledger."""
    pytest.importorskip("pyarrow")
    out = tmp_path_factory.mktemp("ledger") / "run"
    return out, train(out, "ledger.every=2")
