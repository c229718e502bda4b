"""Run a script of lives: each trains, or resumes, until it is done or SIGKILLs itself at a moment.

`python lives.py` reads one JSON task per line from standard input and answers each with a line. A
life is a fork of this process, which has imported everything and loaded a model once: it costs what
the training costs. A moment is one call of a function that changes something on the disk or in the
weights; killing before the n-th call leaves whatever the calls before it left, inside it half of
what it writes.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import erclip.training.producers
from erclip.config import ModelConfig
from erclip.config.model import Lora
from erclip.config.recipes import load_recipe
from erclip.errors import UserError
from erclip.machine.interrupts import Stopped
from erclip.runs.run_dir import RunDir
from erclip.training.checkpoints.resuming import resumed_recipe
from erclip.training.policy import load_policy
from erclip.training.trainer import Trainer
from erclip.training.updates import Updater

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults import Faults  # ty: ignore[unresolved-import]

TINY = [
    "rollout.prompts=6", "rollout.responses=4", "sampler.max_tokens=10", "trainer.rollouts=3",
    "trainer.updates_per_rollout=3", "trainer.epochs=2", "trainer.warmup_updates=3",
    "trainer.learning_rate=1e-3", "eval.prompts=6", "eval.responses=2", "eval.every=1",
    "checkpoint.every=1", "checkpoint.every_updates=2", "trainer.saved_samples=4",
    "rollout.dynamic_sampling=off", 'loss.constraints=["entropy_ratio_clip", '
    '{kind="random_mask", rate=0.3}]',
]  # fmt: skip


class Moments(Faults):
    """File operations, and what changes the weights or the record of a run."""

    def __init__(self, task: dict):
        super().__init__(task.get("moment"), task.get("inside", False), task.get("signal", 9))
        for owner, name in (
            (erclip.training.producers, "collect"),
            (Updater, "update"),
            (RunDir, "log"),
            (RunDir, "log_samples"),
        ):
            setattr(owner, name, self.watched(getattr(owner, name), name))


def live(task: dict) -> None:
    moments = Moments(task)
    out = Path(task["run"])
    resume = (out / "config.json").exists()
    overrides = task.get("overrides", [])
    recipe = (
        resumed_recipe(out, overrides) if resume else load_recipe("quickstart", [*TINY, *overrides])
    )
    said: list[str] = []
    Trainer(recipe, out, resume=resume, log=said.append).train()
    if "report" in task:
        Path(task["report"]).write_text(json.dumps({"moments": moments.seen, "said": said}))


def main() -> None:
    load_policy(ModelConfig(lora=Lora(rank=2)))  # and all that this imports and compiles
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
