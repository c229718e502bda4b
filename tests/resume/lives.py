"""Run a script of lives: each trains, or resumes, until it is done or SIGKILLs itself at a moment.

`python lives.py` reads one JSON task per line from standard input and answers each with a line. A
life is a fork of this process, which has imported everything but used none of it: it costs what the
training costs. A moment is one call of a function that changes something on the disk or in the
weights; killing before the n-th call leaves whatever the calls before it left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import safetensors.torch

import erclip.checkpoints.rollout_files
import erclip.checkpoints.training_state
import erclip.policy.adapters
import erclip.producers
from erclip.checkpoints.resuming import resumed_recipe
from erclip.errors import UserError
from erclip.interrupts import Stopped
from erclip.recipes import load_recipe
from erclip.run_dir import RunDir
from erclip.trainer import Trainer
from erclip.updates import Updater

TINY = [
    "rollout.prompts=6", "rollout.responses=4", "sampler.max_tokens=10", "trainer.rollouts=3",
    "trainer.updates_per_rollout=3", "trainer.epochs=2", "trainer.warmup_updates=3",
    "trainer.learning_rate=1e-3", "eval.prompts=6", "eval.responses=2", "eval.every=1",
    "checkpoint.every=1", "checkpoint.every_updates=2", "trainer.saved_samples=4",
    "rollout.dynamic_sampling=off", 'loss.constraints=["entropy_ratio_clip", '
    '{kind="random_mask", rate=0.3}]',
]  # fmt: skip


class Moments:
    """Counts what happens, and ends the process at one of them."""

    def __init__(self, last: int | None, by: int = signal.SIGKILL):
        self.seen: list[str] = []
        self.last, self.by = last, by
        for owner, name in (
            (os, "fsync"),
            (Path, "rename"),
            (Path, "replace"),
            (safetensors.torch, "save_file"),
            (erclip.checkpoints.training_state, "save_file"),
            (erclip.policy.adapters, "save_file"),
            (erclip.checkpoints.rollout_files, "save_file"),
            (erclip.producers, "collect"),
            (Updater, "update"),
            (RunDir, "log"),
            (RunDir, "log_samples"),
        ):
            setattr(owner, name, self._watched(getattr(owner, name), name))

    def _watched(self, function, name):
        def watched(*args, **kwargs):
            self.seen.append(name)
            if len(self.seen) == self.last:
                os.kill(os.getpid(), self.by)
            return function(*args, **kwargs)

        return watched


def live(task: dict) -> None:
    moments = Moments(task.get("moment"), task.get("signal", signal.SIGKILL))
    out = Path(task["run"])
    resume = (out / "config.json").exists()
    overrides = task.get("overrides", [])
    recipe = (
        resumed_recipe(out, overrides) if resume else load_recipe("quickstart", [*TINY, *overrides])
    )
    said: list[str] = []
    Trainer(recipe, out, resume=resume, say=said.append).train()
    if "report" in task:
        Path(task["report"]).write_text(json.dumps({"moments": moments.seen, "said": said}))


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                live(json.loads(line))
                code = 0
            except Stopped as stopped:
                code = stopped.exit_code
            except UserError as error:
                print(error, file=sys.stderr)
                code = 2
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(status), flush=True)


if __name__ == "__main__":
    main()
