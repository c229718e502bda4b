"""Sampler and trainer beside each other against in turns, on the same threads, one after the other.

    python benchmarks/overlap.py --model models/smollm2 --threads 2 --repeats 5 --record

Modes take turns, so that a busy machine is busy for all. A rate is the response tokens trained on
per second of wall time, from the end of the warm-up to the end of the run, evaluation left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import transformers

import erclip
from erclip.config.recipes import load_recipe
from erclip.training.trainer import Trainer
from machine import measured_on
from train_erclip import settings

RESULTS = Path(__file__).parent / "results" / "overlap.csv"
MODES = {
    "in turns": [],
    "in turns, one behind": ["rollout.staleness=1"],
    "beside, one behind": ["rollout.staleness=1", "rollout.overlap=true"],
    "beside, two behind": ["rollout.staleness=2", "rollout.overlap=true"],
}
JOB = {"erc": True, "warmup": 2, "updates": 4, "drop": False}


class Clock:
    """When each rollout ended, and what it said."""

    def __init__(self) -> None:
        self.lines: list[dict] = []

    def on_log(self, kind: str, rollout: int, metrics: dict) -> None:
        if kind == "rollout":
            self.lines.append({**metrics, "wall": time.perf_counter()})


def measure(job: dict) -> dict:
    """One run in this process."""
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), Clock()
        chosen = [*settings(job, folder), *MODES[job["mode"]], *job["set"]]
        recipe = load_recipe("quickstart", chosen)
        Trainer(recipe, folder / "run", clock).train()
    begin, *timed = clock.lines[job["warmup"] - 1 :]
    tokens = sum(line["train/responses"] * line["train/response_length"] for line in timed)
    return {
        "tokens_per_s": tokens / (timed[-1]["wall"] - begin["wall"]),
        "rollout_s": (timed[-1]["wall"] - begin["wall"]) / len(timed),
        "trainer_wait_frac": mean(timed, "time/trainer_wait_frac"),
        "sampler_wait_frac": mean(timed, "time/sampler_wait_frac"),
        "staleness_updates": mean(timed, "staleness/mean"),
    }


def mean(lines: list[dict], name: str) -> float:
    return sum(line.get(name, 0.0) for line in lines) / len(lines)


def in_a_process(job: dict) -> dict:
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--threads", type=int, default=2, help="of a run, its sampler's included")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rollouts", type=int, default=6, help="timed, after two of warm-up")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument(
        "--mode", action="append", choices=[*MODES][1:], help="only this one beside 'in turns'"
    )
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for every mode")
    parser.add_argument("--record", action="store_true", help=f"append to {RESULTS.name}")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        print(json.dumps(measure(json.loads(asked.job))))
        return
    plain = asked.model == "embedded"
    job = {
        **JOB, "model": asked.model, "threads": asked.threads, "timed": asked.rollouts,
        "prompts": asked.prompts, "responses": asked.responses, "max_tokens": asked.max_tokens,
        "prompt_repeats": 0 if plain else 1, "fixed_length": plain, "set": asked.set,
    }  # fmt: skip
    modes = ["in turns", *asked.mode] if asked.mode else [*MODES]
    found: dict[str, list[dict]] = {mode: [] for mode in modes}
    for repeat in range(asked.repeats):
        for mode in modes:
            row = in_a_process({**job, "mode": mode})
            found[mode].append(row)
            rate = f"{row['tokens_per_s']:.1f} tokens/s"
            print(f"{repeat + 1}/{asked.repeats} {mode}: {rate}", flush=True)
    rows = [summary(mode, found, job) for mode in modes]
    for row in rows:
        print(f"{row['mode']}: {row['tokens_per_s']} tokens/s, {row['gain']} × in turns")
    if asked.record:
        record(rows)


def summary(mode: str, found: dict[str, list[dict]], job: dict) -> dict:
    """Medians over the repeats; the gain is of pairs that ran one after the other."""
    rates = [row["tokens_per_s"] for row in found[mode]]
    turns = [row["tokens_per_s"] for row in found["in turns"]]
    gains = sorted(a / b for a, b in zip(rates, turns, strict=True))
    middle = {key: f"{median(row[key] for row in found[mode]):.3g}" for key in found[mode][0]}
    return {
        **measured_on(),
        "versions": f"erclip {erclip.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        "model": Path(job["model"]).name,
        **{key: job[key] for key in ("threads", "prompts", "responses", "max_tokens")},
        "set": " ".join(job["set"]),
        "mode": mode,
        "repeats": len(rates),
        **middle,
        "gain": f"{median(gains):.3f}",
        "gain_low": f"{gains[0]:.3f}",
        "gain_high": f"{gains[-1]:.3f}",
    }


def record(rows: list[dict]) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
