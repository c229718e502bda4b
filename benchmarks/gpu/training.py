"""SmolLM2 trained on word problems end to end: what each phase of a rollout costs, by method.

One run after the other, each with its part of the time; a row per rollout, of which the first
warms up. Tokens a second are response tokens, by phase: sampling, scoring with the old policy, and
updates (forward and backward passes and AdamW).
"""

from __future__ import annotations

import gc
import json
import runpy
import sys
import tempfile
import time
from pathlib import Path

import torch
from rows import Rows
from step import OUT_OF_TIME, Task, told

from erclip.config.recipes import load_recipe
from erclip.training.producers import InTurns
from erclip.training.sampling import TransformersSampler
from erclip.training.sampling.decoder import Decoder
from erclip.training.trainer import Trainer

STUDIES = Path(__file__).parent.parent.parent / "studies"
METHODS = {  # constraints, as TOML
    "ERC-DAPO": '["entropy_ratio_clip"]',
    "directional ERC-DAPO": '[{kind = "entropy_ratio_clip", rule = "directional"}]',
    "DAPO": "[]",
}
TRUNKS = {
    "float32": {"model.dtype": "float32"},
    "bf16": {"model.dtype": "bfloat16"},
    "autocast": {"model.dtype": "float32", "model.autocast": "bfloat16"},
}
RUNS = (  # method, trunk, how the sampler decodes
    ("ERC-DAPO", "float32", "growing"),
    ("ERC-DAPO", "float32", "fixed"),
    ("ERC-DAPO", "autocast", "fixed"),
    ("directional ERC-DAPO", "float32", "fixed"),
    ("DAPO", "float32", "fixed"),
    ("ERC-DAPO", "bf16", "fixed"),
)
COLUMNS = (
    *("rollout_s", "sample_s", "grade_s", "score_s", "update_s", "tokens"),
    *("sample_tokens_per_s", "score_tokens_per_s", "update_tokens_per_s", "peak_gib"),
    *("accuracy", "reward", "entropy", "erc_clipped_frac", "erc_rounding_frac", "sampler_gap"),
)
WORK = {
    "rollout.prompts": 64,
    "rollout.responses": 8,
    "sampler.max_tokens": 96,
    "sampler.batch_size": 512,
    "trainer.updates_per_rollout": 8,
    "trainer.token_budget": 32_768,
}
TINY = {
    "rollout.prompts": 2,
    "rollout.responses": 2,
    "sampler.max_tokens": 4,
    "sampler.batch_size": 4,
    "trainer.updates_per_rollout": 2,
    "trainer.token_budget": 512,
}


class Enough(Exception):
    """The run has its rollouts, or its time is up."""


class Clock:
    """Writes a row per rollout, with the clip share of its updates, and ends the run in time."""

    def __init__(self, rows: Rows, key: tuple[str, str, str], until: float):
        self.rows, self.key, self.until = rows, key, until
        self.clipped: list[float] = []
        self.peak = 0.0

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        if kind == "update":
            self.clipped.append(metrics["clip/erc_frac"])
        if kind != "rollout":
            return
        tokens = metrics["train/responses"] * metrics["train/response_length"]
        phases = {name: metrics[f"time/{name}_s"] for name in ("sample", "score", "update")}
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        self.rows.add(
            *(*self.key, rollout),
            **{f"{name}_s": f"{seconds:.3f}" for name, seconds in phases.items()},
            **{f"{n}_tokens_per_s": f"{tokens / s:.0f}" for n, s in phases.items()},
            rollout_s=f"{metrics['time/rollout_s']:.3f}",
            grade_s=f"{metrics['time/grade_s']:.3f}",
            tokens=f"{tokens:.0f}",
            peak_gib=f"{peak / 2**30:.2f}",
            accuracy=f"{metrics['train/accuracy']:.3f}",
            reward=f"{metrics['train/reward']:.3f}",
            entropy=f"{metrics['policy/entropy']:.4f}",
            erc_clipped_frac=f"{sum(self.clipped) / max(1, len(self.clipped)):.4f}",
            erc_rounding_frac=metrics.get("erc/rounding_frac", ""),
            sampler_gap=f"{metrics['sampler/logprob_diff']:.2e}",
        )
        self.clipped = []
        if time.monotonic() > self.until:
            raise Enough


def settings(task: Task, folder: Path, method: str, trunk: str) -> list[str]:
    problems = folder / "problems.jsonl"
    runpy.run_path(str(STUDIES / "word_problems.py"))["main"](problems)
    values = {
        **(TINY if task.tiny else WORK),
        **TRUNKS[trunk],
        "model.path": str(task.model),
        "model.device": task.device,
        "data.path": str(problems),
        "data.last_number": True,
        "data.instruction": "Answer in one short sentence.",
        "trainer.rollouts": 2 if task.tiny else 50,
        "trainer.learning_rate": 1e-6,
        "trainer.saved_samples": 0,
        "rollout.dynamic_sampling": "off",
        "eval.prompts": 1,
        "eval.responses": 1,
        "eval.max_tokens": 1,
    }
    texts = {key: json.dumps(value) for key, value in values.items()}
    return [f"{k}={v}" for k, v in {**texts, "loss.constraints": METHODS[method]}.items()]


def main(task: Task) -> int:
    if not (task.model / "config.json").is_file():
        sys.exit("There is no model: an earlier step has to make it.")
    rows = Rows(task.out / "training.csv", ("method", "trunk", "decoding", "rollout"), COLUMNS)
    todo = [run for run in RUNS if not rows.has(*run, 2)]
    for number, run in enumerate(todo):
        share = task.left() / (len(todo) - number)
        if task.left() < 10:
            return OUT_OF_TIME
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as name:
            clock = Clock(rows, run, time.monotonic() + 0.8 * share)
            recipe = load_recipe("quickstart", settings(task, Path(name), *run[:2]))
            trainer = Trainer(recipe, Path(name) / "run", clock)
            decoder = Decoder(trainer.policy.model, fixed=run[2] == "fixed")
            assert isinstance(trainer.producer, InTurns)
            assert isinstance(trainer.producer.sampler, TransformersSampler)
            trainer.producer.sampler._decoder = decoder
            print(*run, f"fixed buffers: {decoder.fixed}", flush=True)
            try:
                trainer.train()
            except Enough:
                print(*run, "enough", flush=True)
            except RuntimeError as error:  # the next run may do
                print(*run, f"failed: {error}", flush=True)
            del trainer
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main(told(__doc__)))
