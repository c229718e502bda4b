"""What diagnostics cost: rollouts of the quickstart without recorder, with it, and with a ledger.

The three take turns on the same weights and prompts; each round gives a ratio to the bare rollout,
in seconds of this process (a busy machine slows all three alike). Prints medians and quartiles, and
beside them the share of the time that was spent in the recorder itself, which is less noisy but
leaves out the slopes that a recorded update computes. Last comes the share of one measurement of
`erc/rounding_frac` in ten rollouts.

    python benchmarks/diagnostics_cost.py [ROUNDS]
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from erclip.config.recipes import load_recipe
from erclip.training import rounding
from erclip.training.recorder import Recorder
from erclip.training.scored_rollout import ScoredRollout
from erclip.training.trainer import Trainer

FROZEN = ["trainer.learning_rate=1e-12", "eval.prompts=1"]  # every rollout is the same work
QUIET, SHOWN = (3, 5, 6, 7, 9), (1, 2, 4, 8, 16)  # rollouts without and with lines in tokens.jsonl


class Bare:
    """A recorder that does nothing."""

    def begin(self, *rollout: object) -> None: ...

    @contextmanager
    def update(self, *places: object):
        yield None

    def end(self) -> None: ...


class Timed(Recorder):
    """Counts the seconds that its own methods take."""

    own_s = 0.0

    def begin(self, rollout: ScoredRollout) -> None:
        start = time.process_time()
        super().begin(rollout)
        self.own_s += time.process_time() - start

    @contextmanager
    def update(self, *places):
        with super().update(*places) as watch:
            yield watch
            start = time.process_time()
        self.own_s += time.process_time() - start

    def end(self) -> None:
        start = time.process_time()
        super().end()
        self.own_s += time.process_time() - start


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe("quickstart", FROZEN)
        trainer = Trainer(recipe, Path(folder) / "run")
        assert trainer.run is not None
        recorders = {"bare": Bare()}
        for every in (0, 10):
            config = load_recipe("quickstart", [*FROZEN, f"ledger.every={every}"]).config
            recorders[f"ledger.every={every}"] = Timed(
                config, trainer.policy.tokenizer, trainer.run.path
            )
        for recorder in recorders.values():  # warm caches, import pyarrow
            seconds(trainer, QUIET[:2], recorder)
        measuring = time_rounding()
        for name, rollouts in (("most rollouts", QUIET), ("1, 2, 4, 8, …", SHOWN)):
            ratios: dict[str, list[float]] = {name: [] for name in recorders}
            total = dict.fromkeys(recorders, 0.0)
            before = {name: getattr(r, "own_s", 0.0) for name, r in recorders.items()}
            for _ in range(rounds):
                order = random.sample(list(recorders), len(recorders))
                spent = {v: seconds(trainer, rollouts, recorders[v]) for v in order}
                for variant, value in spent.items():
                    ratios[variant].append(value / spent["bare"])
                    total[variant] += value
            for variant, values in ratios.items():
                low, middle, high = statistics.quantiles(values, n=4)
                own = getattr(recorders[variant], "own_s", 0.0) - before[variant]
                times = f"{middle:.4f} ({low:.4f} to {high:.4f})"
                print(f"{name}: {variant}: {times}, in the recorder {own / total[variant]:.4f}")
        share = statistics.median(measuring) / (10 * total["bare"] / (rounds * len(SHOWN)))
        print(f"erc/rounding_frac, one rollout in ten: {share:.4f}")


def time_rounding() -> list[float]:
    """Seconds of every measurement from now on."""
    spent, measure = [], rounding.rounding_share

    def timed(*arguments):
        start = time.process_time()
        found = measure(*arguments)
        spent.append(time.process_time() - start)
        return found

    rounding.rounding_share = timed  # ty: ignore[invalid-assignment]
    return spent


def seconds(trainer: Trainer, rollouts: tuple[int, ...], recorder: object) -> float:
    """Seconds of five rollouts of 8 updates: exactly four of them are a tenth one."""
    trainer.recorder = recorder  # ty: ignore[invalid-assignment]
    trainer.state.stream.position, trainer.state.counters.updates = 0, 0
    start = time.process_time()
    for number in rollouts:
        trainer.producer.ask(number)
        trainer._begin_rollout()
        assert trainer.state.current is not None
        trainer._finish_rollout(trainer.state.current)
    return time.process_time() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
