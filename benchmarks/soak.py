"""A thousand rollouts with everything on: memory and open files must stay flat.

    python benchmarks/soak.py [--rollouts 1000]

Tiny batches, so that what leaks per rollout, checkpoint, ledger file or tracked line shows: a
checkpoint every 10 rollouts, every update in the ledger, TensorBoard as tracker. Prints a table;
`flat` is the slope of the second half, in MiB and files per 1,000 rollouts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from erclip.config.recipes import load_recipe
from erclip.runs.trackers import Observers, Tracking
from erclip.training.trainer import Trainer

TINY = [
    "rollout.prompts=4", "rollout.responses=4", "sampler.max_tokens=12", "eval.prompts=8",
    "eval.responses=2", "eval.every=50", "trainer.updates_per_rollout=2", "checkpoint.every=10",
    "ledger.every=1", "trainer.saved_samples=4", "trainer.learning_rate=1e-5",
]  # fmt: skip


class Meter:
    """Reads this process's memory and open files as rollouts go by."""

    def __init__(self, every: int):
        self.every, self.rows, self.started = every, [], time.process_time()

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        """See `erclip.training.loop.Observer`."""
        if kind == "rollout" and rollout % self.every == 0:
            row = (rollout, resident_mib(), open_files(), time.process_time() - self.started)
            self.rows.append(row)
            print("rollout {:5d}  {:7.1f} MiB  {:3d} open files  {:6.0f} CPU s".format(*row))


def resident_mib() -> float:
    """Memory that this process holds now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    """Handles of this process."""
    return len(os.listdir("/proc/self/fd"))


def main() -> None:
    """Run, and say how flat it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=1000)
    rollouts = parser.parse_args().rollouts
    trackers = '["tensorboard"]' if find_spec("tensorboard") else "[]"
    sets = [*TINY, f"trainer.rollouts={rollouts}", f"trackers={trackers}"]
    recipe = load_recipe("quickstart", sets)
    meter = Meter(max(1, rollouts // 20))
    with tempfile.TemporaryDirectory(prefix="erclip-soak-") as scratch:
        out = Path(scratch) / "run"
        with Tracking(recipe.config.trackers, out, print) as tracking:
            Trainer(recipe, out, Observers(meter, tracking, warn=print), log=print).train()
        lines = sum(1 for _ in (out / "metrics.jsonl").open("rb"))
        kept = sorted(path.name for path in (out / "checkpoints").iterdir())
        ledger = sum(1 for _ in (out / "ledger").iterdir())
    half = np.array(meter.rows[len(meter.rows) // 2 :], dtype=float)
    slopes = [1000 * np.polyfit(half[:, 0], half[:, column], 1)[0] for column in (1, 2)]
    print(f"{lines} lines, {ledger} ledger files, checkpoints {', '.join(kept)}")
    print(f"flat: {slopes[0]:+.1f} MiB, {slopes[1]:+.1f} files per 1,000 rollouts")


if __name__ == "__main__":
    main()
