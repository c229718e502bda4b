"""The same training of SmolLM2 in erclip and in TRL: seconds per rollout by phase, in turns.

`benchmarks/train.py` compares CPU seconds; here the clock is the wall's, as the device does the
work. Both sample with transformers, in float32, on the same prompts and a reward that spreads. The
first rollout of a process warms up. The tokens differ, as each samples its own. The first round
times one rollout of each, so that there is a ratio however little time there is; a process gets
half of what is left if its partner is still to come.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rows import Rows
from step import OUT_OF_TIME, Task, told

BENCHMARKS = Path(__file__).parent.parent
SYSTEMS = {"erclip": "train_erclip.py", "TRL": "train_trl.py"}
TIMED = (1, 3, 3)  # rollouts of each process, round by round
COLUMNS = (
    *("rollout_s", "sample_s", "score_s", "update_s", "tokens", "tokens_per_s", "peak_gib"),
    *("versions", "skipped"),
)
WORK = {"prompts": 32, "responses": 8, "max_tokens": 96, "updates": 8, "warmup": 1}
TINY = {"prompts": 2, "responses": 2, "max_tokens": 4, "updates": 1, "warmup": 1}


def measured(script: str, job: dict, seconds: float) -> dict[str, object]:
    """One process's reading; a failure is a row too."""
    command = [sys.executable, str(BENCHMARKS / script), json.dumps(job)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"skipped": f"stopped after {seconds:.0f} s"}
    if run.returncode:
        print(run.stderr[-4000:], flush=True)
        return {"skipped": (run.stderr.strip().splitlines() or ["no reason given"])[-1][:200]}
    found = json.loads(run.stdout.splitlines()[-1])
    return {
        "rollout_s": f"{found['rollout_wall_s']:.3f}",
        **{name: f"{found[name]:.3f}" for name in ("sample_s", "score_s", "update_s")},
        "tokens": f"{found['tokens']:.0f}",
        "tokens_per_s": f"{found['tokens'] / found['rollout_wall_s']:.0f}",
        "peak_gib": f"{found.get('peak_device_mib', 0) / 1024:.2f}",
        "versions": found["versions"],
    }


def main(task: Task) -> int:
    if not (task.model / "config.json").is_file():
        sys.exit("There is no model: an earlier step has to make it.")
    rows = Rows(task.out / "against_trl.csv", ("system", "round"), COLUMNS)
    job = {
        **(TINY if task.tiny else WORK),
        "model": str(task.model),
        "device": task.device,
        "threads": 1 if task.tiny else 4,
        "erc": True,
        "prompt_repeats": 1,
        "drop": False,
    }
    for number, timed in enumerate(TIMED, 1):
        todo = [system for system in SYSTEMS if not rows.measured(system, number)]
        for place, system in enumerate(todo if number % 2 else reversed(todo)):
            share = task.left() / (len(todo) - place)
            if share < 5:
                return OUT_OF_TIME
            timed_job = {**job, "timed": 1 if task.tiny else timed}
            rows.add(system, number, **measured(SYSTEMS[system], timed_job, share))
    return 0 if all(rows.measured(system, 1) for system in SYSTEMS) else 1


if __name__ == "__main__":
    sys.exit(main(told(__doc__)))
