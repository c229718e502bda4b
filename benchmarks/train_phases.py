"""What each phase of a rollout costs beside its own bare matrix products, in CPU seconds.

The products of one rollout are recorded by shape: those of linear layers, of attention (scores and
values, and their four gradients) and of the head. Then they are done alone, on other numbers, after
every measured rollout; ratios are taken rollout by rollout. What is left is everything else:
softmax, norms, rotary embeddings, gates, copies, the optimiser, PyTorch's and Python's own work.

    OMP_NUM_THREADS=1 python benchmarks/train_phases.py [--rollouts 20]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from erclip.config.recipes import load_recipe
from erclip.runs.work import Phase, Work
from erclip.training.trainer import Trainer
from machine import measured_on, write_rows
from train import SETUPS
from train_erclip import settings

RESULTS = Path(__file__).parent / "results"
RECORDED = 2  # the rollout whose products are taken down; the one before it warms up
Layout = tuple[tuple[int, ...], tuple[int, ...]]
Product = tuple[str, Layout, Layout]


class Phases(Work):
    """CPU seconds by phase; what belongs to none is bookkeeping."""

    def __init__(self) -> None:
        self.phase = "bookkeeping"
        self.seconds: dict[str, float] = defaultdict(float)
        self._since = time.process_time()

    def begin(self, phase: Phase | str, total: int = 0, unit: str = "") -> None:
        now = time.process_time()
        self.seconds[self.phase] += now - self._since
        self.phase, self._since = phase, now

    def restart(self) -> dict[str, float]:
        """What has been counted so far; counting begins anew."""
        self.begin("bookkeeping")
        found, self.seconds = dict(self.seconds), defaultdict(float)
        self._since = time.process_time()
        return found


class Products(TorchDispatchMode):
    """Takes down the operands of every matrix product, by phase."""

    def __init__(self, phases: Phases):
        super().__init__()
        self.found: dict[str, list[Product]] = defaultdict(list)
        self._phases = phases

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [value for value in args if isinstance(value, Tensor)]
        if name in ("mm", "bmm"):
            self._note(name, *tensors[:2])
        elif name in ("addmm", "addmm_", "baddbmm"):
            self._note("bmm" if name == "baddbmm" else "mm", *tensors[1:3])
        elif "attention" in name and name.endswith("backward"):
            self._attention(*tensors[1:3], times=(1, 3))
        elif "attention" in name:
            self._attention(*tensors[:2], times=(1, 1))
        elif name == "head_forward":
            self._note("mm", tensors[0], tensors[1].T)
        elif name == "head_backward":
            hidden, weight = tensors[:2]
            logits = hidden.new_empty((len(hidden), len(weight)))  # they were kept
            self._note("mm", logits, weight)
            self._note("mm", logits.T, hidden)
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, a: Tensor, b: Tensor) -> None:
        product = name, (tuple(a.shape), a.stride()), (tuple(b.shape), b.stride())
        self.found[self._phases.phase].append(product)

    def _attention(self, q: Tensor, k: Tensor, times: tuple[int, int]) -> None:
        """Products like queries · keys, and like weights · values, for every sequence and head."""
        queries, keys = (x.new_empty(x.shape).flatten(0, 1) for x in (q, k))
        weights = q.new_empty((len(queries), queries.shape[1], keys.shape[1]))
        for _ in range(times[0]):
            self._note("bmm", queries, keys.transpose(1, 2))
        for _ in range(times[1]):
            self._note("bmm", weights, keys)


def replay(products: dict[str, list[Product]]) -> Callable[[], dict[str, float]]:
    """A function that does the products alone and says how many CPU seconds each phase's took."""
    held: dict[Layout, Tensor] = {}

    def operand(layout: Layout) -> Tensor:
        shape, stride = layout
        if layout not in held:
            size = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
            held[layout] = torch.randn(max(size, 1)).as_strided(shape, stride)
        return held[layout]

    work = {
        phase: [(getattr(torch, name), operand(a), operand(b)) for name, a, b in found]
        for phase, found in products.items()
    }

    def run() -> dict[str, float]:
        seconds = {}
        for phase, jobs in work.items():
            started = time.process_time()
            for product, a, b in jobs:
                product(a, b)
            seconds[phase] = time.process_time() - started
        return seconds

    return run


class Watch:
    """Lets the products of one rollout be recorded, and replays them after each that is timed."""

    def __init__(self, phases: Phases):
        self.phases, self.products = phases, Products(phases)
        self.measured: list[tuple[dict[str, float], dict[str, float]]] = []
        self._replay: Callable[[], dict[str, float]] | None = None

    def on_log(self, kind: str, rollout: int, metrics: dict[str, float]) -> None:
        if kind != "rollout":
            return
        seconds = self.phases.restart()
        if rollout == RECORDED - 1:
            self.products.__enter__()
        elif rollout == RECORDED:
            self.products.__exit__(None, None, None)
            self._replay = replay(self.products.found)
        elif self._replay is not None:
            self.measured.append((seconds, self._replay()))
        self.phases.restart()


def rows(measured: list[tuple[dict[str, float], dict[str, float]]]) -> list[dict[str, str]]:
    """Medians by phase and for the whole rollout; quartiles of the ratio where there are products.

    >>> rows([({"scoring": 3.0}, {"scoring": 1.0})] * 2)[1]["ratio"]
    '3.00'
    """
    found = []
    for name in [*measured[0][0], "rollout"]:
        pairs = [
            (sum(spent.values()), sum(products.values()))
            if name == "rollout"
            else (spent.get(name, 0.0), products.get(name, 0.0))
            for spent, products in measured
        ]
        ratios = quantiles([a / b for a, b in pairs], n=4) if all(b for _, b in pairs) else ()
        row = {
            "phase": name,
            "cpu_ms": f"{1e3 * median(a for a, _ in pairs):.1f}",
            "products_ms": f"{1e3 * median(b for _, b in pairs):.1f}",
        }
        low, middle, high = (f"{ratio:.2f}" for ratio in ratios) if ratios else ("", "", "")
        found.append({**row, "ratio": middle, "ratio_q25": low, "ratio_q75": high})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "train_phases.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    job = {**SETUPS["embedded"], "model": "embedded", "erc": True}
    job |= {"warmup": RECORDED, "timed": args.rollouts}
    phases = Phases()
    watch = Watch(phases)
    with tempfile.TemporaryDirectory() as name:
        recipe = load_recipe("quickstart", settings(job, Path(name)))
        Trainer(recipe, Path(name) / "run", watch, work=phases).train()
    common = {
        **measured_on(),
        "torch": torch.__version__,
        "rollouts": args.rollouts,
    }
    table = [{**common, **row} for row in rows(watch.measured)]
    for row in table:
        print({key: value for key, value in row.items() if key not in common})
    write_rows(args.out, table)


if __name__ == "__main__":
    main()
