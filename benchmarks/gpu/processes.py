"""Two processes, one device each, against one: the same run, metric by metric."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rows import Rows
from step import OUT_OF_TIME, Task, told

SETTINGS = (
    "rollout.prompts=8", "rollout.responses=4", "trainer.rollouts=1", "eval.prompts=2",
    "eval.responses=1", "trainer.updates_per_rollout=3", "trainer.token_budget=300",
    "trainer.learning_rate=1e-3", "rollout.dynamic_sampling=off",
)  # fmt: skip
COMPARED = ("loss/policy", "grad/norm", "policy/entropy", "clip/erc_frac", "train/reward")


def run(folder: Path, processes: int, device: str, seconds: float) -> list[dict]:
    """The lines of metrics.jsonl."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(processes), "-m"]
    options = [x for s in (*SETTINGS, f'model.device="{device}"') for x in ("--set", s)]
    command = [*start, "erclip", "train", "quickstart", "--out", str(folder), *options]
    subprocess.run(command, check=True, timeout=max(10.0, seconds), env=os.environ)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main(task: Task) -> int:
    rows = Rows(task.out / "processes.csv", ("metric",), ("lines", "largest_gap", "skipped"))
    count = torch.cuda.device_count()
    if task.device == "cuda" and count < 2:
        rows.add("all", skipped=f"this machine has {count} device")
        return 0
    with tempfile.TemporaryDirectory() as name:
        try:
            one, two = (run(Path(name) / str(n), n, task.device, task.left()) for n in (1, 2))
        except subprocess.TimeoutExpired:
            return OUT_OF_TIME
    for metric in COMPARED:
        pairs = [(a[metric], b[metric]) for a, b in zip(one, two, strict=True) if metric in a]
        gap = max(math.inf if math.isnan(a) else abs(a - b) for a, b in pairs)
        rows.add(metric, lines=len(pairs), largest_gap=f"{gap:.2e}")
        if not gap < 1e-3:
            sys.exit(f"{metric} differs by {gap:.2e} between one process and two.")
    return 0


if __name__ == "__main__":
    sys.exit(main(told(__doc__)))
