"""Seconds per rollout of the same training in erclip and in TRL, interleaved, each in a process.

    python benchmarks/train.py --rounds 3 --trl-python .venv-trl-1.16.0/bin/python

Same model, prompts, group size, response length, updates per rollout, float32, threads. A child
process trains some timed rollouts, with the small model after an untimed one, and prints a JSON
line. CPU seconds stand beside wall seconds: on a machine that others use too, they are the ones to
compare.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DROP = "erclip, groups dropped"  # its default: no update on a group whose rewards are all equal
SYSTEMS = ("erclip", "erclip without ERC", DROP, "TRL")

SETUPS: dict[str, dict] = {
    "embedded": {
        "prompts": 64,
        "responses": 8,
        "max_tokens": 24,
        "updates": 8,
        "warmup": 1,
        "timed": 4,
        "prompt_repeats": 0,
    },
    "embedded-32": {
        "prompts": 64,
        "responses": 8,
        "max_tokens": 24,
        "updates": 32,
        "warmup": 1,
        "timed": 4,
        "prompt_repeats": 0,
    },
    "smollm2": {
        "prompts": 4,
        "responses": 8,
        "max_tokens": 64,
        "updates": 2,
        "warmup": 0,
        "timed": 1,
        "prompt_repeats": 6,
    },
    "smollm2-short": {  # a quarter of the work, for a busy machine
        "prompts": 2,
        "responses": 8,
        "max_tokens": 32,
        "updates": 2,
        "warmup": 0,
        "timed": 1,
        "prompt_repeats": 2,
    },
}
EMBEDDED = ("embedded", "embedded-32")
COLUMNS = (
    *("date", "commit", "hardware", "threads", "versions", "setup", "change", "system", "rounds"),
    *("rollout_cpu_s", "rollout_cpu_min_s", "rollout_cpu_max_s", "rollout_wall_s"),
    *("sample_s", "score_s", "update_s", "tokens", "tokens_per_cpu_s", "peak_rss_mib", "skipped"),
)


def child(system: str, setup: dict, args: argparse.Namespace) -> dict:
    """One measurement in a process of its own."""
    script = HERE / ("train_trl.py" if system == "TRL" else "train_erclip.py")
    python = args.trl_python if system == "TRL" else sys.executable
    job = {**setup, "erc": system != "erclip without ERC", "drop": system == DROP}
    job["threads"] = args.threads
    run = subprocess.run(
        [str(python), str(script), json.dumps(job)],
        env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        return {"skipped": (run.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(run.stdout.strip().splitlines()[-1])


def variants(name: str, args: argparse.Namespace) -> list[tuple[str, dict]]:
    """The set-up itself, or its cost curve: one thing multiplied at a time."""
    setup = {**SETUPS[name], "model": "embedded" if name in EMBEDDED else str(args.smollm2)}
    if not args.curve:
        return [("", setup)]
    found = [(f"responses × {m}", {**setup, "prompts": setup["prompts"] * m}) for m in (1, 2, 4, 8)]
    found += [
        (f"length × {m}", {**setup, "max_tokens": setup["max_tokens"] * m, "fixed_length": True})
        for m in (1, 2, 4)
    ]
    found += [
        (f"vocabulary × {m}", {**setup, "vocabulary_times": m, "fixed_length": True})
        for m in (1, 64, 256, 1024)
    ]
    return [(change, {**job, "timed": 2}) for change, job in found]


def summary(runs: list[dict]) -> dict:
    """Medians over the rounds; the spread of the one that is compared."""
    good = [run for run in runs if "skipped" not in run]
    if not good:
        return {"skipped": runs[0]["skipped"]}
    cpu = [run["rollout_cpu_s"] for run in good]
    row = {key: median(run[key] for run in good) for key in good[0] if key != "versions"}
    return {
        **{key: f"{value:.4g}" for key, value in row.items()},
        "rollout_cpu_min_s": f"{min(cpu):.4g}",
        "rollout_cpu_max_s": f"{max(cpu):.4g}",
        "versions": good[0]["versions"],
        "rounds": len(good),
    }


def others(out: Path, measured: list[str]) -> list[dict]:
    """Recorded rows of set-ups that are not measured this time: they stay."""
    if not out.is_file():
        return []
    with out.open() as file:
        return [row for row in csv.DictReader(file) if row["setup"] not in measured]


def main() -> None:
    from machine import measured_on

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--setup", nargs="+", choices=SETUPS, default=["embedded", "embedded-32", "smollm2"]
    )
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--curve", action="store_true", help="how the cost grows, erclip only")
    parser.add_argument("--smollm2", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--trl-python", type=Path, default=Path(".venv-trl-1.16.0/bin/python"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    todo = [
        (name, change, setup, system)
        for name in args.setup
        for change, setup in variants(name, args)
        for system in (args.systems if not args.curve else ["erclip"])
        if system != DROP or name in EMBEDDED  # no group of the others is without advantage
    ]
    runs: dict[int, list[dict]] = {i: [] for i in range(len(todo))}
    for round_ in range(args.rounds):
        for i in list(runs)[:: 1 if round_ % 2 == 0 else -1]:
            name, change, setup, system = todo[i]
            runs[i].append(child(system, setup, args))
            result = runs[i][-1]
            told = result.get("skipped") or f"{result['rollout_cpu_s']:.2f} CPU s a rollout"
            print(f"round {round_ + 1}: {name} {change} {system}: {told}", flush=True)
    common = {**measured_on(), "threads": args.threads}
    rows = [
        {**common, "setup": name, "change": change, "system": system, **summary(runs[i])}
        for i, (name, change, _, system) in enumerate(todo)
    ]
    out = args.out or RESULTS / ("train_curve.csv" if args.curve else "train.csv")
    rows += others(out, args.setup)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(out)


if __name__ == "__main__":
    main()
