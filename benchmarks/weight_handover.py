"""Seconds to hand weights over: a mapped file (`training.weight_handover`) against safetensors.

    python benchmarks/weight_handover.py --mib 513

The two take turns; both write into the temporary folder and read into tensors that are there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from erclip.training.weight_handover import SharedWeights
from machine import hardware

TENSORS = 30


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mib", type=int, default=513, help="of float32 weights; SmolLM2's are 513"
    )
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size = asked.mib * 2**18 // TENSORS
    source = {str(i): torch.randn(size) for i in range(TENSORS)}
    target = {name: torch.empty_like(tensor) for name, tensor in source.items()}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, scratch = folder / "weights.safetensors", folder / "partial"
        ours, theirs = SharedWeights(folder, source), SharedWeights(folder, target)

        def save() -> None:
            save_file(source, scratch)
            scratch.replace(file)

        def load() -> None:
            with safe_open(file, "pt") as found:
                for key, tensor in target.items():
                    tensor.copy_(found.get_tensor(key))

        steps = {
            "mapped, write": lambda: ours.write(source, 0),
            "mapped, read": lambda: theirs.read(target),
            "safetensors, write": save,
            "safetensors, read": load,
        }
        for _ in range(asked.repeats + 1):
            for step, work in steps.items():
                times.setdefault(step, []).append(seconds(work))
    print(
        f"{hardware()}, {asked.mib} MiB, one thread, median of {asked.repeats}, the first left out"
    )
    for step, found in times.items():
        print(f"{step}: {median(found[1:]):.2f} s ({min(found[1:]):.2f} to {max(found[1:]):.2f})")


if __name__ == "__main__":
    main()
